"""What the routes of accounts stand on, in one hand."""

from __future__ import annotations

import msgspec

from engine.identity.access import Door
from engine.infra.combiner import Crew
from engine.infra.limits import Limits
from engine.infra.postgres import Postgres
from engine.infra.settings import Settings
from engine.infra.turns import Turns
from engine.record.activity import Activity


class Parts(msgspec.Struct, frozen=True):
    """The parts of one worker: made in runtime.worker, one of each. `reads` is for lists and
    history alone, which a replica may tell a little later."""

    settings: Settings
    postgres: Postgres
    crew: Crew
    door: Door
    turns: Turns
    limits: Limits
    activity: Activity
    reads: Postgres
