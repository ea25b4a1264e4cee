"""The document as a worker serves it, and the table of routes it was made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import jsonschema_rs
import pytest

from engine import runtime
from engine.infra.routing import Route
from engine.infra.settings import Settings
from tests.support.shop import Shop


@pytest.fixture
async def table(settings: Settings) -> AsyncIterator[list[Route]]:
    """The one table of routes."""
    async with runtime.worker(settings) as house:
        yield house.routes


@pytest.fixture
async def document(shop: Shop) -> Document:
    """GET /openapi.json."""
    reply = await shop.visit("GET", "/openapi.json")
    assert reply.status == 200
    return Document(reply.json)


class Document:
    """An OpenAPI document that can be asked."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told
        self.operations: dict[tuple[str, str], dict[str, Any]] = {
            (method.upper(), path): operation
            for path, item in told["paths"].items()
            for method, operation in item.items()
        }

    def follow(self, told: dict[str, Any]) -> dict[str, Any]:
        """What a reference stands for."""
        while "$ref" in told:
            found: Any = self.told
            for part in told["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            told = found
        return told

    def problems(self, schema: dict[str, Any], value: Any) -> list[str]:
        """What is wrong with a value, as JSON Schema sees it."""
        whole = {**schema, "components": self.told["components"]}
        validator = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
        return [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(value)]

    def answer(self, method: str, path: str, status: int) -> dict[str, Any]:
        """A documented answer; it must be there."""
        return self.follow(self.operations[method, path]["responses"][str(status)])
