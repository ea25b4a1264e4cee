"""HTTP in, verb, HTTP out: what operators do. Every handler is a translation, no more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec

from engine.identity import deeds
from engine.identity.access import Door, require_admin
from engine.infra.errors import NotFound, Retryable
from engine.infra.http import Answer, Call, encode, invalid
from engine.infra.lists import Page, listing, page_of
from engine.infra.postgres import Postgres, Session, Undone
from engine.infra.routing import Route
from engine.infra.settings import Settings
from engine.infra.turns import Turns
from engine.record import books, idempotency
from engine.record.views import sealed
from engine.sale import arguments, bodies, described, drops, export, reconcile, store, views
from engine.sale.audit import Auditing
from engine.sale.bouncer import Bouncer
from engine.sale.models import Life, Purchase
from engine.sale.repair import repair

CHECK_VIOLATION = "23514"
EXPORTS_MAX = 3  # a worker; each writes lines while a sale wants the same processor
CSV = b"text/csv; charset=utf-8"


class OperatorRoutes:
    """The handlers, and what they need. `forget` tells this worker that a drop has changed."""

    def __init__(
        self,
        settings: Settings,
        postgres: Postgres,
        bouncer: Bouncer,
        door: Door,
        turns: Turns,
        forget: Callable[[int], None],
    ) -> None:
        self._postgres, self._bouncer, self._door = postgres, bouncer, door
        self._turns, self._forget = turns, forget
        self._exports = 0
        self._auditing = Auditing(postgres, bouncer, settings.recount_seconds)

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler."""
        table = [
            Route("create_drop", "POST", "/drops", self.create, described.CREATE_DROP),
            Route("change_drop", "PATCH", "/drops/{id}", self.change, described.CHANGE_DROP),
            Route("pause", "POST", "/drops/{id}/pause", self.pause, described.SWITCH),
            Route("resume", "POST", "/drops/{id}/resume", self.resume, described.SWITCH),
            Route("close", "POST", "/drops/{id}/close", self.close, described.SWITCH),
            Route("audit", "GET", "/drops/{id}/audit", self.audit, described.AUDIT),
            Route(
                "reconcile", "POST", "/drops/{id}/reconcile", self.reconcile, described.RECONCILE
            ),
            Route(
                "list_holds",
                "GET",
                "/drops/{id}/reservations",
                self.list_holds,
                described.LIST_HOLDS,
            ),
            Route(
                "list_sales", "GET", "/drops/{id}/purchases", self.list_sales, described.LIST_SALES
            ),
            Route(
                "timeline", "GET", "/buyers/{id:path}/timeline", self.timeline, described.TIMELINE
            ),
        ]
        own = [r if r.handler == self.audit else deeds.told(self._door, r) for r in table]
        return [self._turns.urgent(r) if r.method != "GET" else self._turns.calm(r) for r in own]

    # ── drops ────────────────────────────────────────────────────────────────────────────────

    async def create(self, call: Call) -> Answer:
        """Open a drop.

        201 at once; a large drop is `preparing` while it is filled."""
        caller = await self._door.caller(call)
        require_admin(caller)
        wish = bodies.new_drop(bodies.drop_body(call))
        request = arguments.request(call, caller, arguments.OPERATOR, "create_drop")
        created: list[int] = []

        async def effect(session: Session) -> Answer:
            try:
                created[:] = [await drops.create(session, wish)]
            except Undone as undone:
                if undone.sqlstate != CHECK_VIOLATION:
                    raise
                # Only Postgres knows when "now" is: the one check that is left to it.
                raise invalid("endsAt", "a drop cannot end before it starts") from None
            return Answer(views.drop_view(await drops.one(session, created[0]), []), 201)

        async def publish() -> None:
            await reconcile.tell(self._postgres, self._bouncer, created)

        meaning = encode(wish).decode()
        return await idempotency.once(self._postgres, request, meaning, effect, publish)

    async def change(self, call: Call) -> Answer:
        """Change a drop in mid-sale.

        New terms are for new holds; stock is changed by differences."""
        caller = await self._door.caller(call)
        require_admin(caller)
        wish = bodies.drop_change(bodies.change_body(call))
        return await self._switch(
            call, "change_drop", lambda session, id: drops.change(session, id, wish), encode(wish)
        )

    async def pause(self, call: Call) -> Answer:
        """Pause a drop.

        Nobody reserves; live holds can still be bought."""
        return await self._switch(
            call, "pause", lambda session, id: drops.pause(session, id, "admin")
        )

    async def resume(self, call: Call) -> Answer:
        """Let a paused drop go on."""
        return await self._switch(
            call, "resume", lambda session, id: drops.pause(session, id, None)
        )

    async def close(self, call: Call) -> Answer:
        """End a drop now.

        Live holds can still be bought."""
        return await self._switch(call, "close", drops.close)

    async def _switch(
        self,
        call: Call,
        operation: str,
        change: Callable[[Session, int], Awaitable[None]],
        meaning: bytes = b"",
    ) -> Answer:
        caller = await self._door.caller(call)
        require_admin(caller)
        drop_id = call.drop_id = arguments.drop_in_path(call)
        request = arguments.request(call, caller, arguments.OPERATOR, operation)

        async def effect(session: Session) -> Answer:
            await change(session, drop_id)
            return Answer(views.drop_view(await drops.one(session, drop_id)))

        async def publish() -> None:
            self._forget(drop_id)
            await reconcile.tell(self._postgres, self._bouncer, [drop_id])

        words = f"{operation} {drop_id} {meaning.decode()}"
        return await idempotency.once(self._postgres, request, words, effect, publish)

    # ── does it add up? ──────────────────────────────────────────────────────────────────────

    async def audit(self, call: Call) -> Answer:
        """Does a drop add up?

        Live figures, and when the rows behind them were last counted."""
        caller = await self._door.caller(call)
        drop_id = call.drop_id = arguments.drop_in_path(call)
        found = await self._auditing.audit(drop_id)
        if found is None:
            raise NotFound(f"There is no drop {drop_id}")
        if not caller.may("admin"):  # everybody may know what is wrong, not whose it is
            found = msgspec.structs.replace(found, offenders=[])
        return Answer(found)

    async def reconcile(self, call: Call) -> Answer:
        """Mend a drop now.

        What keepers mend in a second; with `dryRun` only say what would be done."""
        caller = await self._door.caller(call)
        require_admin(caller)
        drop_id = call.drop_id = arguments.drop_in_path(call)
        dry_run = arguments.flag(call, "dryRun", "dry_run")
        request = arguments.request(call, caller, arguments.OPERATOR, "reconcile")
        meaning = f"reconcile {drop_id}"
        known = None if dry_run else await idempotency.recall(self._postgres, request, meaning)
        if known is not None:
            return known
        if request.over is not None:
            raise request.over
        if dry_run:
            return Answer(await repair(self._postgres, self._bouncer, drop_id, dry_run=True))
        # Repairing twice is repairing once. It has connections of its own, and takes its time: no
        # transaction waits for it.
        told = Answer(await repair(self._postgres, self._bouncer, drop_id, dry_run=False))
        self._forget(drop_id)

        async def effect(session: Session) -> Answer:
            return told

        return await idempotency.once(self._postgres, request, meaning, effect)

    # ── lists ────────────────────────────────────────────────────────────────────────────────

    async def list_holds(self, call: Call) -> Answer:
        """Every hold of a drop, newest first."""
        drop_id = await self._drop_of_list(call)
        buyer, statuses = arguments.buyer_filter(call), arguments.hold_statuses(call)
        page = page_of(call)
        after = arguments.before(page)

        async def read(before: str | None, count: int, skip: int) -> list[Life]:
            return await store.list_holds(
                self._postgres,
                drop_id=drop_id,
                buyer=buyer,
                statuses=statuses,
                before=before,
                count=count,
                skip=skip,
            )

        if arguments.wants_csv(call):

            async def page_after(cursor: str | None) -> list[Life]:
                async with self._turns.turn():
                    return await read(cursor, export.PAGE, 0)

            pieces = export.lines(
                export.HOLD_COLUMNS, page_after, lambda life: life.hold.id, export.hold_cells
            )
            return self._csv(call, pieces, f"drop-{drop_id}-reservations")
        found = await read(after, page.limit + 1, page.skip)
        items = None
        if page.page:
            items = await store.count_holds(self._postgres, drop_id, buyer, statuses)
        rows = [views.hold_record(life) for life in found[: page.limit]]
        return _listed(
            rows, page, found[page.limit - 1].hold.id if _more(found, page) else None, items
        )

    async def list_sales(self, call: Call) -> Answer:
        """Every purchase of a drop, newest first."""
        drop_id = await self._drop_of_list(call)
        buyer, statuses = arguments.buyer_filter(call), arguments.purchase_statuses(call)
        refunded = None if statuses is None or len(set(statuses)) > 1 else statuses[0] == "refunded"
        page = page_of(call)
        after = arguments.before(page)

        async def read(before: str | None, count: int, skip: int) -> list[Purchase]:
            return await store.list_drop_purchases(
                self._postgres, drop_id, buyer, refunded, before, count, skip
            )

        if arguments.wants_csv(call):

            async def page_after(cursor: str | None) -> list[Purchase]:
                async with self._turns.turn():
                    return await read(cursor, export.PAGE, 0)

            pieces = export.lines(
                export.PURCHASE_COLUMNS, page_after, lambda each: each.id, export.purchase_cells
            )
            return self._csv(call, pieces, f"drop-{drop_id}-purchases")
        found = await read(after, page.limit + 1, page.skip)
        items = None
        if page.page:
            items = await store.count_drop_purchases(self._postgres, drop_id, buyer, refunded)
        shown = found[: page.limit]
        places = await books.sequences(self._postgres, [each.id for each in shown])
        rows = [views.purchase_view(each, ledger=sealed(places.get(each.id))) for each in shown]
        return _listed(rows, page, found[page.limit - 1].id if _more(found, page) else None, items)

    async def timeline(self, call: Call) -> Answer:
        """All that a buyer held, and what became of it, newest first."""
        require_admin(await self._door.caller(call))
        buyer, page = arguments.buyer_in_path(call), page_of(call)
        found = await store.list_holds(
            self._postgres,
            buyer=buyer,
            before=arguments.before(page),
            count=page.limit + 1,
            skip=page.skip,
        )
        items = await store.count_holds(self._postgres, None, buyer) if page.page else None
        rows = [views.chapter(life) for life in found[: page.limit]]
        return _listed(
            rows, page, found[page.limit - 1].hold.id if _more(found, page) else None, items
        )

    def _csv(self, call: Call, pieces: AsyncGenerator[bytes, None], name: str) -> Answer:
        shown = (b"content-disposition", f'attachment; filename="{name}.csv"'.encode())
        if call.scope["method"] == "HEAD":
            return Answer(headers=[shown], content_type=CSV, pieces=_nothing())
        if self._exports >= EXPORTS_MAX:
            raise Retryable("As many exports as may run here are under way: try again later")
        self._exports += 1

        async def counted() -> AsyncGenerator[bytes, None]:
            try:
                async with aclosing(pieces):
                    async for piece in pieces:
                        yield piece
            finally:
                self._exports -= 1

        return Answer(headers=[shown], content_type=CSV, pieces=counted())

    async def _drop_of_list(self, call: Call) -> int:
        """The drop whose list an operator asks for; 404 if there is none."""
        require_admin(await self._door.caller(call))
        drop_id = call.drop_id = arguments.drop_in_path(call)
        await drops.one(self._postgres, drop_id)
        return drop_id


async def _nothing() -> AsyncGenerator[bytes, None]:
    for piece in list[bytes]():
        yield piece


def _more(found: list[Life] | list[Purchase], page: Page) -> bool:
    return len(found) > page.limit


def _listed(rows: list[Any], page: Page, cursor: str | None, items: int | None) -> Answer:
    return Answer(listing(rows, page, cursor, items))
