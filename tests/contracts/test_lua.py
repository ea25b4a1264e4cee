"""A script's header is its whole contract, and the body keeps it to the word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.infra import lua

SCRIPTS = sorted(path.stem for path in lua.folder().glob("*.lua"))
INVARIANTS = Path(__file__).parents[2] / "docs" / "INVARIANTS.md"
KEYWORDS = set(
    re.findall(
        r"\w+",
        "and break do else elseif end false for function if in local nil not or repeat return then"
        " true until while",
    )
)
LIBRARY = {
    "redis",
    "cmsgpack",
    "tonumber",
    "tostring",
    "string",
    "math",
    "ipairs",
    "pairs",
    "unpack",
}


def _parts(name: str) -> tuple[str, str]:
    """Header and body of a script."""
    header, body = (lua.folder() / f"{name}.lua").read_text().split("\n]]\n", 1)
    return header, body


def _code(body: str) -> str:
    """The body without comments and strings."""
    body = re.sub(r"--.*", "", body)
    return re.sub(r'"[^"]*"', '""', body)


def _free_words(code: str) -> set[str]:
    """Names a body uses without having declared them."""
    local = set()
    for told in (
        r"\blocal ([\w, ]+)",
        r"\bfor ([\w, ]+?)(?: in\b|\s*=)",
        r"\bfunction\b[ \w]*\(([\w, ]*)\)",
    ):
        local |= {name for names in re.findall(told, code) for name in re.findall(r"\w+", names)}
    used = set(re.findall(r"(?<![\w.\"])([A-Za-z_]\w*)", code))
    return used - local - KEYWORDS - LIBRARY


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_words_a_header_declares_are_exactly_those_its_body_uses(name: str) -> None:
    script = lua.load(name)
    code = _code(_parts(name)[1])

    assert _free_words(code) == {*script.keys, *(word for word, _ in script.arguments)}
    assert "KEYS" not in code
    assert "ARGV" not in code


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_word_a_header_promises_to_return_is_in_the_body(name: str) -> None:
    header, body = _parts(name)
    section = header[header.index("  RETURNS") :].partition("\n\n")[0]
    words = set(re.findall(r"^    (\w+) {2,}", section, re.MULTILINE))
    for listed in re.findall(r"one a request: (.*)$", section, re.MULTILINE):
        words |= set(re.findall(r"\w+", listed)) - {"or"}

    assert [word for word in sorted(words) if f'"{word}"' not in body] == []
    if name in ("admit", "settle"):
        assert words, "it replies with a word"


@pytest.mark.parametrize("name", SCRIPTS)
def test_packed_arguments_are_unpacked_and_whole_numbers_are_not(name: str) -> None:
    body = _parts(name)[1]

    for word, kind in lua.load(name).arguments:
        assert (f"cmsgpack.unpack({word})" in body) == (kind == "packed")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_invariants_a_header_mentions_are_written_down(name: str) -> None:
    known = set(re.findall(r"^\| (INV-\d+) ", INVARIANTS.read_text(), re.MULTILINE))

    assert set(re.findall(r"INV-\d+", "".join(_parts(name)))) <= known
