"""Users: what accounts are, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterable

from engine.identity import user_store as store


async def usernames(postgres: store.Caller, ids: Iterable[str]) -> dict[str, str]:
    """What buyers are called, by their ids, in one query (none if no id can be an account's). Only
    active accounts that have a username are in it."""
    accounts = store.ids_among(ids)
    return await store.find_usernames(postgres, accounts) if accounts else {}
