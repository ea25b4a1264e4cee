"""What goes over the edge: times, money, fields with two names, pages, keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from engine.infra.errors import Invalid
from engine.infra.http import Call, cents, either, iso, money, parse_time
from engine.infra.lists import Count, listing, page_of

LEAP_DAY = datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)


def _call(query: str = "", **headers: bytes) -> Call:
    pairs = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    return Call({"type": "http", "query_string": query.encode(), "headers": pairs})


# ── times ────────────────────────────────────────────────────────────────────────────────────────


def test_a_time_is_utc_with_milliseconds_which_are_cut_not_rounded() -> None:
    assert iso(LEAP_DAY) == "2024-02-29T23:59:59.999Z"
    assert iso(datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2)))) == (
        "2023-12-31T22:00:00.000Z"
    )


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)))
def test_a_time_that_was_written_reads_the_same_but_for_microseconds(moment: datetime) -> None:
    aware = moment.replace(tzinfo=UTC)

    again = parse_time("startsAt", iso(aware))

    assert again == aware.replace(microsecond=aware.microsecond // 1_000 * 1_000)


def test_a_time_without_a_zone_is_utc() -> None:
    assert parse_time("startsAt", "2030-01-31T12:00:00") == datetime(2030, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "soon", "2030-13-01", "2030-02-30", "12:00", "9999-12-31T23:59:59-23:59", "\0"]
)
def test_what_is_no_time_is_refused_by_the_fields_name(text: str) -> None:
    with pytest.raises(Invalid, match="startsAt"):
        parse_time("startsAt", text)


# ── money ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("amount", "wanted"),
    [
        ("120", 12_000),
        ("120.5", 12_050),
        ("0.07", 7),
        (0.07, 7),
        (1.1, 110),
        (19.99, 1_999),
        (120, 12_000),
        ("100000000", 10_000_000_000),
    ],
)
def test_money_is_read_to_the_cent(amount: str | float, wanted: int) -> None:
    assert cents("price", amount) == wanted


@pytest.mark.parametrize(
    "amount",
    ["", "free", "NaN", "sNaN", "Infinity", "-1", -0.01, "0.001", 0.001, "100000000.01", 1e308],
)
def test_what_is_no_amount_is_refused(amount: str | float) -> None:
    with pytest.raises(Invalid, match="price"):
        cents("price", amount)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("amount", ["9e999999", "1e999990", "1e-999999", "9" * 60_000])
def test_an_astronomic_amount_is_refused_at_once(amount: str) -> None:
    """To write 1e999990 out as an integer takes a minute, in which the worker does nothing else."""
    with pytest.raises(Invalid, match="price"):
        cents("price", amount)


@given(st.integers(0, 10_000_000_000))
def test_money_that_was_written_reads_the_same(amount: int) -> None:
    written = money(amount)

    assert cents("price", written) == amount
    assert written[-3] == "."


# ── fields ───────────────────────────────────────────────────────────────────────────────────────


def test_a_field_may_be_given_under_either_name_but_not_under_both() -> None:
    assert either("userId", UNSET, "ann") == either("userId", "ann", UNSET) == "ann"
    assert either("userId", UNSET, UNSET) is None
    for twice in (("ann", "ann"), (None, "ann"), (None, None), (0, "")):
        with pytest.raises(Invalid, match="userId"):
            either("userId", *twice)


# ── pages ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("query", "limit", "cursor", "page", "skip"),
    [
        ("", 20, None, None, 0),
        ("limit=1", 1, None, None, 0),
        ("limit=100&cursor=abc", 100, "abc", None, 0),
        ("limit=007", 7, None, None, 0),
        ("page=1", 20, None, 1, 0),
        ("page=3&pageSize=50", 50, None, 3, 100),
        ("page=3&page_size=50", 50, None, 3, 100),
        ("cursor=", 20, None, None, 0),
        ("limit=5&limit=6", 6, None, None, 0),
    ],
)
def test_a_page_is_what_the_query_says(
    query: str, limit: int, cursor: str | None, page: int | None, skip: int
) -> None:
    asked = page_of(_call(query))

    assert (asked.limit, asked.cursor, asked.page, asked.skip) == (limit, cursor, page, skip)


@pytest.mark.parametrize("name", ["limit", "pageSize", "page_size", "page"])
@pytest.mark.parametrize(
    "count",
    [
        *("", "0", "-1", "1.0", "1e1", "abc", "%D9%A3", "%C2%B2", "%00", "+1", "9999999999"),
        *("9" * 5_000, "00000000100000", "000000001" + "0" * 5_000),
    ],
)
def test_a_count_out_of_range_is_refused(name: str, count: str) -> None:
    with pytest.raises(Invalid):
        page_of(_call(f"{name}={count}"))


def test_a_list_may_allow_more_than_a_hundred() -> None:
    assert page_of(_call("limit=1000"), limit_max=1_000).limit == 1_000
    with pytest.raises(Invalid):
        page_of(_call("limit=101"))


@pytest.mark.parametrize(("items", "pages"), [(0, 0), (1, 1), (20, 1), (21, 2)])
def test_pages_are_counted_up(items: int, pages: int) -> None:
    meta = listing([], page_of(_call("page=1")), None, items).meta

    assert isinstance(meta, Count)
    assert meta.total_pages == pages


# ── headers ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given_key", "key"),
    [(b"k", "k"), (b"a b", "a b"), (b'"quoted"', "quoted"), (b'"', '"'), (b"a" * 128, "a" * 128)],
)
def test_a_key_is_taken_as_it_is_or_out_of_its_quotes(given_key: bytes, key: str) -> None:
    assert _call(idempotency_key=given_key).idempotency_key() == key


@pytest.mark.parametrize("bad", [b"", b'""', b"a" * 129, b"\xff", b"a\tb", b"a\0", b"\x7f"])
def test_a_key_that_cannot_be_one_is_refused(bad: bytes) -> None:
    with pytest.raises(Invalid, match="Idempotency-Key"):
        _call(idempotency_key=bad).idempotency_key()


def test_no_key_is_no_key() -> None:
    assert _call().idempotency_key() is None


@pytest.mark.parametrize("name", [b"a", b"trace me", b"x" * 128])
def test_a_request_id_is_taken(name: bytes) -> None:
    assert _call(x_request_id=name).request_id.encode() == name


@pytest.mark.parametrize("name", [b"", b"x" * 129, b"\xff", b"a\r\nset-cookie: x", b"a\0"])
def test_a_request_id_that_could_do_harm_is_replaced(name: bytes) -> None:
    assert _call(x_request_id=name).request_id.isalnum()
