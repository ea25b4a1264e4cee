"""HTTP in, rule, HTTP out: preferences. Every handler is a translation, no more."""

from __future__ import annotations

from typing import Any

from engine.identity import arguments, deeds, preferences
from engine.identity import preference_bodies as bodies
from engine.identity import preference_described as described
from engine.identity import preference_store as store
from engine.identity.models import Caller
from engine.identity.parts import Parts
from engine.infra.errors import Forbidden, NotFound, Unauthorized
from engine.infra.http import Answer, Call, encode
from engine.infra.postgres import Session
from engine.infra.routing import Route
from engine.record import idempotency
from engine.record.idempotency import REPLAYED

UNKNOWN = "User not found"


class PreferenceRoutes:
    """The handlers, and what they need."""

    def __init__(self, parts: Parts) -> None:
        self._postgres, self._door = parts.postgres, parts.door
        self._turns, self._activity = parts.turns, parts.activity

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler. Each of the first three has two paths."""
        table = []
        for path in ("/notifications/preferences/{id}", "/notifications/user/{id}"):
            table += [
                Route("show_preferences", "GET", path, self.show, described.SHOW),
                Route("change_preferences", "PUT", path, self.change, described.CHANGE),
                Route("reset_preferences", "POST", f"{path}/reset", self.reset, described.RESET),
            ]
        path = "/notifications/preferences/{id}/may-send"
        table.append(Route("may_send", "GET", path, self.may_send, described.MAY_SEND))
        calm = self._turns.calm
        return [
            calm(route if route.method == "GET" else deeds.told_of_others(self._door, route))
            for route in table
        ]

    async def show(self, call: Call) -> Answer:
        """A user's preferences.

        Of who has set none, the defaults: to look writes nothing."""
        _, user_id = await self._about_whom(call)
        return Answer(bodies.preferences_view(user_id, await self._kept(user_id)))

    async def change(self, call: Call) -> Answer:
        """Change a user's preferences.

        What is left out stays as it is. `quietHoursTimezone` is another name of `timezone`."""
        caller, user_id = await self._about_whom(call)
        changes = bodies.changes_in(call)
        request = arguments.request(call, caller, user_id, "change_preferences")

        async def effect(session: Session) -> Answer:
            await self._locked(session, user_id)
            before = await self._kept(user_id, session)
            wanted = preferences.changed(before.preferences, changes)
            created_at, updated_at = await store.put_preferences(session, user_id, wanted)
            kept = store.Kept(before.status, wanted, created_at, updated_at, before.now)
            return Answer(bodies.preferences_view(user_id, kept))

        meaning = f"change_preferences {user_id} {encode(changes).decode()}"
        answer = await idempotency.once(self._postgres, request, meaning, effect)
        return self._noted(call, user_id, answer, changed=sorted(changes))

    async def reset(self, call: Call) -> Answer:
        """Reset a user's preferences to the defaults."""
        caller, user_id = await self._about_whom(call)
        request = arguments.request(call, caller, user_id, "reset_preferences")

        async def effect(session: Session) -> Answer:
            await self._locked(session, user_id)
            await store.delete_preferences(session, user_id)
            return Answer(bodies.preferences_view(user_id, await self._kept(user_id, session)))

        meaning = f"reset_preferences {user_id}"
        answer = await idempotency.once(self._postgres, request, meaning, effect)
        return self._noted(call, user_id, answer, reset=True)

    async def may_send(self, call: Call) -> Answer:
        """May this be sent?

        Asked by whoever is about to send something. `reason` is the first thing that is in its way:
        `user_not_active`, `channel_off`, `category_off`, `quiet_hours`, else `allowed`. `until` is
        the moment at which quiet hours are over; it is absent if the whole day is quiet."""
        _, user_id = await self._about_whom(call)
        channel, category, at = bodies.question_in(call)
        kept = await self._kept(user_id)
        verdict = preferences.may_send(
            kept.status, kept.preferences, channel, category, at or kept.now
        )
        return Answer(bodies.may_send_view(verdict))

    async def _about_whom(self, call: Call) -> tuple[Caller, str]:
        """Who asks, and about which account: his own, unless he may see every one."""
        caller = await self._door.caller(call)
        if caller.kind == "anybody":
            raise Unauthorized
        user_id = arguments.id_in_path(call, "User")
        if not caller.may("identity") and caller.subject != user_id:
            raise Forbidden
        return caller, user_id

    async def _kept(self, user_id: str, session: Session | None = None) -> store.Kept:
        kept = await store.find_preferences(session or self._postgres, user_id)
        if kept is None:
            raise NotFound(UNKNOWN)
        return kept

    async def _locked(self, session: Session, user_id: str) -> None:
        """Hold the user's row. Of who was deleted nothing is written any more."""
        status = await store.lock_user(session, user_id)
        if status in (None, "deleted"):
            raise NotFound(UNKNOWN)

    def _noted(self, call: Call, user_id: str, answer: Answer, **details: Any) -> Answer:
        if REPLAYED not in answer.headers:
            action = "notification_preferences_updated"
            self._activity.note(action, user_id, call, **details)
        return answer
