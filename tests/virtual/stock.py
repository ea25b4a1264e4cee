"""The statements that move units: sql/functions/{claim_units, claim_seats, abort_requests,
purchase_units, release_holds, expire_holds, …}.sql, on the ledger. Each says in the same order what
it locks.

Left out: cool-downs (no drop here has a factor), `stock.head` (a hint of where to begin), the
outbox and the ledger's records (nobody reads them).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any
from uuid import UUID

from . import seats
from .ledger import Course, Redo, Row, SqlError, Transaction

LIVE = ("active", "paying")


def uid(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)


def uids(values: Any) -> list[UUID]:
    return [uid(value) for value in values]


def figures(row: Row | None, epoch: int | None) -> Row:
    names = ("version", "free", "held", "sold", "withdrawn", "total")
    return {"epoch": epoch} | {name: None if row is None else row[name] for name in names}


def state_of(tx: Transaction) -> Row:
    state = tx.get("engine_state", True)
    assert state is not None
    return state


def epoch_here(tx: Transaction) -> int | None:
    """The epoch, if it is this timeline's."""
    state = state_of(tx)
    return state["epoch"] if state["timeline"] == tx.tables.timeline else None


def free_units(tx: Transaction, drop_id: int, wanted: int) -> list[int]:
    """The first free units that nobody else has locked, now by us: FOR UPDATE SKIP LOCKED."""
    rows = [(row["position"], key) for key, row in tx.all("units") if key[0] == drop_id
            and row["state"] == "free"]  # fmt: skip
    taken: list[int] = []
    for _, key in sorted(rows):
        if len(taken) == wanted:
            break
        if tx.try_lock("units", key):
            taken.append(key[1])
    return taken


def put_back(tx: Transaction, drop_id: int, numbers: list[int], state: str = "free") -> Course:
    """Onto the shelf, at the queue's end, or in their place if they have names."""
    by_name = seats.is_named(tx, drop_id)
    for number in numbers:
        yield from tx.lock("units", (drop_id, number))
        assert tx.get("units", (drop_id, number)) is None, "it lies there"
        row = {"state": state, "position": number if by_name else tx.tables.next_position()}
        tx.put("units", (drop_id, number), row)


def _reservation(drop: Row, claim: tuple[Any, ...], now: datetime, **rest: Any) -> Row:
    request, attempt, id, buyer, quantity = claim
    return {
        "id": id, "request_id": request, "attempt": attempt, "drop_id": drop["id"],
        "amount_cents": drop["price_cents"] * quantity, "created_at": now,
        "expires_at": now + timedelta(seconds=drop["hold_seconds"]), "quantity": quantity,
        "available": 0, "state": "active", "buyer": buyer, "units": [], "ended_at": None,
        "extended_at": None, "paying_at": None,
    } | rest  # fmt: skip


# ── claim_units, claim_seats ─────────────────────────────────────────────────────────────────


def claim_units(tx: Transaction, **w: Any) -> Course:
    """With `picks` it is claim_seats."""
    claims = list(zip(uids(w["requests"]), w["attempts"], uids(w["ids"]), w["buyers"],
                      w["quantities"], strict=True))  # fmt: skip
    try:
        return (yield from tx.block(_claim_all(tx, w["drop_id"], w["epoch"], claims, w)))
    except Redo:
        return (yield from _claim_singly(tx, w["drop_id"], w["epoch"], claims, w.get("picks")))


def _claim_all(tx: Transaction, drop_id: int, epoch: int, claims: list[Any], w: Row) -> Course:
    drop, stock = tx.get("drops", drop_id), tx.get("stock", drop_id)
    ours, wanted, now = epoch_here(tx), sum(w["quantities"]), tx.tables.now()
    if drop is None or stock is None or ours != epoch or _closed(drop, now):
        raise Redo
    if seats.is_named(tx, drop_id) != ("picks" in w) or 0 in w.get("picks", ()):
        raise Redo
    limit, available = drop["max_per_buyer"], stock["free"] - wanted
    for buyer, units in zip(w["buyers_once"], w["units_once"], strict=True):
        if limit is not None and units > limit:
            raise Redo
        yield from tx.lock("allowances", (drop_id, buyer))
        used = (tx.get("allowances", (drop_id, buyer)) or {"used": 0})["used"] + units
        if limit is not None and used > limit:
            raise Redo
        tx.put("allowances", (drop_id, buyer), {"buyer": buyer, "used": used})
    if "picks" in w:
        numbers = seats.take_picked(tx, drop_id, w["picks"])
    else:
        numbers = free_units(tx, drop_id, wanted)
    if len(numbers) != wanted:
        raise Redo
    first = 0
    for claim in claims:
        mine, first = numbers[first : first + claim[4]], first + claim[4]
        seats.take_down(tx, drop_id, mine)
        if tx.get("reservations", claim[0]) is not None:
            raise Redo
        yield from tx.lock("reservations", claim[0])
        if tx.get("reservations", claim[0]) is not None:
            raise Redo
        told = {"available": max(available, 0), "units": mine}
        tx.put("reservations", claim[0], _reservation(drop, claim, now, **told))
        yield from seats.write_picks(tx, drop_id, claim[2], mine)
    stock = yield from _move(tx, drop_id, now, free=-wanted, held=wanted)
    return figures(stock, ours) | {
        "words": None, "stored_attempts": None, "numbers": numbers, "created_at": now,
        "expires_at": now + timedelta(seconds=drop["hold_seconds"]),
        "available": max(available, 0), "price_cents": drop["price_cents"],
        "currency": drop["currency"], "total": max(stock["total"], drop["total_stock"]),
        "names": seats.names_of(tx, drop_id, numbers),
    }  # fmt: skip


def _closed(drop: Row, now: datetime) -> str | None:
    if drop["prepared_at"] is None:
        return "preparing"
    if drop["paused_reason"] is not None:
        return str(drop["paused_reason"])
    if drop["ends_at"] is not None and drop["ends_at"] <= max(now, drop["starts_at"]):
        return "ended"
    return "not_started" if now < drop["starts_at"] else None


def _claim_singly(
    tx: Transaction, drop_id: int, epoch: int, claims: list[Any], picks: list[int] | None
) -> Course:
    drop, now = tx.get("drops", drop_id), tx.tables.now()
    words, stored = ["held"] * len(claims), [0] * len(claims)
    nothing = dict.fromkeys(("expires_at", "available", "price_cents", "currency"))
    told: Row = {"words": words, "stored_attempts": stored, "numbers": [], "names": None}
    told["created_at"] = now
    if drop is None:
        words[:] = ["not_found"] * len(claims)
        return figures(None, None) | told | nothing
    ours = epoch_here(tx)
    closed = "fenced" if ours != epoch else _closed(drop, now)
    available = (tx.get("stock", drop_id) or {"free": None})["free"]
    buyers = sorted({claim[3] for claim in claims})
    for buyer in buyers:
        yield from tx.lock("allowances", (drop_id, buyer))
        row = tx.get("allowances", (drop_id, buyer)) or {"buyer": buyer, "used": 0}
        tx.put("allowances", (drop_id, buyer), row)
    units = upto = 0
    for i, claim in enumerate(claims):
        picked, upto = (picks or [])[upto : upto + claim[4]], upto + claim[4]
        asked = (claim, picked)
        word, attempt, mine = yield from _claim_one(tx, drop, closed, asked, now, available)
        words[i], stored[i] = word, attempt
        told["numbers"] += mine
        units += len(mine)
    for buyer in buyers:
        if tx.get("allowances", (drop_id, buyer)) == {"buyer": buyer, "used": 0}:
            tx.put("allowances", (drop_id, buyer), None)
    if units:
        stock = yield from _move(tx, drop_id, now, free=-units, held=units)
    else:
        yield from tx.lock("stock", drop_id)
        stock = tx.get("stock", drop_id)
        assert stock is not None
    for i, claim in enumerate(claims):
        if words[i] == "short":
            words[i] = "contended" if stock["free"] >= claim[4] else "sold_out"
        elif words[i] == "scattered":
            words[i] = seats.last_word(tx, drop_id, claim[4], stock["free"])
    told["names"] = seats.names_of(tx, drop_id, told["numbers"])
    expires_at = now + timedelta(seconds=drop["hold_seconds"])
    terms = {"expires_at": expires_at, "price_cents": drop["price_cents"]}
    terms |= {"available": available, "currency": drop["currency"]}
    return figures(stock, ours) | told | terms | {"total": max(stock["total"], drop["total_stock"])}


def _claim_one(
    tx: Transaction, drop: Row, closed: str | None, asked: Any, now: datetime, available: Any
) -> Course:
    """One request: its word, the attempt that is stored, and its units."""
    claim, picked = asked
    request, attempt, id, buyer, quantity = claim
    drop_id, limit = drop["id"], drop["max_per_buyer"]
    found = tx.get("reservations", request)
    word = (
        "repeated" if found is not None and found["state"] != "aborted"
        else "blocked" if found is not None and found["attempt"] >= attempt
        else closed if closed is not None
        else "too_many" if quantity > drop["max_per_order"]
        else "held"
    )  # fmt: skip
    if word != "held":
        return word, found["attempt"] if found is not None else 0, []
    yield from tx.lock("reservations", request)
    found = tx.get("reservations", request)
    if found is not None and (found["state"] != "aborted" or found["attempt"] >= attempt):
        return "blocked" if found["state"] == "aborted" else "repeated", found["attempt"], []
    allowance = tx.get("allowances", (drop_id, buyer))
    assert allowance is not None
    used = allowance["used"] + quantity
    mine: list[int] = []
    if limit is not None and used > limit:
        word = "limit"
    elif seats.is_named(tx, drop_id):
        word, mine = seats.word_for(tx, drop_id, quantity, picked)
    else:
        mine = free_units(tx, drop_id, quantity)
        if len(mine) < quantity:
            word, mine = "short", []
    if word != "held":
        if found is not None:  # the row of a tombstone is ours now, with a later attempt
            row = _reservation(drop, claim, now, state="aborted", available=available)
            tx.put("reservations", request, row)
        return word, 0, []
    tx.change("allowances", (drop_id, buyer), used=used)
    seats.take_down(tx, drop_id, mine)
    row = _reservation(drop, claim, now, units=mine, available=available)
    tx.put("reservations", request, row)
    yield from seats.write_picks(tx, drop_id, id, mine)
    return "held", 0, mine


def _move(tx: Transaction, drop_id: int, now: datetime, **by: int) -> Course:
    """The stock row, last: one version a transaction."""
    yield from tx.lock("stock", drop_id)
    row = tx.get("stock", drop_id)
    assert row is not None
    columns = {name: row[name] + units for name, units in by.items()}
    assert min(columns.values()) >= 0, "no_figure_is_negative"
    return tx.change("stock", drop_id, version=row["version"] + 1, changed_at=now, **columns)


def abort_requests(tx: Transaction, **w: Any) -> Course:
    drop_id, now, words = w["drop_id"], tx.tables.now(), []
    requests = uids(w["requests"])
    columns = (requests, w["attempts"], w["buyers"], w["quantities"])
    for request, attempt, buyer, quantity in zip(*columns, strict=True):
        yield from tx.lock("reservations", request)
        found = tx.get("reservations", request)
        if found is None:
            drop = {"id": drop_id, "price_cents": 0, "hold_seconds": 0}
            claim = (request, attempt, UUID(int=request.int ^ 1), buyer, quantity)
            row = _reservation(drop, claim, now, state="aborted", expires_at=now)
            tx.put("reservations", request, row)
        elif found["state"] == "aborted" and found["attempt"] < attempt:
            tx.change("reservations", request, attempt=attempt)
    for request in requests:
        row = tx.get("reservations", request) or {}
        words.append("aborted" if row["state"] == "aborted" else "held")
    return {"words": words} | figures(tx.get("stock", drop_id), state_of(tx)["epoch"])


# ── the ends of a hold ───────────────────────────────────────────────────────────────────────


def lock_holds(tx: Transaction, ids: list[UUID]) -> Course:
    """Reservations FOR UPDATE, in the order of their ids."""
    for id in sorted(set(ids)):
        row = tx.reservation(id)
        if row is not None:
            yield from tx.lock("reservations", row["request_id"])


def purchase_units(tx: Transaction, **w: Any) -> Course:
    holds = uids(w["reservations"])
    yield from lock_holds(tx, holds)
    now = tx.tables.now()
    wishes: dict[UUID, tuple[Any, ...]] = {}
    columns = (holds, uids(w["ids"]), uids(w["requests"]), w["buyers"], w["references"])
    made = {row["request_id"] for _, row in tx.all("purchases")}
    for hold, id, request, buyer, reference in sorted(
        zip(*columns, strict=True), key=itemgetter(0, 1)
    ):
        row = tx.reservation(hold)
        live = row is not None and row["state"] in LIVE and row["expires_at"] > now
        if row is None or not live or row["buyer"] != (buyer or row["buyer"]) or request in made:
            continue
        tx.change("reservations", row["request_id"], state="purchased", ended_at=now)
        wishes[hold] = (hold, id, request, reference)
    return (yield from sell_holds(tx, list(wishes.values()), now)) if wishes else []


def sell_holds(tx: Transaction, wishes: list[tuple[Any, ...]], now: datetime) -> Course:
    """The end of holds that are bought already, as (hold, purchase's id, request, reference)."""
    sums: dict[int, list[Row]] = {}
    bought: dict[int, list[Row]] = {}
    for hold, id, request, reference in wishes:
        row = tx.reservation(hold)
        assert row is not None
        yield from tx.lock("purchases_one_per_request", request)
        if any(made["request_id"] == request for _, made in tx.all("purchases")):
            raise SqlError("23505")
        yield from tx.lock("purchases", hold)
        purchase = {
            "id": id, "request_id": request, "reservation_id": hold, "drop_id": row["drop_id"],
            "amount_cents": row["amount_cents"], "purchased_at": now, "quantity": row["quantity"],
            "buyer": row["buyer"], "units": row["units"], "payment_reference": reference,
            "adopted": False, "refunded_at": None, "restocked": None, "refund_reason": None,
        }  # fmt: skip
        tx.put("purchases", hold, purchase)
        sums.setdefault(row["drop_id"], []).append(row)
        bought.setdefault(row["drop_id"], []).append(purchase)
    told: list[Row] = yield from _told(tx, sums, now, "bought", held=-1, sold=1)
    for row in told:
        rows = bought[row["drop_id"]]
        row |= {"ids": [r["id"] for r in rows], "amounts": [r["amount_cents"] for r in rows]}
        row |= {"numbers": [number for r in rows for number in r["units"]], "purchased_at": now}
        row |= {"currency": (tx.get("drops", row["drop_id"]) or {})["currency"]}
        row |= {"names": seats.names_of(tx, row["drop_id"], row["numbers"])}
    return told


def _told(
    tx: Transaction, sums: dict[int, list[Row]], now: datetime, column: str, **signs: int
) -> Course:
    """The stock rows of what moved, in order; one row to tell for each."""
    told = []
    for drop_id in sorted(sums):
        yield from tx.lock("stock", drop_id)
    for drop_id, rows in sorted(sums.items()):
        units = sum(row["quantity"] for row in rows)
        by = {name: sign * units for name, sign in signs.items()}
        stock = yield from _move(tx, drop_id, now, **by)
        row = {"drop_id": drop_id, column: [row["id"] for row in rows]}
        row |= {"buyers": [r["buyer"] for r in rows], "quantities": [r["quantity"] for r in rows]}
        moved = [number for r in rows for number in r["units"]]
        row["numbers"] = moved if seats.is_named(tx, drop_id) else None
        told.append(row | figures(stock, state_of(tx)["epoch"]))
    return told


def release_holds(tx: Transaction, **w: Any) -> Course:
    ids = uids(w["reservations"])
    yield from lock_holds(tx, ids)
    now, live = tx.tables.now(), set()
    for id, buyer in zip(ids, w["buyers"], strict=True):
        row = tx.reservation(id)
        if row is None or row["state"] not in LIVE or row["expires_at"] <= now:
            continue
        if row["buyer"] == (buyer or row["buyer"]):
            live.add(id)
    return (yield from _return_units(tx, sorted(live), "released")) if live else []


def expire_holds(tx: Transaction, drop_id: int | None, count: int) -> Course:
    now = tx.tables.now()
    rows = [row for _, row in tx.all("reservations") if row["state"] in LIVE
            and row["expires_at"] <= now and drop_id in (None, row["drop_id"])]  # fmt: skip
    due: list[UUID] = []
    for row in sorted(rows, key=lambda row: (row["expires_at"], row["id"])):
        if len(due) < count and tx.try_lock("reservations", row["request_id"]):
            due.append(row["id"])
    return (yield from _return_units(tx, sorted(due), "expired")) if due else []


def _return_units(tx: Transaction, ids: list[UUID], state: str) -> Course:
    now, holds = tx.tables.now(), []
    for id in ids:
        row = tx.reservation(id)
        assert row is not None
        holds.append(row)
        tx.change("reservations", row["request_id"], state=state, ended_at=now)
    used: dict[tuple[int, str], int] = {}
    for row in holds:
        buyer = (row["drop_id"], row["buyer"])
        used[buyer] = used.get(buyer, 0) + row["quantity"]
    for buyer in sorted(used):
        yield from tx.lock("allowances", buyer)
    for buyer, units in used.items():
        allowance = tx.get("allowances", buyer)
        if allowance is not None:
            assert allowance["used"] >= units, "nobody_uses_less_than_nothing"
            tx.change("allowances", buyer, used=allowance["used"] - units)
    sums: dict[int, list[Row]] = {}
    for row in holds:
        sums.setdefault(row["drop_id"], []).append(row)
        yield from put_back(tx, row["drop_id"], row["units"])
    for row in holds:
        yield from seats.drop_picks(tx, row["drop_id"], row["id"], row["units"])
    return (yield from _told(tx, sums, now, "returned", free=1, held=-1))
