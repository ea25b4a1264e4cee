"""Ids: time-ordered, parsed strictly, and one for each request."""

from __future__ import annotations

import os
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.infra.ids import new_id, parse_id, request_identity, trace_id

Triple = tuple[str, str, str]
TRIPLES = st.tuples(st.text(max_size=6), st.text(max_size=6), st.text(max_size=6))


def test_new_ids_are_of_version_7_and_in_order() -> None:
    ids = [new_id() for _ in range(1_000)]

    assert ids == sorted(set(ids))
    assert {uuid.UUID(id).version for id in ids} == {7}


def test_an_id_is_read_with_and_without_hyphens_and_in_any_case() -> None:
    id = new_id()

    for text in (id, id.upper(), id.replace("-", "")):
        assert str(parse_id(text)) == id


def test_a_fork_calls_its_exchanges_otherwise() -> None:
    """Or requests without a key, of two processes, would be one request."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, trace_id().encode())
        os._exit(0)
    os.waitpid(child, 0)

    assert os.read(reader, 100).decode()[:12] != trace_id()[:12]
    for end in (reader, writer):
        os.close(end)


@pytest.mark.parametrize("wrap", ["{%s}", "urn:uuid:%s", " %s", "%s\n", "%s0", "x%s", "%s\0"])
def test_only_an_id_is_an_id(wrap: str) -> None:
    assert parse_id(wrap % new_id()) is None


@pytest.mark.parametrize("text", ["", "1", "g" * 32, "-" * 36, "٣" * 32, "0" * 31, "0" * 33])
def test_what_is_no_id_is_none(text: str) -> None:
    assert parse_id(text) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c", "k"), ("a", "bc", "k")),
        (("ann", "reserve", "k"), ("ann", "reservek", "")),
        (("1:a", "b", "k"), ("a", "1:b", "k")),
        (("", "a", "b"), ("a", "", "b")),
        (("a1", "b", "k"), ("a", "1b", "k")),
        (("1", "2:ab", "c"), ("12:", "ab", "c")),
        (("é", "a", "k"), ("e\N{COMBINING ACUTE ACCENT}", "a", "k")),
    ],
)
def test_requests_that_look_alike_are_not(one: Triple, other: Triple) -> None:
    assert request_identity(*one) != request_identity(*other)


@given(TRIPLES, TRIPLES)
def test_two_requests_have_one_identity_only_if_they_are_one(one: Triple, other: Triple) -> None:
    assert (request_identity(*one) == request_identity(*other)) == (one == other)


def test_an_identity_is_always_the_same_and_reads_as_a_uuid() -> None:
    identity = request_identity("ann", "reserve", "k")

    assert identity == request_identity("ann", "reserve", "k")
    assert parse_id(identity) is not None


def test_every_exchange_has_a_name_of_its_own() -> None:
    assert len({trace_id() for _ in range(1_000)}) == 1_000
