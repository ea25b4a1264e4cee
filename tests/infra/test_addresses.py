"""Addresses: whose word is believed, and who is counted together."""

from __future__ import annotations

from typing import Any

import pytest

from engine.infra.addresses import Addresses
from engine.infra.errors import Misconfigured
from engine.infra.settings import read

PROXY, CLIENT = "10.0.0.1", "203.0.113.9"
LIAR = "198.51.100.66"


def _subject(
    peer: str | None, *forwarded: str, trusted: str = "10.0.0.0/8, fd00::/8"
) -> str | None:
    headers = [(b"host", b"x")] + [(b"x-forwarded-for", line.encode()) for line in forwarded]
    scope: dict[str, Any] = {"client": (peer, 1) if peer else None, "headers": headers}
    return Addresses(trusted).subject(scope, dict(headers))


@pytest.mark.parametrize(
    ("peer", "forwarded", "subject"),
    [
        (CLIENT, [], CLIENT),
        (LIAR, [CLIENT], LIAR),  # anybody can send a header
        (PROXY, [CLIENT], CLIENT),
        (PROXY, [f"{LIAR}, {CLIENT}"], CLIENT),  # what a client wrote stands to the left
        (PROXY, [f"{CLIENT}, 10.0.0.7, 10.1.1.1"], CLIENT),
        (PROXY, [LIAR, f"{CLIENT}, 10.0.0.7"], CLIENT),  # a proxy may add a line of its own
        (PROXY, [CLIENT, "10.0.0.7"], CLIENT),
        (PROXY, ["10.0.0.9, 10.0.0.7"], "10.0.0.9"),
        (PROXY, [f"{CLIENT}:4711"], CLIENT),
        (PROXY, ["nonsense"], PROXY),
        (PROXY, [f"{CLIENT}, unknown"], PROXY),
        (PROXY, [""], PROXY),
        (PROXY, [], PROXY),
        (PROXY, [f"nonsense, {CLIENT}"], CLIENT),
        ("fd00::5", ["[2001:db8::1]:99"], "2001:db8::/64"),
        ("::ffff:10.0.0.1", [CLIENT], CLIENT),
        ("::ffff:203.0.113.9", [], CLIENT),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("testclient", [], "testclient"),
    ],
)
def test_a_client_is_the_nearest_address_that_is_no_proxy_of_ours(
    peer: str, forwarded: list[str], subject: str
) -> None:
    assert _subject(peer, *forwarded) == subject


def test_all_addresses_of_one_ipv6_customer_are_counted_together() -> None:
    one = {_subject(f"2001:db8:1:2:{low:x}::{low:x}") for low in range(50)}

    assert one == {"2001:db8:1:2::/64"}
    assert _subject("2001:db8:1:3::1") == "2001:db8:1:3::/64"


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", None])
def test_this_machine_itself_is_not_counted(peer: str | None) -> None:
    assert _subject(peer) is None
    assert _subject(peer, CLIENT) is None


def test_a_proxy_on_this_machine_speaks_for_its_clients_once_it_is_named() -> None:
    assert _subject("127.0.0.1", f"{LIAR}, {CLIENT}", trusted="127.0.0.1") == CLIENT


def test_a_very_long_header_is_read_where_our_proxy_wrote() -> None:
    assert _subject(PROXY, "1, " * 100_000 + CLIENT) == CLIENT


def test_a_list_that_cannot_be_read_is_refused_at_the_start() -> None:
    with pytest.raises(Misconfigured, match=r"TRUSTED_PROXIES: 'proxy.local' is no address"):
        read({"TRUSTED_PROXIES": "10.0.0.0/8, proxy.local"})
