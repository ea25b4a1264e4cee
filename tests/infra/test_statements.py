"""The grammar of sql/: name, promise, one statement, declared words. A breach is not loaded."""

from __future__ import annotations

import pytest

from engine.infra import sql

GOOD = """\
-- name: find_pair :maybe
-- One pair.
-- Index  pairs_pkey
SELECT * FROM pairs WHERE id = @id AND (size = @size OR @size IS NULL) AND sized = @size_2;
"""


def test_a_statement_knows_its_name_its_promise_and_its_words_in_order() -> None:
    query = sql.parse(GOOD)["find_pair"]

    assert (query.name, query.cardinality) == ("find_pair", "maybe")
    assert query.promise == "One pair.\nIndex  pairs_pkey"
    assert query.words == ("id", "size", "size_2")
    assert query.text.endswith("WHERE id = $1 AND (size = $2 OR $2 IS NULL) AND sized = $3")


def test_two_statements_stand_in_one_file() -> None:
    assert list(sql.parse(GOOD + GOOD.replace("find_pair", "find_other"))) == [
        "find_pair",
        "find_other",
    ]


def test_an_empty_file_has_no_statements() -> None:
    assert sql.parse("") == sql.parse("\n") == {}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("SELECT 1;\n" + GOOD, id="text before the first name"),
        pytest.param(GOOD.replace(" :maybe", ""), id="no cardinality"),
        pytest.param(GOOD.replace(":maybe", ":some"), id="an unknown cardinality"),
        pytest.param(GOOD.replace("find_pair", "find pair"), id="two words for a name"),
        pytest.param(GOOD.replace("-- One pair.\n-- Index  pairs_pkey\n", ""), id="no promise"),
        pytest.param(GOOD.replace(";", ""), id="no end"),
        pytest.param(GOOD + "DELETE FROM pairs;\n", id="two statements under one name"),
        pytest.param(GOOD + "-- and more\n", id="text after the end"),
        pytest.param(GOOD + GOOD, id="one name twice"),
        pytest.param("-- name: find_pair :maybe\n-- One pair.\n", id="no statement"),
        pytest.param("-- name: \n", id="no name"),
    ],
)
def test_what_breaks_the_grammar_is_not_loaded(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        sql.parse(text)


def test_every_statement_of_the_engine_keeps_the_grammar() -> None:
    files = sorted((sql.folder() / "queries").glob("*.sql"))

    assert files
    for file in files:
        assert sql.load(file.stem)
