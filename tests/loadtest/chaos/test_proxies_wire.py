"""The protocols' messages are the same however a stream is cut, and whatever is not one passes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from loadtest.chaos import pgwire, respwire

CUTS = st.lists(st.integers(0, 2_000), max_size=30)


def _cut(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return (data[start:stop] for start, stop in pairwise(places))


# ── Postgres ─────────────────────────────────────────────────────────────────────────────────────


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _first(code: int, rest: bytes = b"") -> bytes:
    return struct.pack("!II", len(rest) + 8, code) + rest


KINDS = st.sampled_from([bytes([kind]) for kind in b"PBESQFCdcfXpZDT"])
MESSAGES = st.lists(st.tuples(KINDS, st.binary(max_size=60)), max_size=12)
ENCRYPTION = st.lists(st.sampled_from(sorted(pgwire.ENCRYPTION)), max_size=2)


@given(ENCRYPTION, MESSAGES, CUTS)
def test_a_client_of_postgres_is_understood_however_its_stream_is_cut(
    asks: list[int], messages: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    wanted = [(pgwire.DECLINE, _first(code)) for code in asks]
    wanted.append((pgwire.START, _first(196_608, b"user\0ann\0\0")))
    wanted += [(kind, _message(kind, body)) for kind, body in messages]
    stream = pgwire.Messages()

    heard = [
        found
        for data in _cut(b"".join(data for _, data in wanted), cuts)
        for found in stream.feed(data)
    ]

    assert heard == wanted


@given(MESSAGES, CUTS)
def test_a_servers_readiness_is_seen_at_its_place_however_its_stream_is_cut(
    messages: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    data, wanted = b"", []
    for kind, body in messages:
        data += _message(kind, body)
        if kind == b"Z":
            wanted.append(len(data))
    stream, heard, passed = pgwire.Ready(), [], 0

    for piece in _cut(data, cuts):
        heard += [passed + end for end in stream.feed(piece)]
        passed += len(piece)

    assert heard == wanted


@given(st.binary(max_size=200), CUTS)
def test_no_byte_of_a_client_of_postgres_is_lost_whatever_it_speaks(
    data: bytes, cuts: list[int]
) -> None:
    stream = pgwire.Messages()
    said = [found for piece in _cut(data, cuts) for found in stream.feed(piece)]

    assert b"".join(message for _, message in said) + stream._kept == data


# ── Redis ────────────────────────────────────────────────────────────────────────────────────────

WORDS = st.lists(st.binary(max_size=40), min_size=1, max_size=6)
LINES = st.lists(st.from_regex(rb"[a-z0-9:]{1,9}", fullmatch=True), max_size=4)


def _asked(words: list[bytes]) -> bytes:
    strings = (b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
    return b"*%d\r\n" % len(words) + b"".join(strings)


@given(st.lists(st.one_of(WORDS.map(_asked), LINES.map(lambda w: b" ".join(w) + b"\r\n"))), CUTS)
def test_a_client_of_redis_is_understood_however_its_stream_is_cut(
    requests: list[bytes], cuts: list[int]
) -> None:
    stream, whole = respwire.Requests(), respwire.Requests()
    pieces = [found for data in _cut(b"".join(requests), cuts) for found in stream.feed(data)]

    assert [piece.data for piece in pieces] == requests
    assert [piece.words for piece in pieces] == [whole.feed(each)[0].words for each in requests]


@given(WORDS)
def test_the_first_words_of_a_request_are_told(words: list[bytes]) -> None:
    [request] = respwire.Requests().feed(_asked(words))

    assert request.words == tuple(words[: respwire.WORDS])


TEXT = st.from_regex(rb"[ -~]{0,20}", fullmatch=True)
VALUES: st.SearchStrategy[bytes] = st.recursive(
    st.one_of(
        st.tuples(st.sampled_from(b"+-:_#,("), TEXT).map(lambda t: bytes([t[0]]) + t[1] + b"\r\n"),
        st.tuples(st.sampled_from(b"$!="), st.binary(max_size=40)).map(
            lambda t: bytes([t[0]]) + b"%d\r\n%s\r\n" % (len(t[1]), t[1])
        ),
        st.sampled_from([b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"%0\r\n", b"~0\r\n"]),
    ),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(b"*~"), st.lists(inner, max_size=4)).map(
            lambda t: bytes([t[0]]) + b"%d\r\n" % len(t[1]) + b"".join(t[1])
        ),
        st.lists(st.tuples(inner, inner), max_size=3).map(
            lambda pairs: b"%%%d\r\n" % len(pairs) + b"".join(k + v for k, v in pairs)
        ),
        st.tuples(inner, inner, inner).map(lambda t: b"|1\r\n" + b"".join(t)),
    ),
    max_leaves=12,
)
PUSHES = st.lists(VALUES, min_size=1, max_size=3).map(lambda v: b">%d\r\n" % len(v) + b"".join(v))
SAID = st.lists(
    st.one_of(st.tuples(st.just(False), VALUES), st.tuples(st.just(True), PUSHES)), max_size=6
)


@given(SAID, CUTS)
def test_replies_and_pushes_of_redis_are_told_apart_however_the_stream_is_cut(
    said: list[tuple[bool, bytes]], cuts: list[int]
) -> None:
    stream: Any = respwire.Replies()
    heard, message = [], b""

    for data in _cut(b"".join(data for _, data in said), cuts):
        for piece in stream.feed(data):
            message += piece.data
            if piece.is_end:
                heard.append((piece.is_push, message))
                message = b""

    assert heard == said
    assert message == b""


@given(st.binary(max_size=200), CUTS)
def test_no_byte_of_redis_or_its_client_is_lost_whatever_they_speak(
    data: bytes, cuts: list[int]
) -> None:
    replies, requests = respwire.Replies(), respwire.Requests()
    answered = asked = b""

    for piece in _cut(data, cuts):
        answered += b"".join(each.data for each in replies.feed(piece))
        asked += b"".join(each.data for each in requests.feed(piece))

    assert answered + replies._line == data
    assert asked + requests._kept == data
