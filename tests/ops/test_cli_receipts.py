"""Receipts from the terminal: one is made to try a mint, and one is checked before it is tried."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from engine.infra.settings import Settings
from engine.ops import doorstep
from tests.ops.conftest import Types

SECRET = "a-secret-of-receipts-at-the-terminal"
HMAC = {"RECEIPT_VERIFIER": "hmac", "RECEIPT_SECRET": SECRET}


async def test_what_is_made_here_holds_here(types: Types, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await types("receipt", "create", "--transaction", "t-1", "--expires-in", "15m", **HMAC)
    monkeypatch.setattr(sys, "stdin", io.StringIO(made.out))

    said = await types("receipt", "check", **HMAC)
    again = await types("receipt", "check", made.out.strip(), **HMAC)

    assert (made.code, said.code, said.err) == (0, 0, "")
    assert said.out.split()[::2] == ["hash", "transaction"]
    assert said.out.split()[3] == "t-1"
    assert again.out == said.out


@pytest.mark.parametrize(
    ("words", "other", "code", "wanted"),
    [
        (("create", "--transaction", "t"), {"RECEIPT_SECRET": ""}, 3, "RECEIPT_SECRET is missing"),
        (("create", "--transaction", ""), {}, 1, "it names no transaction"),
        (("create", "--transaction", "t", "--expires-in", "x"), {}, 2, "want 90s, 15m"),
        (("check", "no.receipt"), {}, 1, "Invalid receipt: it is not base64url"),
        (("check", "x"), {"RECEIPT_VERIFIER": "jws"}, 3, "set RECEIPT_BUNDLE_ID"),
    ],
)
async def test_what_cannot_be_is_one_line(
    types: Types, words: tuple[str, ...], other: dict[str, str], code: int, wanted: str
) -> None:
    said = await types("receipt", *words, **HMAC | other)

    assert (said.code, said.out) == (code, "")
    assert wanted in said.err
    assert said.err.count("\n") == 1


async def test_of_another_app_or_environment_it_does_not_hold(types: Types) -> None:
    here = HMAC | {"RECEIPT_BUNDLE_ID": "com.example.app"}
    other = ("--bundle", "com.example.other"), ("--environment", "Sandbox")
    for words in other:
        made = await types("receipt", "create", "--transaction", "t", *words, **here)
        assert (await types("receipt", "check", made.out.strip(), **here)).code == 1

    made = await types("receipt", "create", "--transaction", "t", **here)
    assert (await types("receipt", "check", made.out.strip(), **here)).code == 0
    believed = await types("receipt", "check", "anything")
    assert (believed.code, "nobody vouches for it" in believed.err) == (0, True)


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({"auth": "open"}, "ok"),
        ({}, "ok"),
        ({"receipt_verifier": "hmac", "receipt_secret": SECRET}, "ok"),
        ({"receipt_verifier": "hmac"}, "fail"),
        ({"receipt_verifier": "jws", "auth": "open"}, "fail"),
    ],
)
def test_the_preflight_says_whether_receipts_prove_anything(
    given: dict[str, Any], verdict: str
) -> None:
    found = doorstep.receipts(Settings(**given))

    assert (found.check, found.verdict) == ("RECEIPT_VERIFIER", verdict)
    assert bool(found.mend) == (verdict != "ok")
