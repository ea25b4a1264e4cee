"""Every query that a sale runs, by its name in sql/queries: what it reads, and which course it is.

A query that is not here fails the run with its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from engine.infra import sql

from . import money, seats, stock
from .ledger import Course, Row, Transaction
from .stock import LIVE, uid, uids

QUERIES = {
    query.text: query
    for slice_name in ("engine", "sale", "payments", "record")
    for query in sql.load(slice_name).values()
}


def run(tx: Transaction, text: str, values: tuple[Any, ...]) -> Course:
    """The course of a statement as the driver sends it; ends with its rows."""
    query = QUERIES[text]
    course = COURSES.get(query.name)
    assert course is not None, f"the model has no {query.name}"
    found = yield from course(tx, **dict(zip(query.words, values, strict=True)))
    return found if isinstance(found, list) else [] if found is None else [found]


def _read(look: Callable[..., Any]) -> Callable[..., Course]:
    """A statement that waits for nothing."""

    def course(tx: Transaction, **words: Any) -> Course:
        yield from ()
        return look(tx, **words)

    return course


# ── engine ───────────────────────────────────────────────────────────────────────────────────


def bump_epoch(tx: Transaction, seen: int | None) -> Course:
    state = stock.state_of(tx)
    second = int((tx.tables.now()).timestamp())
    heard = seen if seen is not None and seen <= second + 86_400 else None

    def is_past(row: Row) -> bool:
        return row["timeline"] != tx.tables.timeline or (
            heard is not None and heard >= row["epoch"]
        )

    if not is_past(state):
        return {"epoch": state["epoch"]}
    yield from tx.lock("engine_state", True)
    fresh = stock.state_of(tx)
    if is_past(fresh):
        epoch = max(fresh["epoch"] + 1, (heard or 0) + 1, second)
        fresh = tx.change("engine_state", True, epoch=epoch, timeline=tx.tables.timeline)
        return {"epoch": epoch}
    # The row was changed while we waited: the UPDATE found nothing, and the SELECT reads it anew.
    return {"epoch": fresh["epoch"]}


def mark_direct(tx: Transaction, seconds: float) -> Course:
    yield from tx.lock("engine_state", True)
    until = max(stock.state_of(tx)["direct_until"], tx.tables.now() + timedelta(seconds=seconds))
    return tx.change("engine_state", True, direct_until=until)


def _identity(tx: Transaction) -> Row:
    id = hashlib.sha256(b"%d" % tx.tables.system).hexdigest()
    return {"id": id, "timeline": f"{tx.tables.timeline:08X}"}


def _limit_waiting(tx: Transaction, milliseconds: int) -> Row:
    tx.lock_ms = milliseconds
    return {"told": "lock"}


# ── sale ─────────────────────────────────────────────────────────────────────────────────────


def _hold(tx: Transaction, row: Row, now_as_created: bool) -> Row:
    now = tx.tables.now()
    over = row["state"] in LIVE and row["expires_at"] <= now
    drop = tx.get("drops", row["drop_id"]) or {}
    told = {"currency": drop["currency"], "server_time": row["created_at"]}
    told["names"] = seats.names_of(tx, row["drop_id"], row["units"])
    if not now_as_created:
        told["server_time"] = now
    return row | told | {"status": "expired" if over else row["state"]}


def _holds_by_request(tx: Transaction, requests: list[Any]) -> list[Row]:
    found = [tx.get("reservations", request) for request in dict.fromkeys(uids(requests))]
    return [_hold(tx, row, True) for row in found if row and row["state"] != "aborted"]


def _look_up(tx: Transaction, requests: list[Any]) -> list[Row]:
    direct = stock.state_of(tx)["direct_until"] > tx.tables.now()
    held = _holds_by_request(tx, requests) or [{"id": None}]
    return [{"direct": direct} | row for row in held]


def _find_holds(tx: Transaction, ids: list[Any]) -> list[Row]:
    found = [tx.reservation(id) for id in dict.fromkeys(uids(ids))]
    return [_hold(tx, row, False) for row in found if row and row["state"] != "aborted"]


def _allowances(tx: Transaction, drop_id: int, buyers: list[str]) -> list[Row]:
    now, found = tx.tables.now(), []
    drop = tx.get("drops", drop_id) or {}
    for buyer in buyers:
        row = tx.get("allowances", (drop_id, buyer))
        if row is None:
            continue
        mine = [r for _, r in tx.all("reservations") if r["buyer"] == buyer
                and r["drop_id"] == drop_id and r["state"] in LIVE]  # fmt: skip
        live = [r["id"] for r in mine if r["expires_at"] > now]
        told = {"max_per_buyer": drop["max_per_buyer"], "overdue": len(live) < len(mine)}
        told |= {"reservation_id": max(live, default=None), "cools_ms": None}
        found.append(row | told | {"abandoned": 0, "cools_until": None})
    return found


def _offers(tx: Transaction, drop_ids: list[int] | None) -> list[Row]:
    now, epoch, found = tx.tables.now(), stock.state_of(tx)["epoch"], []
    for drop_id, row in tx.all("stock"):
        drop = tx.get("drops", drop_id)
        assert drop is not None
        if drop_ids is not None and drop_id not in drop_ids:
            continue
        shut = "preparing" if drop["prepared_at"] is None else drop["paused_reason"] or ""
        ends_ms = None if drop["ends_at"] is None else _ms(drop["ends_at"])
        told = {"drop_id": drop_id, "terms_version": drop["terms_version"], "shut": shut}
        told |= {"starts_ms": _ms(drop["starts_at"]), "ends_ms": ends_ms, "now_ms": _ms(now)}
        told |= {"max_per_buyer": drop["max_per_buyer"] or 0, "promised": drop["total_stock"]}
        told |= {"max_per_order": drop["max_per_order"], "changed_ms": _ms(row["changed_at"])}
        told |= {"cooldown_factor": 0, "is_named": seats.is_named(tx, drop_id)}
        found.append(stock.figures(row, epoch) | told)
    return found


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _due(tx: Transaction) -> list[Row]:
    now = tx.tables.now()
    rows = (row for _, row in tx.all("reservations"))
    return [row for row in rows if row["state"] in LIVE and row["expires_at"] <= now]


def _next_deadline(tx: Transaction) -> Row:
    live = [row["expires_at"] for _, row in tx.all("reservations") if row["state"] in LIVE]
    ms = (min(live) - tx.tables.now()).total_seconds() * 1000 if live else None
    return {"due_in_ms": ms}


def _purchases(tx: Transaction, column: str, ids: list[Any]) -> list[Row]:
    wanted = set(uids(ids))
    rows = [row for _, row in tx.all("purchases") if row[column] in wanted]
    return [
        row
        | {"currency": (tx.get("drops", row["drop_id"]) or {})["currency"]}
        | {"names": seats.names_of(tx, row["drop_id"], row["units"])}
        for row in rows
    ]


def _taken(tx: Transaction, drop_id: int, numbers: list[int]) -> list[Row]:
    gone = [n for n in sorted(numbers) if not seats.is_free(tx, drop_id, n)]
    return [{"number": number, "name": str(number)} for number in gone]


def _free_numbers(tx: Transaction, drop_id: int) -> Row:
    row, drop = tx.get("stock", drop_id), tx.get("drops", drop_id) or {}
    told = stock.figures(row, stock.state_of(tx)["epoch"])
    told["total"] = max(told["total"], drop["total_stock"])
    return told | {"drop_id": drop_id, "numbers": seats.shelf_of(tx, drop_id)}


def set_pause(tx: Transaction, drop_id: int, reason: str | None) -> Course:
    yield from tx.lock("drops", drop_id)
    row = tx.get("drops", drop_id)
    assert row is not None
    told = {"paused_reason": reason, "terms_version": row["terms_version"] + 1}
    return tx.change("drops", drop_id, **told)


def _longer(tx: Transaction, reservation: Any, buyer: str | None, pays: bool) -> Course:
    """extend_hold and pay_hold: each once in a hold's life."""
    yield from stock.lock_holds(tx, [uid(reservation)])
    now, row = tx.tables.now(), tx.reservation(uid(reservation))
    if row is None or row["state"] != "active" or row["expires_at"] <= now:
        return None
    drop = tx.get("drops", row["drop_id"])
    assert drop is not None
    longest = row["created_at"] + timedelta(seconds=drop["max_hold_seconds"])
    if row["buyer"] != (buyer or row["buyer"]):
        return None
    if pays:
        until = row["expires_at"] + timedelta(seconds=drop["pay_seconds"])
        columns = {"state": "paying", "paying_at": now}
    elif row["extended_at"] is None and row["expires_at"] < longest:
        until = min(row["expires_at"] + (row["expires_at"] - row["created_at"]), longest)
        columns = {"extended_at": now}
    else:
        return None
    tx.change("reservations", row["request_id"], expires_at=until, **columns)
    lives_ms = round((until - now).total_seconds() * 1000)
    return {"drop_id": row["drop_id"], "expires_at": until, "lives_ms": lives_ms}


# ── record ───────────────────────────────────────────────────────────────────────────────────


def claim_request(tx: Transaction, id: Any, fingerprint: bytes) -> Course:
    if tx.tables.rows["requests"].get(uid(id)) is None:
        yield from tx.lock("requests", uid(id))
    if tx.get("requests", uid(id)) is not None:
        return None
    row = {"id": uid(id), "fingerprint": fingerprint, "status": 0, "body": b""}
    tx.put("requests", uid(id), row)
    return row


def answer_request(tx: Transaction, id: Any, status: int, body: bytes) -> Course:
    yield from tx.lock("requests", uid(id))
    return tx.change("requests", uid(id), status=status, body=body)


COURSES: dict[str, Callable[..., Course]] = {
    "bump_epoch": bump_epoch,
    "mark_direct": mark_direct,
    "database_identity": _read(_identity),
    "limit_transactions": _read(lambda tx, milliseconds: {"told": None}),
    "limit_waiting": _read(_limit_waiting),
    "claim_units": stock.claim_units,
    "claim_seats": stock.claim_units,
    "abort_requests": stock.abort_requests,
    "purchase_units": stock.purchase_units,
    "release_holds": stock.release_holds,
    "expire_holds": stock.expire_holds,
    "find_holds_by_request": _read(_holds_by_request),
    "look_up_requests": _read(_look_up),
    "find_allowances": _read(_allowances),
    "find_reservation": _read(lambda tx, id: _find_holds(tx, [id])),
    "find_reservations": _read(_find_holds),
    "find_taken": _read(_taken),
    "free_numbers": _read(_free_numbers),
    "longest_run": _read(lambda tx, drop_id: {"units": seats.longest_run(tx, drop_id)}),
    "offers": _read(_offers),
    "due_drops": _read(lambda tx: [{"drop_id": d} for d in {r["drop_id"]: 0 for r in _due(tx)}]),
    "next_deadline": _read(_next_deadline),
    "find_purchases_by_request": _read(lambda tx, requests: _purchases(tx, "request_id", requests)),
    "find_purchases_by_reservation": _read(
        lambda tx, reservations: _purchases(tx, "reservation_id", reservations)
    ),
    "set_pause": set_pause,
    "extend_hold": lambda tx, **w: _longer(tx, **w, pays=False),
    "pay_hold": lambda tx, **w: _longer(tx, **w, pays=True),
    "find_request": _read(lambda tx, id: tx.get("requests", uid(id))),
    "claim_request": claim_request,
    "answer_request": answer_request,
    **money.COURSES,
}
