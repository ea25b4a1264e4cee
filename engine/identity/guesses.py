"""Guesses: how often somebody may be wrong about a password.

A wrong one is paid twice: by the address it came from (RATE_FAILED_AUTH_PER_ADDRESS) and by the
account's e-mail, whether or not there is such an account (RATE_LOGINS_PER_ACCOUNT). A right one
costs nothing. Whoever guesses from ever new addresses can use up what an account has, and so lock
its owner out for as long as he likes: therefore each address has a few tries of its own at each
account, NEARBY, that nobody elsewhere can use up.

Many at once are no more than many in a row: while as many are under way as may be wrong, the others
wait for what becomes of those.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import time
import unicodedata
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from engine.identity.passwords import Busy
from engine.infra.errors import Unauthorized
from engine.infra.http import Call
from engine.infra.limits import Limits, Policy
from engine.infra.settings import Settings

NEARBY = "3/h burst 3"
SITE_BITS = 48  # of an IPv6 address: what a provider gives one customer
RESETS = "6/h burst 3"  # mails that one e-mail gets, however many ask for them


class _Line:
    """Those who are at one subject's password just now, and a bell for who waits."""

    __slots__ = ("bell", "inside", "outside")

    def __init__(self) -> None:
        self.inside = self.outside = 0
        self.bell = asyncio.Event()


class Guesses:
    """The tries of one worker; what it counts all workers hear of (limits.py)."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._accounts = limits.policy("logins-per-account", settings.rate_logins_per_account)
        is_on = self._accounts is not None
        self._nearby = limits.policy("logins-per-account-and-address", NEARBY if is_on else "off")
        self._resets = limits.policy("resets-per-account", RESETS if is_on else "off")
        self._addresses = limits.failures
        self._address_of = limits.address_of
        self._salt = hashlib.sha256(settings.hmac_secret.encode()).digest()
        self._lines: dict[tuple[str, str], _Line] = {}

    def who(self, call: Call) -> str | None:
        """The address of a call, as it is counted; None: it is this machine's own."""
        return _site(self._address_of(call))

    @asynccontextmanager
    async def trying(self, call: Call, email: str | None, until: float) -> AsyncIterator[None]:
        """A try at a password (None: at something else that can be guessed): an `Unauthorized` in
        here is a wrong one. Raises `RateLimited`, and `Busy` who waits past `until`."""
        address = self._address_of(call)
        lines: list[tuple[Policy, str]] = []
        if self._addresses is not None and address is not None:
            lines.append((self._addresses, address))
        async with AsyncExitStack() as stack:
            for policy, subject in lines:
                if not await stack.enter_async_context(self._inside(policy, subject, until)):
                    raise policy.refusal(policy.wait(subject, time.monotonic_ns()))
            if email is not None and self._accounts is not None:
                lines.append(await self._at(stack, self._accounts, email, address, until))
            try:
                yield
            except Unauthorized:
                for policy, subject in lines:
                    policy.take(subject, time.monotonic_ns())
                raise

    async def _at(
        self, stack: AsyncExitStack, accounts: Policy, email: str, address: str | None, until: float
    ) -> tuple[Policy, str]:
        """Come in at an account, or by the door that this address has of its own."""
        account = self._name(email)
        if await stack.enter_async_context(self._inside(accounts, account, until)):
            return accounts, account
        assert self._nearby is not None
        nearby = f"{account}:{_site(address) or 'here'}"
        if await stack.enter_async_context(self._inside(self._nearby, nearby, until)):
            return self._nearby, nearby
        raise accounts.refusal(accounts.wait(account, time.monotonic_ns()))

    @asynccontextmanager
    async def _inside(self, policy: Policy, subject: str, until: float) -> AsyncIterator[bool]:
        """Whether there is a try left, after waiting for those who may give theirs back."""
        key = policy.name, subject
        line = self._lines.setdefault(key, _Line())
        line.outside += 1
        came_in = False
        try:
            while (left := policy.left(subject, time.monotonic_ns())) > 0:
                if line.inside < left:
                    line.inside += 1
                    came_in = True
                    break
                line.bell.clear()
                try:
                    await asyncio.wait_for(line.bell.wait(), max(until - time.monotonic(), 0))
                except TimeoutError:
                    raise Busy from None
            yield came_in
        finally:
            line.outside -= 1
            line.inside -= came_in
            line.bell.set()
            if not line.outside:
                self._lines.pop(key, None)

    def wants_mail(self, email: str) -> bool:
        """Whether an e-mail may get one more link; it is counted."""
        if self._resets is None:
            return True
        ahead = self._resets.take(self._name(email), time.monotonic_ns())
        return ahead <= self._resets.span

    def _name(self, email: str) -> str:
        """An e-mail as it is counted: Redis need not know it."""
        # What a database takes for one e-mail is one here: some make an i of a dotted capital.
        plain = unicodedata.normalize("NFKD", email.strip().casefold())
        words = "".join(each for each in plain if not unicodedata.combining(each))
        raw = words.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(raw, key=self._salt, digest_size=12).hexdigest()


def _site(address: str | None) -> str | None:
    """An address as those are counted who want a hash: of IPv6 a whole site's. Whoever has one has
    65,536 networks, and could else fill the line, or guess at one account, from each of them."""
    if address is None or ":" not in address:
        return address
    try:
        network = ipaddress.ip_network(address, strict=False)
    except ValueError:  # a peer that cannot be read
        return address
    return str(network.supernet(new_prefix=min(SITE_BITS, network.prefixlen)))
