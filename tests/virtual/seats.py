"""Units that have names: what sql/functions/{claim_seats, find_run, longest_run, names_of}.sql and
the table `picks` add to the statements of stock.py.

A unit is called by its number here. `records` are left out, as the outbox is.
"""

from __future__ import annotations

from uuid import UUID

from .ledger import Course, Redo, Transaction


def is_named(tx: Transaction, drop_id: int) -> bool:
    return bool((tx.get("drops", drop_id) or {}).get("pick") == "named")


def names_of(tx: Transaction, drop_id: int, numbers: list[int]) -> list[str] | None:
    return list(map(str, numbers)) if is_named(tx, drop_id) else None


def is_free(tx: Transaction, drop_id: int, number: int) -> bool:
    return bool((tx.get("units", (drop_id, number)) or {"state": ""})["state"] == "free")


def shelf_of(tx: Transaction, drop_id: int) -> list[int]:
    """The free units, locked or not."""
    rows = tx.all("units")
    return sorted(key[1] for key, row in rows if key[0] == drop_id and row["state"] == "free")


def take_down(tx: Transaction, drop_id: int, numbers: list[int]) -> None:
    """Off the shelf: the rows are gone."""
    for number in numbers:
        tx.put("units", (drop_id, number), None)


def lock_free(tx: Transaction, drop_id: int, numbers: list[int]) -> list[int]:
    """Those of these units that are free and that nobody else has locked, now by us."""
    there = [n for n in sorted(set(numbers)) if is_free(tx, drop_id, n)]
    return [n for n in there if tx.try_lock("units", (drop_id, n))]


def find_run(tx: Transaction, drop_id: int, quantity: int) -> tuple[list[int] | None, bool]:
    """The first units beside each other, locked; and whether others have some in their hands."""
    shelf, contended, behind = set(shelf_of(tx, drop_id)), False, 0
    for first in sorted(shelf):
        run = list(range(first, first + quantity))
        if first <= behind or not shelf.issuperset(run):
            continue
        ours = lock_free(tx, drop_id, run)
        if ours == run:
            return run, contended
        contended = True
        behind = max(set(run) - set(ours))
    return None, contended


def longest_run(tx: Transaction, drop_id: int) -> int:
    return longest(shelf_of(tx, drop_id))


def longest(numbers: list[int]) -> int:
    """How many of these, ascending, are beside each other at most."""
    best = run = 0
    before = None
    for number in numbers:
        run = run + 1 if before is not None and number == before + 1 else 1
        best, before = max(best, run), number
    return best


def take_picked(tx: Transaction, drop_id: int, picks: list[int]) -> list[int]:
    """A batch's picks, all of them. Raises `Redo`."""
    if not is_named(tx, drop_id) or 0 in picks or len(lock_free(tx, drop_id, picks)) != len(picks):
        raise Redo
    return picks


def word_for(
    tx: Transaction, drop_id: int, quantity: int, picks: list[int]
) -> tuple[str, list[int]]:
    """What one request hears of a named drop, and its units."""
    if picks and picks[0]:
        if len(lock_free(tx, drop_id, picks)) == quantity:
            return "held", picks
        gone = any(not is_free(tx, drop_id, n) for n in picks)
        return "taken" if gone else "contended", []
    mine, contended = find_run(tx, drop_id, quantity)
    if mine is None:
        return "contended" if contended else "scattered", []
    return "held", mine


def last_word(tx: Transaction, drop_id: int, quantity: int, free: int) -> str:
    """Of who found no run: what is so while nobody moves units any more."""
    if free < quantity:
        return "sold_out"
    return "contended" if longest_run(tx, drop_id) >= quantity else "scattered"


def write_picks(tx: Transaction, drop_id: int, reservation: UUID, numbers: list[int]) -> Course:
    if not is_named(tx, drop_id):
        return
    for number in numbers:
        yield from tx.lock("picks", (drop_id, number))
        assert tx.get("picks", (drop_id, number)) is None, "a_named_unit_has_one_live_owner"
        row = {"drop_id": drop_id, "number": number, "reservation_id": reservation}
        tx.put("picks", (drop_id, number), row)


def drop_picks(tx: Transaction, drop_id: int, reservation: UUID, numbers: list[int]) -> Course:
    for number in numbers if is_named(tx, drop_id) else ():
        yield from tx.lock("picks", (drop_id, number))
        if (tx.get("picks", (drop_id, number)) or {}).get("reservation_id") == reservation:
            tx.put("picks", (drop_id, number), None)
