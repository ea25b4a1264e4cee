"""Addresses: who is behind a connection, and whose requests are counted together.

`X-Forwarded-For` is believed only from TRUSTED_PROXIES: anybody can send one. It is read from the
right, where the nearest proxy wrote, past every proxy we trust, to the first address we do not.
What cannot be read counts as the peer's own.

One IPv6 customer commands a network of 2^64 addresses, so these are counted by their /64; an IPv4
address in IPv6's clothes is that IPv4 address.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from starlette.types import Scope

from engine.infra.errors import Misconfigured

CUSTOMER_BITS = 64  # of an IPv6 address
REMEMBERED = (
    65_536  # peers, and what proxies forwarded: to read an address costs more than to count
)
FORWARDED_MAX = 4_096  # bytes of the header that are read
UNREAD = {b"forwarded", b"x-real-ip", b"via"}  # a proxy speaks for somebody, and not by that header

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def networks(text: str, setting: str = "TRUSTED_PROXIES") -> tuple[Network, ...]:
    """Addresses and networks from a setting's comma list. Raises `Misconfigured`."""
    found = []
    for word in text.split(","):
        if word.strip():
            try:
                found.append(ipaddress.ip_network(word.strip()))
            except ValueError:
                raise Misconfigured(
                    f"{setting}: {word.strip()!r} is no address and no network: "
                    "want a comma list like 10.0.0.0/8, ::1"
                ) from None
    return tuple(found)


class Addresses:
    """Knows the trusted proxies."""

    def __init__(self, trusted: str) -> None:
        self._trusted = networks(trusted)
        self._subject = lru_cache(REMEMBERED)(self._read)
        self._whole = lru_cache(REMEMBERED)(self._write)
        self._vouched = lru_cache(REMEMBERED)(self._trusts_peer) if self._trusted else _nobody

    def subject(self, scope: Scope, headers: dict[bytes, bytes]) -> str | None:
        """Under which name a request's address is counted; None: it is this machine's own."""
        client = scope.get("client")
        if not client:
            return None
        peer = client[0]
        # Only a trusted peer's word is remembered: a stranger could say a new one each time.
        return self._subject(peer, _forwarded(scope, headers) if self._vouched(peer) else b"")

    def client(self, scope: Scope, headers: dict[bytes, bytes]) -> str | None:
        """The same person's whole address, for a log; None: it came by a Unix socket."""
        client = scope.get("client")
        if not client:
            return None
        peer = client[0]
        return self._whole(peer, _forwarded(scope, headers) if self._vouched(peer) else b"")

    def certain(self, scope: Scope, headers: dict[bytes, bytes]) -> Address | None:
        """The same, for who may do something: None where a proxy says what nobody can read."""
        client = scope.get("client")
        if not client:
            return None
        if not self._vouched(client[0]):
            return _address(client[0])
        forwarded = _forwarded(scope, headers)
        if forwarded.strip():
            return self._client(forwarded)
        return None if UNREAD & headers.keys() else _address(client[0])

    def is_loopback(self, scope: Scope) -> bool:
        """Whether the peer is on this machine."""
        client = scope.get("client")
        found = _address(client[0]) if client else None
        return found is not None and found.is_loopback

    def vouched(self, scope: Scope) -> bool:
        """Whether the peer is a proxy whose word counts."""
        return bool(scope.get("client")) and self._vouched(scope["client"][0])

    def _trusts_peer(self, peer: str) -> bool:
        found = _address(peer)
        return found is not None and self._trusts(found)

    def _read(self, peer: str, forwarded: bytes) -> str | None:
        found = self._find(peer, forwarded)
        if found is None:
            return peer
        # A peer on this machine is a proxy that nobody told us of, or somebody who could do worse.
        return None if found.is_loopback else _counted(found)

    def _write(self, peer: str, forwarded: bytes) -> str:
        return str(self._find(peer, forwarded) or peer)

    def _find(self, peer: str, forwarded: bytes) -> Address | None:
        found = _address(peer)
        return found and ((self._client(forwarded) if forwarded else None) or found)

    def _client(self, forwarded: bytes) -> Address | None:
        """The nearest address we do not trust, else the furthest; None: it cannot be read."""
        found = None
        for word in reversed(forwarded.decode("latin-1").split(",")):
            found = _address(word)
            if found is None or not self._trusts(found):
                return found
        return found

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _forwarded(scope: Scope, headers: dict[bytes, bytes]) -> bytes:
    forwarded = headers.get(b"x-forwarded-for", b"")
    if forwarded and len(headers) != len(scope["headers"]):  # it may stand there twice
        lines = [text for name, text in scope["headers"] if name == b"x-forwarded-for"]
        forwarded = b",".join(lines)
    return forwarded[-FORWARDED_MAX:]


def _nobody(_peer: str) -> bool:
    return False


def _address(word: str) -> Address | None:
    """An address as proxies write it: alone, with a port, or in brackets."""
    text = word.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _counted(address: Address) -> str:
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((int(address), CUSTOMER_BITS), strict=False))
