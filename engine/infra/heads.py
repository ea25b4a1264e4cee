"""Heads of requests: how long they may be, and how one is written again for somebody else."""

from __future__ import annotations

import httptools

from engine.infra.errors import HeadersTooLarge, Invalid, Problem, UriTooLong

HEAD_BYTES_MAX = 16_384  # of request line and headers; also how much is parsed in one go
HEADERS_MAX = 100
URL_BYTES_MAX = 8_192

Headers = list[tuple[bytes, bytes]]


def size(url: bytes, headers: Headers) -> int:
    """Bytes of it, about."""
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


def objection(
    method: str, url: bytes, version: str, headers: Headers, heard: int
) -> Problem | None:
    """Why a whole head is not taken, of which no more than `heard` bytes came; None if it is."""
    if len(url) > URL_BYTES_MAX:
        return UriTooLong()
    if len(headers) > HEADERS_MAX or (
        heard > HEAD_BYTES_MAX and size(url, headers) > HEAD_BYTES_MAX
    ):
        return HeadersTooLarge()
    if version != "1.1" and (
        version != "1.0" or any(name == b"transfer-encoding" for name, _ in headers)
    ):
        return Invalid(f"HTTP/1.1 is spoken here, not HTTP/{version} like this")
    return Invalid("This is no proxy") if method == "CONNECT" else None


def objection_unfinished(url: bytes, headers: Headers, heard: int) -> Problem | None:
    """The same of a head that is still coming."""
    # Of an unfinished line the parser tells nothing: but twice the limit is too much for sure.
    if heard <= 2 * HEAD_BYTES_MAX and size(url, headers) <= HEAD_BYTES_MAX:
        return None
    is_url = len(url) > URL_BYTES_MAX or not (url and headers)
    return UriTooLong() if is_url else HeadersTooLarge()


def has_body(headers: Headers) -> bool:
    """Whether a body comes behind this head."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0") != b"")
        for name, value in headers
    )


def path_and_query(url: bytes) -> tuple[bytes, bytes]:
    """Of a request's target, still encoded. Raises `HttpParserInvalidURLError`."""
    if url[:1] != b"/" or url[:2] == b"//" or b"?" in url or b"#" in url:
        parsed = httptools.parse_url(url)
        return parsed.path, parsed.query or b""
    return url, b""


def without_upgrade(method: str, url: bytes, headers: Headers) -> bytes:
    """A head as if its sender had not offered another protocol."""
    return _written(method, url, "1.1", [each for each in headers if each[0] != b"upgrade"])


def whole(
    method: str, url: bytes, version: str, headers: Headers, body: bytes | bytearray
) -> bytes:
    """A request as it came, but for the case of its headers' names; of chunks it has no more."""
    if any(name == b"transfer-encoding" for name, _ in headers):
        headers = [each for each in headers if each[0] not in (b"transfer-encoding", b"trailer")]
        headers.append((b"content-length", b"%d" % len(body)))
    return _written(method, url, version, headers) + body


def _written(method: str, url: bytes, version: str, headers: Headers) -> bytes:
    lines = [f"{method} ".encode(), url, f" HTTP/{version}\r\n".encode()]
    for name, value in headers:
        lines += [name, b": ", value, b"\r\n"]
    return b"".join([*lines, b"\r\n"])
