"""Prove: count every row of a drop in one snapshot, and say in words what does not add up."""

from __future__ import annotations

from typing import Any

from engine.infra.postgres import Postgres
from engine.sale import shelf
from engine.sale.models import Proof


async def prove(postgres: Postgres, drop_id: int) -> Proof | None:
    """Recount a drop; None if there is none. For a million units this takes seconds."""
    async with postgres.transaction(isolation="repeatable_read") as session:
        rows = await shelf.count_units(session, drop_id)
    if rows is None:
        return None
    kinds = ("strays", "misfits", "unmet", "misnamed")
    offenders = [words for kind in kinds for words in rows[f"{kind}_named"]]
    return Proof(rows["version"], rows["counted_at"], _problems(rows), offenders)


def _problems(rows: dict[str, Any]) -> list[str]:
    """Broken invariants, in words, each with its own figures."""
    checks = [
        *(
            (
                rows[name] == rows[f"{name}_rows"],
                f"INV-2: the stock row says {rows[name]} {name}, {rows[f'{name}_rows']} units are",
            )
            for name in ("free", "withdrawn")
        ),
        (
            rows["held"] == rows["live_units"],
            f"INV-5: {rows['held']} units are held, live holds name {rows['live_units']}",
        ),
        (
            rows["sold"] == rows["bought_units"],
            f"INV-1: {rows['sold']} units are sold, purchases name {rows['bought_units']}",
        ),
        (
            rows["used_units"] == rows["held"] + rows["sold"],
            f"INV-8: buyers' allowances add up to {rows['used_units']},"
            f" held and sold to {rows['held'] + rows['sold']}",
        ),
        (
            rows["misfits"] == 0,
            f"INV-8: {rows['misfits']} buyers or purchases do not agree with the holds",
        ),
        (rows["over_limit"] == 0, f"INV-8: {rows['over_limit']} buyers own more than the limit"),
        (
            rows["strays"] == 0,
            f"INV-1: {rows['strays']} units are nowhere, or in more than one place",
        ),
        (
            rows["unmet"] == 0,
            f"INV-13: {rows['unmet']} payments came to neither a purchase nor a refund",
        ),
        (
            rows["misnamed"] == 0,
            f"INV-1: {rows['misnamed']} units have no name, or are not with whom picked them",
        ),
    ]
    return [words for holds, words in checks if not holds]
