"""Lists: which part a call asks for, and the one shape they are told in."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from engine.infra.http import DIGITS_MAX, Call, invalid

PAGE_MAX = 1_000_000

T = TypeVar("T")


class Page(msgspec.Struct, frozen=True):
    """Which part of a list: `limit` rows after a cursor, or page k."""

    limit: int
    cursor: str | None
    page: int | None

    @property
    def skip(self) -> int:
        """Rows before this page."""
        return (self.page - 1) * self.limit if self.page else 0


def page_of(call: Call, limit_max: int = 100) -> Page:
    """The page a call asks for. Out of range is a 400."""
    query = call.query
    size = query.get("limit", query.get("pageSize", query.get("page_size", "20")))
    number = query.get("page")
    limit, page = _count("limit", size, limit_max), None
    if number is not None:
        page = _count("page", number, PAGE_MAX)
    return Page(limit, query.get("cursor") or None, page)


def _count(field: str, text: str, high: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > DIGITS_MAX:
        raise invalid(field, f"want 1 to {high}")
    if not 1 <= int(text) <= high:
        raise invalid(field, f"want 1 to {high}")
    return int(text)


class Count(msgspec.Struct, rename="camel"):
    """Where a page stands; only where `page` was asked for."""

    total_items: int
    total_pages: int
    current_page: int
    page_size: int


class Listing(msgspec.Struct, Generic[T], rename="camel"):
    """A list: a page of rows, and the cursor of the next page; null after the last."""

    data: list[T]
    next_cursor: str | None
    meta: Count | msgspec.UnsetType = msgspec.UNSET


def listing(
    rows: list[T], page: Page, next_cursor: str | None, items: int | None = None
) -> Listing[T]:
    """The one shape of lists."""
    body = Listing(rows, next_cursor)
    if page.page is not None and items is not None:
        body.meta = Count(items, -(-items // page.limit), page.page, page.limit)
    return body
