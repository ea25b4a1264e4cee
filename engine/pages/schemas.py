"""From types to JSON Schema as a reader wants it: one name a field, each limit beside its type, and
an example of each."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from engine.infra.describe import Body

REFERENCE = "#/components/schemas/{name}"
OF_TEXT = ("pattern", "minLength", "maxLength", "format")
OF_NUMBERS = ("minimum", "maximum", "multipleOf")
SAMPLES = {
    "uuid": "0199a3f2-7c1e-7d43-9b5a-2f6c8e1d4a90",
    "date-time": "2030-01-31T12:00:00.000Z",
    "integer": 1,
    "number": 0.5,
    "boolean": True,
    "string": "text",
    "null": None,
}

Schema = dict[str, Any]
Written = tuple[list[Schema], dict[str, Schema]]


class Schemas:
    """Schemas by type; the Structs among them become components."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}

    def of(self, kind: Any) -> Schema:
        """The schema of a type: of a Struct a reference."""
        written = msgspec.json.schema_components([kind], ref_template=REFERENCE)
        renamed = msgspec.json.decode(_named(msgspec.json.encode(written)), type=Written)
        (schema,), components = renamed
        for name, component in components.items():
            told = _polished(component)
            assert self.components.setdefault(name, told) == told, f"two Structs are called {name}"
        return _polished(schema)

    def of_body(self, body: Body, needs: list[str], *, defaults: bool) -> Schema:
        """The schema of a request's body on one route; `defaults`: what is left out has one."""
        _, components = msgspec.json.schema_components([body.type], ref_template=REFERENCE)
        schema = _polished(components[body.type.__name__])
        properties = {
            name: each for name, each in schema["properties"].items() if name not in body.omits
        }
        if not defaults:
            for each in properties.values():
                each.pop("default", None)
        for name in needs:
            _must_be(properties[name])
        for name, change in body.extra.get("properties", {}).items():
            properties[name] |= change
        told = {**schema, **body.extra, "properties": properties}
        return told | ({"required": needs} if needs else {})


def _named(encoded: bytes) -> bytes:
    """`HoldViewList` for `Listing[HoldView]`."""
    return re.sub(rb"\bListing(?:_(\w+)_|\[(\w+)\])(?=\")", rb"\1\2List", encoded)


def _must_be(schema: Schema) -> None:
    """A value that is needed is not null."""
    if isinstance(schema.get("type"), list):
        schema["type"] = schema["type"][0]
    if "anyOf" in schema:
        schema["anyOf"] = [each for each in schema["anyOf"] if each.get("type") != "null"]


def _polished(schema: Schema) -> Schema:
    """A schema for readers: without other names of a field, each limit in the branch it limits."""
    told = {name: each for name, each in schema.items() if (name, each) != ("default", None)}
    if "properties" in told:
        shown = {
            name: _polished(each)
            for name, each in told["properties"].items()
            if "_" not in name and "x-hidden" not in each
        }
        told["properties"] = shown
        told["required"] = [name for name in told.get("required", []) if name in shown]
        if not told["required"]:
            del told["required"]
    if "items" in told:
        told["items"] = _polished(told["items"])
    if "enum" in told and "type" not in told:
        told["type"] = {str: "string", bool: "boolean", int: "integer"}[type(told["enum"][0])]
    return _branched(told) if "anyOf" in told else told


def _branched(schema: Schema) -> Schema:
    branches = [_polished(each) for each in schema.pop("anyOf")]
    kinds = {each.get("type") for each in branches}
    if "number" in kinds:
        branches = [each for each in branches if each.get("type") != "integer"]
    limits = {name: schema.pop(name) for name in (*OF_TEXT, *OF_NUMBERS) if name in schema}
    for branch in branches:
        own = {"string": OF_TEXT, "integer": OF_NUMBERS, "number": OF_NUMBERS}
        if "enum" not in branch:
            keywords = own.get(branch.get("type", ""), ())
            branch |= {name: limits[name] for name in keywords if name in limits}
    plain, empty = branches[0], branches[-1]
    if len(branches) == 2 and empty == {"type": "null"} and "type" in plain and "enum" not in plain:
        return schema | plain | {"type": [plain["type"], "null"]}
    return schema | {"anyOf": branches}


def sample(schema: Schema, components: dict[str, Schema]) -> Any:
    """A value that the schema allows. Of a request the names that are needed, and those of which
    there is an example."""
    if "$ref" in schema:
        return sample(components[schema["$ref"].rpartition("/")[2]], components)
    if "examples" in schema:
        return schema["examples"][0]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return sample(schema["anyOf"][0], components)
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties", {})
        told = [
            n
            for n, each in properties.items()
            if n in schema.get("required", ()) or "examples" in each
        ]
        return {name: sample(properties[name], components) for name in told}
    if kind == "array":
        return [sample(schema["items"], components)]
    return SAMPLES.get(schema.get("format", ""), schema.get("minimum", SAMPLES.get(kind or "", "")))
