"""The demo shop's page has words for everything that the engine may tell it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = (ROOT / "engine" / "pages" / "assets" / "words.js").read_text()


def test_every_reason_for_a_refund_is_put_in_words() -> None:
    settling = (ROOT / "sql" / "functions" / "settle_payments.sql").read_text()
    reasons = set(re.findall(r"(?:THEN|ELSE|reason =) '([a-z_]+)'", settling))
    reasons -= {"adopted", "purchased", "refund_due"}  # no reasons: outcomes
    words = set(re.findall(r"^  (\w+): \"", WORDS, re.MULTILINE))

    assert reasons >= {"sold_out", "already_paid", "wrong_amount", "limit", "paused"}
    assert reasons <= words


def test_every_state_of_a_hold_has_a_story() -> None:
    states = (ROOT / "sql" / "schema.sql").read_text()
    enum = re.search(r"CREATE TYPE (?:public\.)?reservation_state AS ENUM \((.*?)\);", states, re.S)
    assert enum is not None
    told = set(re.findall(r"case \"(\w+)\":", WORDS))

    # An active hold has its countdown; one that was given back needs no story; an aborted one
    # was never told of.
    assert set(re.findall(r"'(\w+)'", enum[1])) - told == {"active", "released", "aborted"}
