"""The document names what there is: every route, error, header and example, each once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

import engine.identity.errors
import engine.sale.errors  # noqa: F401  # so that every class of problem is known
from engine.infra.errors import Problem
from engine.infra.routing import Route
from engine.pages.openapi import problems
from tests.openapi.conftest import Document
from tests.support.shop import Shop

# Of no operation: it says that there is none, or is said before it is known which.
ELSEWHERE = {
    *("METHOD_NOT_ALLOWED", "REQUEST_TIMEOUT", "HEADERS_TOO_LARGE", "URI_TOO_LONG"),
    "UPGRADE_REQUIRED",
}


def _nodes(told: Any) -> Iterator[dict[str, Any]]:
    """Every object in it, at any depth."""
    if isinstance(told, dict):
        yield told
        for each in told.values():
            yield from _nodes(each)
    if isinstance(told, list):
        for each in told:
            yield from _nodes(each)


def test_the_table_and_the_document_name_the_same_routes(
    table: list[Route], document: Document
) -> None:
    api = [route for route in table if not route.root]  # what stands beside it is no part of it
    routes = [(route.method, route.path.replace("{id:path}", "{id}")) for route in api]

    assert len(set(routes)) == len(routes) >= 25
    assert set(document.operations) == set(routes)


def test_every_operation_says_what_it_does_and_under_a_name_of_its_own(document: Document) -> None:
    tags = {tag["name"] for tag in document.told["tags"]}
    operations = list(document.operations.values())

    assert len({each["operationId"] for each in operations}) == len(operations)
    assert len({each["summary"] for each in operations}) == len(operations)
    for each in operations:
        assert each["summary"][0].isupper(), each["summary"]
        assert each["description"]
        assert not re.search(r"GET|POST|PATCH|DELETE /", each["summary"])
        assert set(each["tags"]) <= tags
        assert any(status.startswith("2") for status in each["responses"])


def test_every_error_there_is_stands_in_the_document(document: Document) -> None:
    codes = {kind.code for kind in problems()}
    told = {
        code
        for node in _nodes(document.told["paths"])
        for code in node.get("properties", {}).get("error", {}).get("enum", [])
    } | set(document.told["components"]["responses"])

    assert codes >= {"SOLD_OUT", "HOLD_EXPIRED", "IDEMPOTENCY_MISMATCH", "INTERNAL_ERROR"}
    assert codes - told == ELSEWHERE
    assert set(document.told["components"]["examples"]) == codes
    for code in codes:
        assert f"| `{code}` |" in document.told["info"]["description"]


def test_a_class_of_problem_that_is_new_would_be_told() -> None:
    class Melted(Problem):
        """It melted."""

        code = "MELTED"

    try:
        assert Melted in set(problems())
    finally:
        Melted.code = Problem.code  # the class lives as long as the process does


def test_every_error_has_the_one_shape_and_says_when_to_come_again(document: Document) -> None:
    for (method, path), operation in document.operations.items():
        for status, told in operation["responses"].items():
            answer = document.follow(told)
            assert "X-Request-ID" in answer["headers"], (method, path, status)
            if status in {"503", "409"} and "examples" in answer["content"]["application/json"]:
                assert "Retry-After" in answer["headers"], (method, path, status)
            if int(status) >= 400 and "allOf" in (
                schema := answer["content"]["application/json"]["schema"]
            ):
                assert schema["allOf"][0] == {"$ref": "#/components/schemas/Error"}


def test_every_example_is_what_its_schema_allows(document: Document) -> None:
    seen = 0
    for node in _nodes(document.told["paths"]):
        for form in node.get("content", {}).values():
            values = [form["example"]] if "example" in form else []
            values += [document.follow(each)["value"] for each in form.get("examples", {}).values()]
            for value in values:
                assert document.problems(form["schema"], value) == [], value
            seen += len(values)
    for node in _nodes(document.told["components"]["responses"]):
        for form in node.get("content", {}).values():
            for each in form["examples"].values():
                value = document.follow(each)["value"]
                assert document.problems(form["schema"], value) == [], value
                seen += 1

    assert seen > 80


def test_every_answer_that_has_a_body_has_a_schema_and_every_schema_is_used(
    document: Document,
) -> None:
    used = {node["$ref"] for node in _nodes(document.told) if "$ref" in node}

    assert used >= {
        f"#/components/schemas/{name}" for name in document.told["components"]["schemas"]
    }
    assert used >= {
        f"#/components/headers/{name}" for name in document.told["components"]["headers"]
    }
    for reference in used:
        document.follow({"$ref": reference})  # nothing hangs in the air
    for operation in document.operations.values():
        for status, told in operation["responses"].items():
            for form in document.follow(told).get("content", {}).values():
                assert form["schema"], status


def test_a_field_has_one_name(document: Document) -> None:
    names = {name for node in _nodes(document.told) for name in node.get("properties", {})}

    assert "dropId" in names
    assert [name for name in names if "_" in name] == []
    assert "snake_case" in document.told["info"]["description"]


def test_a_link_leads_to_an_operation_that_takes_an_id(document: Document) -> None:
    by_id = {each["operationId"]: key for key, each in document.operations.items()}
    links = [
        link for node in _nodes(document.told["paths"]) for link in node.get("links", {}).values()
    ]

    assert len(links) >= 15
    for link in links:
        assert "{id}" in by_id[link["operationId"]][1] or link["requestBody"]


@pytest.mark.parametrize(("auth", "needs"), [("open", True), ("required", False)])
async def test_the_document_says_how_this_server_wants_to_know_the_buyer(
    settings: Any, auth: str, needs: bool
) -> None:
    import msgspec

    from engine.infra.settings import Settings

    secrets = {
        "jwt_secret": "one secret of the document, to sign",
        "hmac_secret": "and one to salt the names, 32 bytes",
    }
    given: Settings = msgspec.structs.replace(settings, auth=auth, **secrets)
    async with Shop.open(given) as shop:
        told = (await shop.visit("GET", "/openapi.json")).json
    reserve = told["paths"]["/reservations"]["post"]
    schema = reserve["requestBody"]["content"]["application/json"]["schema"]

    assert ("userId" in schema["required"]) == needs
    assert ({} in reserve["security"]) == needs
    assert {"key": ["sale:write"]} in reserve["security"]
    assert told["paths"]["/health"]["get"]["security"] == []


async def test_the_document_is_made_once_and_known_by_its_tag(shop: Shop) -> None:
    first = await shop.visit("GET", "/openapi.json")
    same = await shop.visit(
        "GET", "/openapi.json", headers={"if-none-match": first.headers["etag"]}
    )
    again = await shop.visit("GET", "/openapi.json")

    assert first.json["openapi"] == "3.1.0"
    assert first.json["servers"] == [{"url": "/api/v1"}]
    assert (same.status, same.body) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"] == same.headers["etag"]
    assert json.dumps(first.json).count("/tmp") == 0
