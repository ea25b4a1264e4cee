"""sql/schema.sql is what the migrations make, so a reader may believe it."""

from __future__ import annotations

from engine.ops import schema


def test_the_page_shows_what_the_migrations_make(database: str) -> None:
    made = schema.dump(database)

    assert schema.path().read_text() == made, "run: python -m engine.ops.schema"


def test_the_page_holds_nothing_that_differs_from_run_to_run() -> None:
    page = schema.path().read_text()

    assert "restrict" not in page
    assert "version 1" not in page
    assert "OWNER" not in page
