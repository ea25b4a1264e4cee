"""The keyspace is no lie: the same scripts on it and on a real Valkey do the same.

Moments are left out; what has an end, and what has none, is compared.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from engine.infra import lua

from .test_ledger_matches import BOUND, buyers, numbers
from .valkey import Valkey

units = st.lists(st.integers(1, 9), unique=True, max_size=3)


class SameBouncer(RuleBasedStateMachine):
    """One drop's keys in both, and the scripts of lua/ with the same words."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.real: Any = redis.Redis.from_url(self.url)
        self.real.flushall()
        self.modelled = Valkey(None, lambda: time.time_ns() // 1000)  # type: ignore[arg-type]
        self.modelled._expired = lambda key: None  # type: ignore[method-assign]

    def teardown(self) -> None:
        self.real.close()

    def both(self, name: str, names: str, **words: Any) -> Any:
        script = lua.load(name)
        keys = {key: f"vr1:{{x:1}}:{key}" for key in names.split()}
        bound = script.bind(keys, words)
        reply = self.real.execute_command("EVAL", script.source, *bound)
        mine = self.modelled.perform("EVAL", script.source, *bound)
        assert _sorted_reply(name, reply) == _sorted_reply(name, mine), name
        assert self._dump_real() == self._dump_model(), name
        return reply

    def _dump_real(self) -> dict[str, Any]:
        dump: dict[str, Any] = {}
        for key in sorted(self.real.keys()):
            kind = self.real.type(key)
            if kind == b"hash":
                dump[key.decode()] = _timeless(self.real.hgetall(key))
            elif kind == b"zset":
                dump[key.decode()] = sorted(self.real.zrange(key, 0, -1))
            elif not key.endswith(b"bell"):
                dump[key.decode()] = self.real.get(key)
            dump[key.decode() + " ends"] = self.real.pttl(key) > 0
        return dump

    def _dump_model(self) -> dict[str, Any]:
        dump: dict[str, Any] = {}
        for key in sorted(self.modelled.keyspace.data):
            found = self.modelled.keyspace.find(key)
            if isinstance(found, dict):
                zset = key.endswith(b"dues")
                dump[key.decode()] = sorted(found) if zset else _timeless(found)
            elif not key.endswith(b"bell"):
                dump[key.decode()] = found
            dump[key.decode() + " ends"] = key in self.modelled.keyspace.deadlines
        return dump

    @rule(
        epoch=st.sampled_from([7, 7, 7, 8]),
        wishes=st.dictionaries(
            numbers,
            st.tuples(buyers, st.lists(st.integers(1, 9), max_size=3), st.integers(0, 1)),
            max_size=5,
        ),
        picking=st.booleans(),
        attempt=st.integers(1, 3),
        ttl_ms=st.sampled_from([-10_000, 500_000]),
    )
    def admit(self, epoch: int, wishes: Any, picking: bool, attempt: int, ttl_ms: int) -> None:
        batch: list[Any] = []
        for number, (buyer, picks, trusted) in wishes.items():
            batch += (f"r{number}", attempt, len(picks) or 2, buyer, trusted)
        wanted = [sorted(set(picks)) for _, picks, _ in wishes.values()] if picking else []
        if batch:
            names = "drop intents buyers cooling seats picked picks"
            words = {"epoch": epoch, "ttl_ms": ttl_ms, "batch": batch, "wanted": wanted}
            self.both("admit", names, **words)

    @rule(
        epoch=st.sampled_from([7, 7, 7, 8]),
        version=st.integers(0, 20),
        free=st.integers(0, 6),
        told=st.booleans(),
        named=st.sampled_from([0, 1, 1]),
        changes=st.none() | st.tuples(units, units),
        shut=st.sampled_from(["", "", "", "paused"]),
        limit=st.sampled_from([0, 2]),
        closed=st.lists(st.tuples(numbers, st.integers(1, 3), st.integers(0, 1)), max_size=4),
        uses=st.lists(st.tuples(buyers, st.integers(-2, 3), st.integers(0, 1)), max_size=3),
        cools=st.lists(st.tuples(buyers, st.sampled_from([0, 100_000])), max_size=2),
        ring_ms=st.sampled_from([0, 100_000]),
    )
    def settle(
        self,
        epoch: int,
        version: int,
        free: int,
        told: bool,
        named: int,
        changes: Any,
        shut: str,
        limit: int,
        closed: Any,
        uses: Any,
        cools: Any,
        ring_ms: int,
    ) -> None:
        self.both(
            "settle",
            "drop intents buyers cooling dues bell seats picked picks news",
            epoch=epoch,
            figures=[version, free, 0, 6 - free, 0, 6] if told or changes else [],
            changes=changes or [],
            terms=[version, 1, 0, shut, limit, 2, 6, 1, named] if told else [],
            closed=[part for n, attempt, kept in closed for part in (f"r{n}", attempt, kept)],
            uses=[part for use in uses for part in use],
            cools=[part for cool in cools for part in cool],
            ring_ms=ring_ms,
            life_s=1_000,
            channel="news",
        )

    @rule()
    def reap(self) -> None:
        self.both("stale_intents", "intents", count=100)

    @rule(deep=st.integers(0, 1))
    def inspect(self, deep: int) -> None:
        self.both("inspect", "drop intents seats picked picks", deep=deep)

    @rule()
    def recount(self) -> None:
        self.both("recount", "drop intents picked picks", life_s=1_000)

    @rule(epoch=st.sampled_from([7, 8]), version=st.integers(0, 20), bits=st.binary(max_size=2))
    def seat(self, epoch: int, version: int, bits: bytes) -> None:
        words = {"epoch": epoch, "version": version, "bitmap": bits, "life_s": 1_000}
        self.both("seat", "drop seats news", **words)

    @rule()
    def ring(self) -> None:
        self.both("ring_due", "dues", count=10)

    @rule(key=st.sampled_from(["intents", "buyers", "drop", "seats", "picked"]))
    def lose(self, key: str) -> None:
        name = f"vr1:{{x:1}}:{key}"
        assert self.real.delete(name) == self.modelled.perform("DEL", name)


def _timeless(found: dict[bytes, bytes]) -> dict[bytes, Any]:
    """A hash without its moments: born_ms, an intent's deadline, until when somebody waits."""
    plain: dict[bytes, Any] = {}
    for field, value in found.items():
        parts = value.split(b":")
        moment = value.isdigit() and len(value) > 11
        plain[field] = b"moment" if moment else parts[:2] + parts[3:]
    return plain


def _sorted_reply(name: str, reply: Any) -> Any:
    if name == "stale_intents":
        return sorted(reply)
    if name == "inspect" and reply:
        return [*reply[:7], reply[7] > 0, *reply[8:]]
    return reply


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_the_keyspace_does_what_valkey_does(redis_url: str) -> None:
    machine = type("SameBouncerHere", (SameBouncer,), {"url": redis_url})

    run_state_machine_as_test(
        machine, settings=settings(BOUND, max_examples=60, stateful_step_count=25)
    )
