"""A worker with AUTH=required, and callers with credentials of every kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from engine.identity import apikeys, tokens
from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.support.http import Reply
from tests.support.provider import SECRET
from tests.support.shop import Shop

JWT_SECRET = "a secret of the guarded, for the tokens"
HMAC_SECRET = "another of the guarded, for names shown"


class Caller:
    """Somebody with a credential, or without."""

    def __init__(self, shop: Shop, headers: dict[str, str]) -> None:
        self._shop, self._headers = shop, headers

    async def asks(self, method: str, path: str, body: dict[str, Any] | None = None) -> Reply:
        """One request with the credential."""
        return await self._shop.send(method, path, body, self._headers)

    async def is_told(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, str]:
        """Status and code of a refusal; the code is empty when it was none."""
        reply = await self.asks(method, path, body)
        return reply.status, reply.error if reply.status >= 400 else ""


@pytest.fixture
def settings(database: str, redis_url: str, tmp_path: Path) -> Settings:
    """AUTH=required with secrets."""
    return Settings(
        data_dir=tmp_path,
        database_url=database,
        redis_url=redis_url,
        jwt_secret=JWT_SECRET,
        hmac_secret=HMAC_SECRET,
        payment_secret=SECRET,
        log_level="warning",
    )


@pytest.fixture
def nobody(shop: Shop) -> Caller:
    """No credential."""
    return Caller(shop, {})


@pytest.fixture
def bearer(shop: Shop) -> Callable[[str], Caller]:
    """`bearer(token)` sends that token."""
    return lambda token: Caller(shop, {"authorization": f"Bearer {token}"})


@pytest.fixture
def buyer(bearer: Callable[[str], Caller]) -> Callable[[str], Caller]:
    """`buyer("ann")` is Ann with a good token."""
    return lambda name: bearer(tokens.create(JWT_SECRET, name, 3_600))


@pytest.fixture
def admin(bearer: Callable[[str], Caller]) -> Caller:
    """An admin with a good token."""
    return bearer(tokens.create(JWT_SECRET, "root", 3_600, "admin"))


@pytest.fixture
def server(shop: Shop, ground: Ground) -> Callable[..., Awaitable[Caller]]:
    """`await server("sale:read")` is a shop's server with a key of these scopes."""

    async def with_key(*scopes: str) -> Caller:
        key = await apikeys.create(ground.postgres, "a shop", list(scopes))
        return Caller(shop, {"x-api-key": key})

    return with_key


@pytest.fixture
async def drop(admin: Caller) -> int:
    """A drop of ten units on sale, five a buyer."""
    body = {"name": "Aurora", "price": "120.00", "totalStock": 10, "maxPerBuyer": 5}
    return int((await admin.asks("POST", "/drops", body)).json["id"])
