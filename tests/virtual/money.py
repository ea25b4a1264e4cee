"""The statements of payments: sql/functions/{settle_payments, owe_refunds}.sql, on the ledger."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from . import seats, stock
from .ledger import Course, Row, Transaction
from .stock import LIVE, uid, uids

RANK = {"pending": 0, "failed": 1, "succeeded": 2, "refunded": 3}


def settle_payments(tx: Transaction, **w: Any) -> Course:
    names = w["references"]
    notices = list(zip(names, w["reservations"], w["statuses"], w["amounts"], w["currencies"],
                       strict=True))  # fmt: skip
    for notice in sorted(notices):
        yield from _write_down(tx, *notice)
    yield from _give_back(tx, names)
    open_ = _open(tx, names)
    yield from stock.lock_holds(tx, [p["reservation_id"] for p in open_ if p["reservation_id"]])
    now = tx.tables.now()
    yield from _decide_without_units(tx, names)
    revived, short = yield from _find_units_for_the_late(tx, names)
    live = [p for p in _open(tx, names) if _hold(tx, p)["state"] in LIVE]
    waiting = _open(tx, names)
    for drop_id in sorted({_hold(tx, p)["drop_id"] for p in waiting}):
        yield from tx.lock("stock", drop_id)
    for drop_id in sorted({row["drop_id"] for row in revived}):
        units = sum(row["quantity"] for row in revived if row["drop_id"] == drop_id)
        figures = tx.get("stock", drop_id) or {}
        moved = {"free": figures["free"] - units, "held": figures["held"] + units}
        tx.change("stock", drop_id, **moved)
    for name in short:
        payment = tx.get("payments", name) or {}
        hold = _hold(tx, payment)
        left = (tx.get("stock", hold["drop_id"]) or {})["free"]
        if seats.is_named(tx, hold["drop_id"]):
            left = sum(seats.is_free(tx, hold["drop_id"], number) for number in hold["units"])
        if left < hold["quantity"]:
            _decide(tx, name, "refund_due", "sold_out")
    told: list[Row] = []
    if live:
        ids = dict(zip(names, zip(uids(w["ids"]), uids(w["requests"]), strict=True), strict=True))
        wishes = [(p["reservation_id"], *ids[p["reference"]], p["reference"]) for p in live]
        for payment in live:
            _decide(tx, payment["reference"], "purchased", None)
            request = _hold(tx, payment)["request_id"]
            tx.change("reservations", request, state="purchased", ended_at=now)
        told = yield from stock.sell_holds(tx, wishes, now)
        for row in told:
            anew = [r for r in sorted(revived, key=lambda r: str(r["id"]))
                    if r["drop_id"] == row["drop_id"]]  # fmt: skip
            row["buyers"] = [r["buyer"] for r in anew] or None
            row["quantities"] = [r["quantity"] for r in anew] or None
            taken = [number for r in anew for number in r["units"]]
            row["numbers"] = taken if seats.is_named(tx, row["drop_id"]) else None
    yield from _owe(tx, names)
    return told


def _write_down(
    tx: Transaction, name: str, hold: Any, status: str, amount: int, currency: str
) -> Course:
    yield from tx.lock("payments", name)
    now, known = tx.tables.now(), tx.get("payments", name)
    said = {"reservation_id": hold and uid(hold), "amount_cents": amount, "currency": currency}
    if known is None:
        moments = {"received_at": now, "changed_at": now, "outcome": None, "reason": None}
        tx.put("payments", name, {"reference": name, "status": status} | said | moments)
    elif RANK[known["status"]] < RANK[status]:
        kept = {} if RANK[known["status"]] >= RANK["succeeded"] else said
        tx.change("payments", name, status=status, changed_at=now, **kept)


def _payments(tx: Transaction, names: list[str]) -> list[Row]:
    return [row for name in sorted(names) if (row := tx.get("payments", name)) is not None]


def _open(tx: Transaction, names: list[str]) -> list[Row]:
    """Money that came, of which nothing was made yet."""
    rows = _payments(tx, names)
    return [row for row in rows if row["status"] == "succeeded" and row["outcome"] is None]


def _hold(tx: Transaction, payment: Row) -> Row:
    row = tx.reservation(payment["reservation_id"])
    assert row is not None
    return row


def _decide(tx: Transaction, name: str, outcome: str, reason: str | None) -> None:
    tx.change("payments", name, outcome=outcome, reason=reason, changed_at=tx.tables.now())


def _give_back(tx: Transaction, names: list[str]) -> Course:
    """The provider gave it back: no longer owed."""
    for p in _payments(tx, names):
        if p["status"] != "refunded":
            continue
        for key, owed in list(tx.all("refunds")):
            same_sum = (owed["amount_cents"], owed["currency"]) == (
                p["amount_cents"],
                p["currency"],
            )
            nameless = key[0] is None and same_sum and p["outcome"] != "refund_due"
            mine = owed["reservation_id"] == p["reservation_id"] and owed["done_at"] is None
            if mine and (key[0] == p["reference"] or nameless):
                yield from tx.lock("refunds", key)
                tx.change("refunds", key, done_at=tx.tables.now(), verified=True)


def _decide_without_units(tx: Transaction, names: list[str]) -> Course:
    """Money for nothing we know, for another price, for what is bought already."""
    open_ = _open(tx, names)
    reasons: dict[str, str] = {}
    for p in open_:
        hold = None if p["reservation_id"] is None else tx.reservation(p["reservation_id"])
        if hold is None or hold["state"] == "aborted":
            reasons[p["reference"]] = "unknown_reservation"
            continue
        drop, bought = tx.get("drops", hold["drop_id"]) or {}, tx.get("purchases", hold["id"])
        price = (hold["amount_cents"], drop["currency"])
        if (p["amount_cents"], p["currency"]) != price:
            reasons[p["reference"]] = "wrong_amount"
        elif hold["state"] == "refunded":
            reasons[p["reference"]] = "refunded"
        elif bought is not None and bought["payment_reference"] == p["reference"]:
            reasons[p["reference"]] = "adopted"
        elif hold["state"] == "purchased":
            fit = [q["reference"] for q in open_ if q["reservation_id"] == hold["id"]
                   and (q["amount_cents"], q["currency"]) == price]  # fmt: skip
            unnamed = bought is not None and bought["payment_reference"] is None
            first = unnamed and p["reference"] == min(fit)
            reasons[p["reference"]] = "adopted" if first else "already_paid"
    for name, reason in reasons.items():
        if reason != "adopted":
            _decide(tx, name, "refund_due", reason)
            continue
        _decide(tx, name, "purchased", None)
        key = (tx.get("payments", name) or {})["reservation_id"]
        yield from tx.lock("purchases", key)
        if (tx.get("purchases", key) or {})["payment_reference"] is None:
            tx.change("purchases", key, payment_reference=name, adopted=True)
    first_of: dict[UUID, str] = {}
    for p in _open(tx, names):
        if first_of.setdefault(p["reservation_id"], p["reference"]) != p["reference"]:
            _decide(tx, p["reference"], "refund_due", "already_paid")


def _find_units_for_the_late(tx: Transaction, names: list[str]) -> Course:
    """Free units for holds that are gone: which came to life, which payments found too few."""
    late = [(p, _hold(tx, p)) for p in _open(tx, names)]
    late = [(p, hold) for p, hold in late if hold["state"] in ("expired", "released")]
    for key in sorted({(hold["drop_id"], hold["buyer"]) for _, hold in late}):
        yield from tx.lock("allowances", key)
        row = tx.get("allowances", key) or {"buyer": key[1], "used": 0}
        tx.put("allowances", key, row)
    revived: list[Row] = []
    short: list[str] = []
    for p, hold in sorted(late, key=lambda each: (each[1]["drop_id"], each[1]["buyer"])):
        drop, key = tx.get("drops", hold["drop_id"]) or {}, (hold["drop_id"], hold["buyer"])
        used = (tx.get("allowances", key) or {})["used"] + hold["quantity"]
        limit = drop["max_per_buyer"]
        if drop["paused_reason"] is not None or (limit is not None and used > limit):
            reason = "limit" if drop["paused_reason"] is None else "paused"
            _decide(tx, p["reference"], "refund_due", reason)
            continue
        if seats.is_named(tx, hold["drop_id"]):
            mine = seats.lock_free(tx, hold["drop_id"], hold["units"])
        else:
            mine = stock.free_units(tx, hold["drop_id"], hold["quantity"])
        if len(mine) < hold["quantity"]:
            short.append(p["reference"])
            continue
        tx.change("allowances", key, used=used)
        seats.take_down(tx, hold["drop_id"], mine)
        yield from seats.write_picks(tx, hold["drop_id"], hold["id"], mine)
        columns = {"state": "paying", "units": mine, "ended_at": None}
        revived.append(tx.change("reservations", hold["request_id"], **columns))
    holds = [p["reservation_id"] for p in _payments(tx, names) if p["reservation_id"]]
    for id in holds:
        gone = tx.reservation(id)
        key = (gone["drop_id"], gone["buyer"]) if gone is not None else (0, "")
        if (tx.get("allowances", key) or {"used": 1})["used"] == 0:
            yield from tx.lock("allowances", key)
            if (tx.get("allowances", key) or {"used": 1})[
                "used"
            ] == 0:  # still, now that it is ours
                tx.put("allowances", key, None)
    return revived, short


def _owe(tx: Transaction, names: list[str]) -> Course:
    """What must be given back, and what need not be after all."""
    for p in _payments(tx, names):
        key = (p["reference"], p["reservation_id"])
        owed = tx.get("refunds", key)
        if p["outcome"] == "purchased" and owed is not None and not owed["verified"]:
            yield from tx.lock("refunds", key)
            tx.put("refunds", key, None)
        if p["outcome"] != "refund_due" or p["status"] != "succeeded" or not p["amount_cents"]:
            continue
        yield from tx.lock("refunds", key)
        owed = tx.get("refunds", key)
        said = {"amount_cents": p["amount_cents"], "currency": p["currency"]}
        said |= {"reason": p["reason"], "verified": True}
        if owed is None:
            row = {"reference": p["reference"], "reservation_id": p["reservation_id"]}
            tx.put("refunds", key, row | said | {"done_at": None})
        elif not owed["verified"] and owed["done_at"] is None:
            tx.change("refunds", key, **said)


def owe_refunds(tx: Transaction, reservations: list[Any], references: list[str]) -> Course:
    yield from stock.lock_holds(tx, uids(reservations))
    told = []
    pairs = {
        (reference, uid(hold)) for hold, reference in zip(reservations, references, strict=True)
    }
    for reference, hold in sorted(pairs):
        bought, row = tx.get("purchases", hold), tx.reservation(hold)
        claimed = [1 for (_, h), owed in tx.all("refunds") if h == hold and not owed["verified"]]
        if bought is None or row is None or bought["payment_reference"] == reference:
            continue
        if not row["amount_cents"] or len(claimed) >= 10:
            continue
        yield from tx.lock("refunds", (reference, hold))
        if tx.get("refunds", (reference, hold)) is None:
            drop = tx.get("drops", row["drop_id"]) or {}
            said = {"amount_cents": row["amount_cents"], "currency": drop["currency"]}
            said |= {"reference": reference, "reservation_id": hold, "reason": "already_paid"}
            tx.put("refunds", (reference, hold), said | {"verified": False, "done_at": None})
            told.append({"reference": reference})
    return told


def _found(tx: Transaction, row: Row) -> Row:
    bought = row["reservation_id"] and tx.get("purchases", row["reservation_id"])
    mine = bought and bought["payment_reference"] == row["reference"]
    told = {"purchase_id": bought["id"] if mine and bought else None}
    return row | told | {"undone": bool(mine and bought and bought["refunded_at"])}


def find_payments(tx: Transaction, references: list[str]) -> Course:
    yield from ()
    return [_found(tx, row) for row in _payments(tx, list(dict.fromkeys(references)))]


def undecided_payments(tx: Transaction, seconds: float, count: int) -> Course:
    until = tx.tables.now() - timedelta(seconds=seconds)
    rows = [row for _, row in tx.all("payments") if row["status"] == "succeeded"]
    waiting = [row for row in rows if row["outcome"] is None and row["changed_at"] < until]
    waiting.sort(key=lambda row: (row["changed_at"], row["reference"]))
    yield from ()
    return [row | {"purchase_id": None, "undone": False} for row in waiting[:count]]


COURSES: dict[str, Callable[..., Course]] = {
    "settle_payments": settle_payments,
    "find_payments": find_payments,
    "undecided_payments": undecided_payments,
    "owe_refunds": owe_refunds,
}
