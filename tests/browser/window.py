"""A browser's window that is watched: what it asks for, where, and what it complains about."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from playwright.async_api import (
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    Route,
    WebSocket,
    WebSocketRoute,
)

LOOPBACK = ("127.0.0.1", "localhost")
INLAND = ("data", "blob", "about")  # addresses that nothing is sent to
ELSEWHERE = re.compile(r"(?!(?:https?|wss?)://(?:127\.0\.0\.1|localhost)[:/])(?:https?|wss?)://.*")
# Chromium writes a line for every answer from 400 on. That of a refusal is the shop's business.
REFUSED = re.compile(r"the server responded with a status of 4\d\d")
# A page's own report of what its policy forbids, made into a complaint of the console.
TELL_OF_POLICY = """addEventListener("securitypolicyviolation", (event) => console.error(
    `policy: ${event.violatedDirective} forbids ${event.blockedURI}`));"""


class Window:
    """One context (a buyer of one's own) with one page in it."""

    def __init__(self, context: BrowserContext, page: Page) -> None:
        self.context, self.page = context, page
        self.asked: list[str] = []  # every address, sockets included
        self.sockets: list[WebSocket] = []
        self.frames: list[str] = []  # what came by sockets
        self.complaints: list[str] = []
        self._forgiven: list[re.Pattern[str]] = [REFUSED]

    @classmethod
    async def of(cls, context: BrowserContext) -> Window:
        """Watch a context from its first request on."""
        context.set_default_timeout(10_000)
        window = cls(context, await context.new_page())
        await context.route(ELSEWHERE, _turn_away)
        await context.route_web_socket(ELSEWHERE, window._hang_up)
        await context.add_init_script(TELL_OF_POLICY)
        context.on("request", window._hear_request)
        context.on("response", window._hear_response)
        context.on("console", window._hear_console)
        context.on("weberror", lambda error: window.complaints.append(f"thrown: {error.error}"))
        window.page.on("websocket", window._hear_socket)
        return window

    def forgive(self, *patterns: str) -> None:
        """What the console may say in this test, because the test provokes it."""
        self._forgiven += [re.compile(pattern) for pattern in patterns]

    def check(self) -> None:
        """Nothing left this machine, and nothing was wrong on the page."""
        assert self.asked, "a window that asked for nothing has shown nothing"
        assert not self.strangers(), f"asked for elsewhere: {self.strangers()}"
        assert not self.complaints, "\n".join(self.complaints)

    def strangers(self) -> list[str]:
        """Addresses on other machines."""
        return [url for url in self.asked if not _is_here(url)]

    def asked_for(self, part: str) -> int:
        """How often an address with that in it was asked for."""
        return sum(part in url for url in self.asked)

    def _hear_request(self, request: Request) -> None:
        self.asked.append(request.url)

    def _hear_response(self, response: Response) -> None:
        if response.status >= 500:
            self._complain(f"{response.status} {response.url}")

    def _hear_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._complain(f"{message.type}: {message.text} {message.location.get('url', '')}")

    def _hear_socket(self, socket: WebSocket) -> None:
        self.asked.append(socket.url)
        self.sockets.append(socket)
        socket.on("framereceived", lambda frame: self.frames.append(str(frame)))

    async def _hang_up(self, route: WebSocketRoute) -> None:
        self.asked.append(route.url)  # a socket that is turned away is not told of otherwise
        await route.close()

    def _complain(self, text: str) -> None:
        if not any(pattern.search(text) for pattern in self._forgiven):
            self.complaints.append(text)


def _is_here(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in INLAND or parts.hostname in LOOPBACK


async def _turn_away(route: Route) -> None:
    await route.abort()
