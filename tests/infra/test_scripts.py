"""The grammar of lua/: a header is a script's whole contract. A breach is not loaded."""

from __future__ import annotations

import msgspec
import pytest

from engine.infra import lua

GOOD = """\
--[[
  take: take one unit.

  KEYS
    drop   figures (hash)
    buyers who has one (hash)
  ARGV
    buyer : text    who asks
    units : int     how many
    batch : packed  all of them
  RETURNS  a word
]]
return redis.call("HGET", drop, buyer)
"""
KEYS = {"drop": "vr:drop", "buyers": "vr:buyers"}
WORDS = {"buyer": "ann", "units": 2, "batch": [1, "a"]}


def test_a_script_knows_its_promise_its_keys_and_its_typed_words() -> None:
    script = lua.parse("take", GOOD)

    assert script.promise == "take: take one unit."
    assert script.keys == ("drop", "buyers")
    assert script.arguments == (("buyer", "text"), ("units", "int"), ("batch", "packed"))


def test_names_are_bound_in_front_of_the_body_without_moving_its_lines() -> None:
    source = lua.parse("take", GOOD).source.splitlines()

    assert source.index('return redis.call("HGET", drop, buyer)') == (
        GOOD.splitlines().index('return redis.call("HGET", drop, buyer)')
    )
    bound = next(line for line in source if "KEYS[1]" in line)
    assert "local buyers = KEYS[2]" in bound
    assert "local units = tonumber(ARGV[2])" in bound


def test_a_call_must_give_exactly_the_declared_words_in_their_order() -> None:
    script = lua.parse("take", GOOD)

    bound = script.bind(KEYS, WORDS)

    assert bound == [2, "vr:drop", "vr:buyers", "ann", 2, msgspec.msgpack.encode([1, "a"])]
    for keys, words in (
        ({"drop": "x"}, WORDS),
        (dict(reversed(KEYS.items())), WORDS),
        (KEYS, {**WORDS, "more": 1}),
        (KEYS, dict(reversed(WORDS.items()))),
        (KEYS, {}),
    ):
        with pytest.raises(AssertionError, match="take"):
            script.bind(keys, words)


def test_another_text_is_another_script() -> None:
    assert lua.parse("take", GOOD).sha != lua.parse("take", GOOD + "\n").sha


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(GOOD.replace("--[[\n", ""), id="no header"),
        pytest.param("local x = 1\n" + GOOD, id="something before the header"),
        pytest.param(GOOD.replace("]]\n", ""), id="a header without an end"),
        pytest.param(GOOD.replace("take:", "give:"), id="another file's name"),
        pytest.param(GOOD.replace("take: take one unit.", "take one unit"), id="no promise"),
        pytest.param(GOOD.replace(": int ", " "), id="a word without a type"),
        pytest.param(GOOD.replace(": int ", ": float "), id="a word of an unknown type"),
        pytest.param(GOOD.replace("  RETURNS  a word\n", ""), id="no word of what it returns"),
    ],
)
def test_what_breaks_the_grammar_is_not_loaded(text: str) -> None:
    with pytest.raises(ValueError, match="take"):
        lua.parse("take", text)


def test_every_script_of_the_engine_keeps_the_grammar() -> None:
    files = sorted(lua.folder().glob("*.lua"))

    assert files
    for file in files:
        script = lua.load(file.stem)
        body = file.read_text().partition("\n]]\n")[2]
        assert "KEYS[" not in body
        assert "ARGV[" not in body
        assert script.keys
