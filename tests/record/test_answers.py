"""What is told of the ledger: to everybody, to a buyer who checks offline, to who keeps a file."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from engine import app, runtime
from engine.infra.settings import Settings
from engine.record import keys, look
from engine.record.ledger import BLOCK_MAX
from engine.record.models import Verdict
from engine.record.seal import seal
from engine.record.transcript import Unreadable, verify_lines, witness_of
from engine.record.verify import verify
from tests.support.ledger import SECRET, Facts, ring
from tests.support.shop import Shop

SCRIPT = Path(__file__).parents[2] / "docs" / "check_proof.py"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With the secret that the ledger of the tests is sealed with."""
    return replace(settings, hmac_secret=SECRET)


async def test_a_purchase_says_where_it_stands_as_soon_as_it_is_sealed(
    shop: Shop, settings: Settings
) -> None:
    drop = await shop.open_drop(3, maxPerBuyer=3)
    hold = (await shop.reserve(drop, "ann")).json["id"]
    bought = await shop.confirm(hold, "ann", "k")
    before = await shop.send("GET", f"/purchases/{bought.json['id']}?userId=ann")
    async with runtime.database(settings) as postgres:
        assert await seal(postgres, keys.ring(settings)) == 1
    after = await shop.send("GET", f"/purchases/{bought.json['id']}?userId=ann")
    listed = await shop.send("GET", "/purchases/mine?userId=ann")
    operators = await shop.send("GET", f"/drops/{drop}/purchases")
    again = await shop.confirm(hold, "ann")
    replayed = await shop.confirm(hold, "ann", "k")

    assert bought.json["ledger"] == before.json["ledger"] == {"sealed": False}
    assert after.json["ledger"] == again.json["ledger"] == {"sealed": True, "sequence": 1}
    assert listed.json["data"][0]["ledger"] == operators.json["data"][0]["ledger"]
    assert listed.json["data"][0]["ledger"] == {"sealed": True, "sequence": 1}
    assert replayed.json == bought.json, "a replay is the first answer"


@pytest.mark.usefixtures("book")
async def test_the_newest_ten_are_shown_with_their_links(shop: Shop) -> None:
    first = await shop.send("GET", "/ledger")
    second = await shop.send("GET", f"/ledger?limit=50&cursor={first.json['nextCursor']}")
    rows = first.json["data"] + second.json["data"]

    assert [row["sequence"] for row in first.json["data"]] == list(range(16, 6, -1))
    assert [row["sequence"] for row in rows] == list(range(16, 0, -1))
    assert second.json["nextCursor"] is None
    entry, record = rows[0], rows[4]
    assert set(entry) == {
        *("sequence", "action", "subject", "previousHash", "dataHash", "nonce", "timestamp")
    }
    assert entry["previousHash"] == rows[1]["dataHash"]
    assert record["block"] == {"height": 6, "index": 1, "size": 4}
    assert (record["action"], record["dataHash"]) == ("PURCHASED", rows[2]["dataHash"])
    assert rows[-1]["previousHash"] == "0" * 64
    for query in ("limit=0", "limit=51", "limit=x", "cursor=0", "cursor=x"):
        assert (await shop.send("GET", f"/ledger?{query}")).error == "VALIDATION_ERROR", query


async def test_a_buyer_checks_a_proof_offline_with_the_script_of_the_docs(
    shop: Shop, book: Facts, tmp_path: Path
) -> None:
    key = (await shop.send("GET", "/ledger/key")).json["publicKey"]

    def checked(
        proof: dict[str, Any], *more: str, python: str = "-u"
    ) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "proof.json"
        path.write_text(json.dumps(proof, ensure_ascii=False), encoding="utf-8")
        words = [sys.executable, python, str(SCRIPT), str(path), *more]
        return subprocess.run(words, check=False, capture_output=True, text=True)

    assert len(SCRIPT.read_text().splitlines()) <= 30
    proofs = [(await shop.send("GET", f"/ledger/{n}/proof")).json for n in range(1, 17)]
    for number in (3, 8, 13, 16):
        said = await asyncio.to_thread(checked, proofs[number - 1], key)
        assert (said.returncode, said.stdout.startswith("proven: {")) == (0, True), said.stderr
    lies: list[Callable[[dict[str, Any]], Any]] = [
        lambda p: p.update(record=p["record"].replace("12000", "1")),
        lambda p: p["link"].update(root="00" * 32),
        lambda p: p["head"].update(height=p["head"]["height"] + 1),
        lambda p: p.update(path=p["path"][1:]),
        lambda p: p.update(signature="00" * 64),
        lambda p: p.pop("link"),
    ]
    for lie in lies:
        proof = json.loads(json.dumps(proofs[2]))
        lie(proof)
        for python in ("-u", "-O"):  # which leaves out what is only asserted
            said = await asyncio.to_thread(checked, proof, key, python=python)
            assert (said.returncode, said.stderr.count("\n")) == (1, 1)
            assert said.stderr.startswith("not proven: ")
    assert (await asyncio.to_thread(checked, proofs[2], "5a" * 32)).returncode == 1
    unsure = await asyncio.to_thread(checked, proofs[2])
    assert unsure.stdout.startswith(f"proven, if {key} is the shop's key: "), "anybody has a key"
    assert (await shop.send("GET", "/ledger/17/proof")).status == 404
    assert (await shop.send("GET", "/ledger/x/proof")).status == 404
    await book.connection.execute("UPDATE ledger_entries SET content = 'x' WHERE sequence = 3")
    assert (await shop.send("GET", "/ledger/3/proof")).status == 500, "no proof of what is false"


def _number(line: bytes) -> int:
    return int(json.loads(line).get("sequence", 0))


async def test_a_file_is_checked_with_no_server_and_whatever_is_changed_in_it_is_found(
    shop: Shop, book: Facts
) -> None:
    reply = await shop.send("GET", "/ledger/export")
    lines = reply.body.splitlines(keepends=True)
    is_record = [b'"type":"record"' in line for line in lines]
    places = [i for i, record in enumerate(is_record) if record]
    third, eighth, ninth = places[2], places[7], places[8]
    mine, anybody = ring(), keys.NO_KEYS
    witness = witness_of(lines[-1])

    assert reply.headers["content-type"] == "application/x-ndjson"
    assert verify_lines(lines, mine, witness) == Verdict(True, 16)
    answer = (await shop.send("GET", "/ledger/head")).body
    assert replace(witness_of(answer), hmac_key=witness.hmac_key) == witness
    public = bytes.fromhex(json.loads(answer)["publicKey"])
    assert verify_lines(lines, anybody, witness_of(answer), pinned=public).signed_by is None
    assert verify_lines(lines, anybody, pinned=b"\x5a" * 32).reason == "bad_head"
    assert verify_lines(lines, anybody, witness) == Verdict(
        True,
        16,
        unchecked=[mine.hmac_key],
        signed_by=(mine.public(mine.signing_key) or b"").hex(),
    )
    assert b"buyer-" not in reply.body, "it names nobody"

    def edited(place: int, old: bytes, new: bytes) -> list[bytes]:
        assert old in lines[place]
        return [line.replace(old, new, 1) if i == place else line for i, line in enumerate(lines)]

    def without(*gone: int) -> list[bytes]:
        return [line for i, line in enumerate(lines) if i not in gone]

    forever = edited(third - 3, b'"records":6', b'"records":1' + b"0" * 18)

    def endless() -> Iterator[bytes]:
        yield from forever[:third]
        for _ in range(10 * BLOCK_MAX):
            yield lines[third]
        raise AssertionError("all of it was kept")

    swapped = lines[:]
    swapped[third], swapped[third + 1] = swapped[third + 1], swapped[third]
    crossed = [*lines[: eighth - 1], *lines[ninth - 1 : ninth + 1], *lines[eighth - 1 : eighth + 1]]
    crossed += lines[ninth + 1 :]
    nonce = json.loads(lines[eighth - 1])["nonce"]
    damages = {
        "a field": (edited(eighth, b"MAN-", b"NAM-"), (8, "changed")),
        "a field of a block": (edited(third, b"12000", b"1"), (3, "changed")),
        "a record is gone": (without(third), (3, "removed")),
        "an entry is gone": (without(eighth - 1, eighth), (8, "removed")),
        "an entry comes twice": ([*lines[: eighth + 1], *lines[eighth:]], (8, "inserted")),
        "two records": (swapped, (3, "removed")),
        "two entries": (crossed, (8, "removed")),
        "more after the head": ([*lines, lines[third]], (17, "inserted")),
        "a record's name": (edited(third, b"PURCHASED", b"REFUNDED"), (3, "changed")),
        "a key": (edited(0, b'"since":1', b'"since":2'), (None, "bad_keys")),
        "the tail": (lines[:-5], (15, "truncated")),
        "the tail but for its head": ([*lines[:-5], lines[-1]], (15, "truncated")),
        "a nonce": (
            edited(eighth - 1, b'"nonce":%d' % nonce, b'"nonce":%d' % (nonce + 1)),
            (8, "wrong_nonce"),
        ),
        "the head": (
            edited(len(lines) - 1, b'"signature":"', b'"signature":"00'),
            (None, "bad_head"),
        ),
    }
    for name, (text, wanted) in damages.items():
        for reader in (mine, anybody):
            found = verify_lines(text, reader)
            assert (found.invalid_at, found.reason) == wanted, name
    assert verify_lines(endless(), mine).reason == "inserted"
    other = replace(witness, root=b"\0" * 32)
    assert verify_lines(lines, mine, other).reason == "other_history"
    with pytest.raises(Unreadable, match="line 1"):
        verify_lines([b"nonsense"], mine)
    assert (await shop.send("HEAD", "/ledger/export")).body == b""


@pytest.fixture
async def two_shops(settings: Settings) -> AsyncIterator[tuple[Shop, Shop]]:
    """Two workers of one service."""
    async with runtime.worker(settings) as one, runtime.worker(settings) as two:
        yield Shop(app.build(one.routes, settings)), Shop(app.build(two.routes, settings))


async def test_all_who_ask_at_once_are_told_of_one_look_and_others_of_its_verdict(
    two_shops: tuple[Shop, Shop], book: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []

    async def counted(*words: Any, **more: Any) -> Verdict:
        looked.append(1)
        return await verify(*words, **more)

    monkeypatch.setattr(look, "verify", counted)
    one, two = two_shops
    replies = await asyncio.gather(*(one.send("GET", "/ledger/verify") for _ in range(20)))
    replies.append(await two.send("GET", "/ledger/verify"))

    assert len(looked) == 1
    assert {reply.status for reply in replies} == {200}
    assert {(r.json["valid"], r.json["entries"], r.json["checkedAt"]) for r in replies} == {
        (True, 16, replies[0].json["checkedAt"])
    }


async def test_a_verdict_that_was_written_past_us_is_none(
    two_shops: tuple[Shop, Shop], book: Facts
) -> None:
    await book.connection.execute("UPDATE ledger_entries SET content = 'x' WHERE sequence = 3")
    told = look.Told(Verdict(True, 16), "2030-01-01T00:00:00.000Z")
    await book.connection.execute(
        "UPDATE ledger_checks SET verdict = $1, mac = repeat('0', 64), ended_at = now()",
        msgspec.json.encode(told).decode(),
    )

    found = (await two_shops[0].send("GET", "/ledger/verify")).json

    assert (found["valid"], found["invalidAt"], found["reason"]) == (False, 3, "changed")


async def test_a_look_that_takes_longer_is_told_of_as_far_as_it_is(
    shop: Shop, book: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, begun = asyncio.Event(), asyncio.Event()

    async def long(postgres: Any, ring: Any, *, share: float, told: Any) -> Verdict:
        await told(7, 16)
        begun.set()
        await hold.wait()
        return Verdict(True, 16)

    monkeypatch.setattr(look, "verify", long)
    monkeypatch.setattr("engine.record.routes.PATIENCE_SECONDS", 0.05)
    early = await shop.send("GET", "/ledger/verify")
    await begun.wait()
    later = await shop.send("GET", "/ledger/verify")
    hold.set()
    monkeypatch.setattr("engine.record.routes.PATIENCE_SECONDS", 5.0)
    done = await shop.send("GET", "/ledger/verify")

    assert (early.status, later.status, done.status) == (202, 202, 200)
    assert later.json == {"checked": 7, "entries": 16}
    assert later.headers["retry-after"] == "1"
    assert done.json["valid"]
