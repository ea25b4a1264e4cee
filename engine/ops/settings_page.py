"""Every setting as a row: its value, default, unit and reason, without any secret."""

from __future__ import annotations

import msgspec

from engine.infra.settings import Settings, is_secret
from engine.ops.doorstep import masked


class Row(msgspec.Struct, frozen=True):
    """One setting. `changed`: it is not the default."""

    name: str
    value: str
    default: str
    unit: str
    reason: str
    changed: bool

    @property
    def marked(self) -> str:
        """The value, with a star in front if it is not the default."""
        return f"* {self.value}" if self.changed else self.value


def rows(settings: Settings) -> list[Row]:
    """All settings, in the order of `Settings`."""
    fields = msgspec.inspect.type_info(Settings).fields  # type: ignore[attr-defined]
    return [_row(field, getattr(settings, field.name)) for field in fields]


def _row(field: msgspec.inspect.Field, value: object) -> Row:
    meta = field.type
    assert isinstance(meta, msgspec.inspect.Metadata), f"{field.name}: Annotated[…, why(…)]"
    assert meta.extra is not None and meta.extra_json_schema is not None, "`why` gives both"
    return Row(
        field.name.upper(),
        _shown(field.name, value),
        _shown(field.name, field.default),
        meta.extra["unit"],
        meta.extra_json_schema["description"],
        value != field.default,
    )


def _shown(name: str, value: object) -> str:
    if is_secret(name):
        return f"set, {len(str(value).encode())} bytes" if value else "not set"
    if name.endswith("_url"):
        return masked(str(value)) if value else "not set"
    if isinstance(value, bool):
        return "1" if value else "0"
    return str(value) or "not set"
