"""The pages' line to the engine (assets/live.js) and what they make of it, in a browser whose
network and clock are the test's: no server, and nothing waits for real time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, Route, WebSocketRoute, async_playwright

from tests.support.wait import wait_until

ASSETS = Path(__file__).parents[2] / "engine" / "pages" / "assets"
CHROMIUM = shutil.which(os.environ.get("CHROMIUM", "chromium"))
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
SHOP = "http://127.0.0.1:9"  # nobody is there: the test answers
OPEN_LINE = """async (options) => {
    const {live} = await import("/assets/live.js");
    window.states = []; window.heard = []; window.polls = 0; window.polled = null;
    window.line = live({
        auth: {userId: "ann"}, ...options,
        onEvent: (event, data, seq) => heard.push([event, data.drops ?? null, seq]),
        onState: (state) => states.push(state),
        poll: async () => { polls += 1; return polled; },
    });
}"""

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: set CHROMIUM to its path"),
    pytest.mark.at_length,
]


class Engine:
    """The other end: it accepts, refuses and breaks as told."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.takes_sockets = self.takes_streams = self.believes = True
        self.answers_pings = True
        self.lines: list[WebSocketRoute] = []
        self.asked: list[str] = []  # frames and streams
        self.drops: list[dict[str, Any]] = []
        self._seen = 0  # states

    async def begin(self) -> None:
        """Be there."""
        await self.page.route("**/*", self._serve)
        await self.page.route_web_socket("**/ws", self._accept)
        await self.page.clock.install()
        await self.page.goto(f"{SHOP}/blank")

    async def states(self) -> list[str]:
        """What the page was told of its line so far."""
        told: list[str] = await self.page.evaluate("states")
        return told

    async def comes_to(self, state: str) -> None:
        """Let the page's time pass, until it is told so, after what it was told before."""
        for _ in range(60):
            news = (await self.states())[self._seen :]
            if state in news:
                self._seen += news.index(state) + 1
                return
            await self.passes(0.5)
        raise AssertionError(f"never {state}: {await self.states()}")

    async def passes(self, seconds: float) -> None:
        """Let the page's time pass, in steps: between them what was said on the way arrives."""
        for _ in range(max(1, round(seconds))):
            await self.page.clock.run_for(int(min(seconds, 1) * 1000))

    def say(self, event: str, **data: Any) -> None:
        """To the newest socket."""
        self.lines[-1].send(json.dumps({"event": event, "data": data, "seq": 7}))

    async def _serve(self, route: Route) -> None:
        path = route.request.url.removeprefix(SHOP)
        if path.startswith("/assets/"):
            await route.fulfill(path=ASSETS / path.removeprefix("/assets/"))
        elif not path.startswith("/events"):
            await route.fulfill(body="<!doctype html>", content_type="text/html")
        elif not self.takes_streams:
            await route.abort()
        else:
            self.asked.append(path)
            told = json.dumps({"room": "drops", "drops": self.drops})
            body = f"event: snapshot\nid: 1-9\ndata: {told}\n\n"
            await route.fulfill(body=body, content_type="text/event-stream")

    async def _accept(self, line: WebSocketRoute) -> None:
        if not self.takes_sockets:
            await line.close()
            return
        self.lines.append(line)
        line.on_message(self._hear)
        self.say("connected", serverTime="2030-01-01T00:00:00.000Z")

    def _hear(self, text: str | bytes) -> None:
        frame = json.loads(text)
        self.asked.append(frame.get("room") or frame["action"])
        match frame:
            case {"action": "auth", "userId": name} if self.believes:
                self.say("authenticated", userId=name)
            case {"action": "auth"}:
                self.say("error", error="UNAUTHORIZED", message="auth: want a token")
            case {"action": "join", "room": "drops"}:
                self.say("snapshot", room="drops", drops=self.drops)
            case {"action": "ping"} if self.answers_pings:
                self.say("pong")


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Any]:
    """One headless Chromium."""
    async with async_playwright() as playwright:
        yield await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture
async def engine(browser: Any) -> AsyncIterator[Engine]:
    """An empty page of the shop's origin, and the engine that it talks to."""
    context = await browser.new_context()
    made = Engine(await context.new_page())
    await made.begin()
    yield made
    await context.close()


async def open_line(engine: Engine, **options: Any) -> None:
    await engine.page.evaluate(OPEN_LINE, {"rooms": ["drops", "me"], **options})


# ── the line ─────────────────────────────────────────────────────────────────────────────────────


async def test_it_joins_and_is_live_with_the_snapshot(engine: Engine) -> None:
    engine.drops = [{"id": 1}]

    await open_line(engine)
    await engine.comes_to("live")

    async def joined() -> bool:
        return engine.asked == ["auth", "drops", "me"]

    await wait_until(joined, "me, once it is believed")
    assert await engine.states() == ["retrying", "live"]
    assert ["snapshot", [{"id": 1}], 7] in await engine.page.evaluate("heard")
    assert await engine.page.evaluate("polls") == 0, "who hears need not ask"


async def test_who_is_not_believed_is_live_without_his_own_room(engine: Engine) -> None:
    engine.believes = False

    await open_line(engine)
    await engine.comes_to("live")
    await engine.passes(20)

    assert "me" not in engine.asked
    assert (await engine.states())[-1] == "live"


async def test_a_line_that_breaks_comes_back_to_the_present(engine: Engine) -> None:
    await open_line(engine)
    await engine.comes_to("live")
    engine.drops = [{"id": 2}]

    await engine.lines[-1].close()
    await engine.comes_to("retrying")
    await engine.comes_to("live")

    assert await engine.states() == ["retrying", "live", "retrying", "live"]
    assert (await engine.page.evaluate("heard"))[-1][1] == [{"id": 2}]
    assert len(engine.lines) == 2


async def test_a_line_that_is_dead_and_does_not_say_so_is_found_out(engine: Engine) -> None:
    await open_line(engine)
    await engine.comes_to("live")
    await engine.passes(60)
    assert engine.asked.count("ping") >= 3
    assert len(engine.lines) == 1, "quiet is not dead"

    engine.answers_pings = False
    await engine.comes_to("retrying")
    await engine.comes_to("live")

    assert len(engine.lines) == 2


async def test_a_stream_does_where_no_socket_is_let_through(engine: Engine) -> None:
    engine.takes_sockets = False

    await open_line(engine)
    await engine.comes_to("live")

    assert engine.asked[0] == "/events?room=drops%2Cme&userId=ann"
    assert ["snapshot", [], 9] in await engine.page.evaluate("heard")


async def test_a_token_is_never_in_an_address(engine: Engine) -> None:
    engine.takes_sockets = False

    await open_line(engine, auth={"token": "secret"})
    await engine.comes_to("live")

    assert engine.asked[0] == "/events?room=drops"


async def test_it_asks_where_neither_works_and_stops_when_one_does(engine: Engine) -> None:
    engine.takes_sockets = engine.takes_streams = False

    await open_line(engine)
    await engine.passes(10)
    assert set(await engine.states()) == {"retrying"}, "nobody answers at all"
    await engine.page.evaluate("polled = {room: 'drops', drops: [{id: 3}]}")
    await engine.comes_to("polling")
    assert (await engine.page.evaluate("heard"))[-1] == ["snapshot", [{"id": 3}], None]

    engine.takes_sockets = True
    await engine.comes_to("live")
    polls = await engine.page.evaluate("polls")
    await engine.passes(30)

    assert polls > 1
    assert await engine.page.evaluate("polls") == polls


async def test_many_do_not_come_back_at_once(engine: Engine) -> None:
    await open_line(engine)
    await engine.comes_to("live")
    engine.takes_sockets = engine.takes_streams = False
    await engine.page.evaluate("""() => {
        const wait = window.setTimeout; window.waits = [];
        window.setTimeout = (act, ms) => { waits.push(ms); return wait(act, ms); };
    }""")

    await engine.lines[-1].close()
    await engine.passes(120)

    waits = await engine.page.evaluate("waits")
    tries = [ms for ms in waits if ms not in (6_000, 0)]  # without the patience of each try
    assert len(set(tries)) == len(tries) > 10
    assert all(500 <= ms <= 15_000 for ms in tries)
    assert max(tries) > 3_000, "who fails often waits longer"


async def test_a_closed_line_says_nothing_more(engine: Engine) -> None:
    await open_line(engine)
    await engine.comes_to("live")
    heard = len(await engine.page.evaluate("heard"))

    await engine.page.evaluate("line.close()")
    await engine.passes(60)

    assert len(await engine.page.evaluate("heard")) == heard
    assert len(engine.lines) == 1
    assert (await engine.states())[-1] == "live"


# ── what is made of it ───────────────────────────────────────────────────────────────────────────

TOLD = """async (told) => {
    const drops = await import("/assets/drops.js");
    for (const [how, what] of told) drops[how](what);
    return drops.all();
}"""


async def test_what_comes_late_changes_nothing(engine: Engine) -> None:
    [drop] = await engine.page.evaluate(
        TOLD,
        [
            ["replace", [{"id": 1, "version": 5, "epoch": 1, "availableStock": 5}]],
            ["move", {"dropId": 1, "version": 7, "epoch": 1, "availableStock": 3}],
            ["move", {"dropId": 1, "version": 6, "epoch": 1, "availableStock": 4}],
            ["put", {"id": 1, "version": 6, "epoch": 1, "availableStock": 4, "name": "old"}],
            ["put", {"id": 1, "version": 7, "epoch": 1, "availableStock": 3, "name": "new"}],
            ["move", {"dropId": 2, "version": 9, "epoch": 1, "availableStock": 9}],
        ],
    )

    assert (drop["availableStock"], drop["version"], drop["name"]) == (3, 7, "new")


async def test_what_is_not_for_the_shop_is_not_known_to_it(engine: Engine) -> None:
    shown = await engine.page.evaluate(
        TOLD,
        [
            ["replace", [{"id": 1, "version": 1}, {"id": 2, "version": 1, "listed": False}]],
            ["put", {"id": 3, "version": 1, "listed": False}],
            ["put", {"id": 4, "version": 1, "listed": True}],
            ["put", {"id": 5, "version": 1}],
            ["put", {"id": 5, "version": 2, "listed": False}],
        ],
    )

    assert [drop["id"] for drop in shown] == [1, 4]


async def test_a_new_history_counts_from_the_start(engine: Engine) -> None:
    [drop] = await engine.page.evaluate(
        TOLD,
        [
            ["replace", [{"id": 1, "version": 50, "epoch": 1, "availableStock": 5}]],
            ["move", {"dropId": 1, "version": 40, "epoch": 2, "availableStock": 8}],
            ["move", {"dropId": 1, "version": 51, "epoch": 1, "availableStock": 4}],
        ],
    )

    assert (drop["availableStock"], drop["epoch"]) == (8, 2)


async def test_the_three_newest_buyers_are_kept_once_each(engine: Engine) -> None:
    def buyer(second: int) -> dict[str, str]:
        return {"username": f"Buyer {second}", "purchasedAt": f"2030-01-01T00:00:0{second}.000Z"}

    [drop] = await engine.page.evaluate(
        TOLD,
        [
            ["replace", [{"id": 1, "version": 5, "recentPurchases": [buyer(2), buyer(1)]}]],
            *[["bought", {"dropId": 1, **buyer(second)}] for second in (2, 4, 3)],
        ],
    )

    assert [one["username"] for one in drop["recentPurchases"]] == ["Buyer 4", "Buyer 3", "Buyer 2"]


async def test_deadlines_are_the_servers_whatever_our_clock_says(engine: Engine) -> None:
    left = await engine.page.evaluate("""async () => {
        const api = await import("/assets/api.js");
        const ahead = 3_600_000, at = (ms) => new Date(Date.now() + ahead + ms).toISOString();
        api.heardTime(at(-900)); // it was long under way
        api.heardTime(at(-20));
        api.heardTime(at(-400));
        return api.until(at(60_000));
    }""")

    assert left == pytest.approx(60_020, abs=15)
