"""The ways between the service and its two servers: slow, shut, cut, or losing just this answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from loadtest.chaos.nemesis import Deed, Target, nemesis
from loadtest.chaos.stage import Stage
from loadtest.chaos.traps import Fate, TrapProxy

Toxic = Callable[[TrapProxy, Deed], Awaitable[None]]


def _way(stage: Stage, deed: Deed) -> TrapProxy:
    return stage.postgres_way if "postgres" in deed.planned.nemesis else stage.valkey_way


@asynccontextmanager
async def _poisoned(stage: Stage, deed: Deed, toxic: Toxic) -> AsyncIterator[None]:
    way = _way(stage, deed)
    before = way.done.total()
    await toxic(way, deed)
    try:
        yield
    finally:
        if toxic in COUNTED and way.done.total() == before:
            deed.nothing = "nothing went that way"
        await way.heal()


async def _slow(way: TrapProxy, deed: Deed) -> None:
    way.latency_ms = deed.words["latency_ms"] = deed.dice.choice((5, 20, 80, 200, 500))


async def _unsteady(way: TrapProxy, deed: Deed) -> None:
    way.latency_ms = deed.words["latency_ms"] = 10
    way.jitter_ms = deed.words["jitter_ms"] = deed.dice.choice((50, 200, 800))


async def _narrow(way: TrapProxy, deed: Deed) -> None:
    way.bytes_per_s = deed.words["bytes_per_s"] = deed.dice.choice((2_000, 20_000, 100_000))


async def _hole(way: TrapProxy, deed: Deed) -> None:
    way.black_hole = True


async def _hole_forth(way: TrapProxy, deed: Deed) -> None:
    way.forth.black_hole = True


async def _hole_back(way: TrapProxy, deed: Deed) -> None:
    way.back.black_hole = True


async def _half_open(way: TrapProxy, deed: Deed) -> None:
    await way.half_open()


async def _half_open_behind(way: TrapProxy, deed: Deed) -> None:
    await way.half_open("client")


async def _refusing(way: TrapProxy, deed: Deed) -> None:
    way.refusing = True
    await way.reset()


async def _losing(way: TrapProxy, deed: Deed) -> None:
    way.losing = True


async def _treacherous(way: TrapProxy, deed: Deed) -> None:
    chance = deed.words["chance"] = deed.dice.choice((0.01, 0.03))
    way.risk = {"lose": chance, "drop": chance, "hold": chance}


async def _reset(way: TrapProxy, deed: Deed) -> None:
    await way.reset()


async def _cut(way: TrapProxy, deed: Deed) -> None:
    await way.cut()


# Those of which the way counts what they did (proxy.py).
COUNTED = (_half_open, _half_open_behind, _refusing, _losing, _treacherous, _reset, _cut)

TOXICS: dict[str, tuple[Toxic, tuple[float, float], float]] = {
    "is slow": (_slow, (0.5, 8.0), 0.7),
    "is unsteady": (_unsteady, (0.5, 8.0), 0.5),
    "is narrow": (_narrow, (0.5, 5.0), 0.5),
    "is a black hole": (_hole, (0.2, 7.0), 1.0),
    "swallows questions": (_hole_forth, (0.2, 5.0), 0.5),
    "swallows answers": (_hole_back, (0.2, 5.0), 0.7),
    "is half open": (_half_open, (0.5, 8.0), 0.7),
    "is half open behind": (_half_open_behind, (0.5, 5.0), 0.5),
    "refuses": (_refusing, (0.2, 4.0), 0.7),
    "loses answers": (_losing, (0.1, 1.5), 1.0),
    "is treacherous": (_treacherous, (1.0, 6.0), 1.0),
    "is reset": (_reset, (0.0, 0.0), 0.7),
    "is cut": (_cut, (0.0, 0.0), 0.7),
}


def _enter(target: Target, server: str, name: str) -> None:
    toxic, seconds, weight = TOXICS[name]

    @nemesis(f"the way to {server} {name}", on=target, seconds=seconds, weight=weight)
    async def act(stage: Stage, deed: Deed) -> AsyncIterator[None]:
        async with _poisoned(stage, deed, toxic):
            yield


for _name in TOXICS:
    _enter("postgres wire", "postgres", _name)
    _enter("valkey wire", "valkey", _name)

# Of which statements and scripts the next few meet which fate, and how often that is planned.
BY_HAND: dict[Target, dict[str, tuple[tuple[Fate, ...], float]]] = {
    "postgres wire": {
        "claim_units": (("lose", "drop", "tear", "hold"), 0.6),
        "abort_requests": (("lose", "drop", "hold"), 0.2),
        "purchase_units": (("lose", "drop", "hold"), 0.3),
        "release_holds": (("lose", "drop", "hold"), 0.3),
        "settle_payments": (("lose", "drop", "hold"), 0.3),
        "expire_holds": (("lose", "drop", "hold"), 0.3),
        "COMMIT": (("lose", "drop"), 0.4),
    },
    "valkey wire": {
        "admit": (("lose", "drop", "tear", "hold", "duplicate"), 0.4),
        "settle": (("lose", "drop", "tear", "hold", "duplicate"), 0.4),
        "stale_intents": (("lose", "drop"), 0.2),
    },
}


def _arm(target: Target, marker: str, fate: Fate, weight: float) -> None:
    server = target.split()[0]

    @nemesis(f"{server} {marker}: {fate}", on=target, seconds=(0.5, 3.0), weight=weight)
    async def act(stage: Stage, deed: Deed) -> AsyncIterator[None]:
        way, dice = _way(stage, deed), deed.dice
        traps = [
            way.arm(marker, fate, seconds=dice.uniform(0.5, 6.0), size=dice.randint(1, 200))
            for _ in range(dice.randint(1, 4))
        ]
        yield
        way.disarm()
        deed.words["caught"] = sum(trap.caught.is_set() for trap in traps)
        if not deed.words["caught"]:
            deed.nothing = "no such statement came by"


for _target, _markers in BY_HAND.items():
    for _marker, (_fates, _weight) in _markers.items():
        for _fate in _fates:
            _arm(_target, _marker, _fate, _weight)
