"""The operator's day at the terminal: running workers go by it within a second."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from engine.infra.postgres import Unknown
from engine.infra.settings import Settings
from engine.ops import drop_acts, terminal
from engine.sale import drops
from tests.ops.conftest import Types
from tests.support.shop import Shop
from tests.support.wait import wait_until

UNREACHABLE = "redis://127.0.0.1:1/0"


async def made(types: Types, *words: str) -> int:
    """A drop of ten units from the terminal; its id."""
    given = words or ("--stock", "10", "--max-per-buyer", "5")
    said = await types("drop", "create", "Aurora", "--price", "120", *given, "--json")
    assert said.code == 0, said.err
    return int(said.json["id"])


async def reserve(shop: Shop, drop: int, buyer: str = "ann", quantity: int = 1) -> tuple[int, str]:
    body = {"dropId": drop, "userId": buyer, "quantity": quantity}
    reply = await shop.send("POST", "/reservations", body)
    return reply.status, reply.json.get("id", reply.json.get("error"))


async def test_a_drop_from_the_terminal_can_be_bought(types: Types, shop: Shop) -> None:
    drop = await made(types)

    assert (await reserve(shop, drop))[0] == 201
    shown = (await types("drop", "show", str(drop), "--json")).json
    assert (shown["heldStock"], shown["availableStock"], shown["price"]) == (1, 9, "120.00")


async def test_seats_are_named_by_the_lines_of_a_file(
    types: Types, shop: Shop, tmp_path: Path
) -> None:
    row, balcony, missing = (tmp_path / name for name in ("row", "balcony", "missing"))
    row.write_text("Loge é\n\nA2\n")
    balcony.write_text("B1\n")

    drop = await made(types, "--named", "--units", str(row))
    added = await types("drop", "add", str(drop), str(balcony), "--json")
    refused = await types("drop", "create", "A", "--price", "1", "--named", "--units", str(missing))

    assert added.json["totalStock"] == 3, added.err
    units = (await shop.send("GET", f"/drops/{drop}/units")).json["data"]
    assert [unit["name"] for unit in units] == ["Loge é", "A2", "B1"]
    assert refused.code == 2
    assert "cannot be read" in refused.err


async def test_every_option_of_a_drop_reaches_it(types: Types) -> None:
    starts = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    ends = starts + timedelta(days=1)
    options = {
        "--stock": "7",
        "--currency": "eur",
        "--starts-at": starts.isoformat(),
        "--ends-at": ends.isoformat(),
        "--hold-seconds": "90",
        "--max-hold-seconds": "300",
        "--max-per-buyer": "none",
        "--max-per-order": "4",
        "--cooldown-factor": "5",
        "--image-url": "/pictures/0-aurora.svg",
    }

    drop = await made(types, *(word for pair in options.items() for word in pair))

    shown = (await types("drop", "show", str(drop), "--json")).json
    assert shown["currency"] == "EUR"
    assert datetime.fromisoformat(shown["startsAt"]) == starts
    assert datetime.fromisoformat(shown["endsAt"]) == ends
    assert (shown["holdSeconds"], shown["maxHoldSeconds"]) == (90, 300)
    assert (shown["maxPerBuyer"], shown["maxPerOrder"]) == (None, 4)
    assert (shown["status"], shown["totalStock"]) == ("upcoming", 7)
    assert shown["imageUrl"] == "/pictures/0-aurora.svg"


async def test_a_list_shows_the_statuses_asked_for(types: Types) -> None:
    live, paused = await made(types), await made(types)
    await types("drop", "pause", str(paused))

    def ids(said: object) -> list[int]:
        return [drop["id"] for drop in said.json]  # type: ignore[attr-defined]

    assert ids(await types("drop", "list", "--json")) == [paused, live]
    assert ids(await types("drop", "list", "--status", "live", "--json")) == [live]
    both = ("--status", "live", "--status", "paused")
    assert ids(await types("drop", "list", *both, "--json", "--limit", "1")) == [paused]
    table = (await types("drop", "list")).out
    assert "paused (admin)" in table
    assert "Aurora" in table


async def test_a_list_goes_past_one_page(types: Types, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drop_acts, "PAGE", 2)
    made_so = [await made(types) for _ in range(5)]

    listed = (await types("drop", "list", "--json", "--limit", "5")).json

    assert [drop["id"] for drop in listed] == made_so[::-1]


async def test_pausing_reaches_the_workers_and_resuming_lets_them_go_on(
    types: Types, shop: Shop
) -> None:
    drop = await made(types)
    status, hold = await reserve(shop, drop)
    assert status == 201

    assert (await types("drop", "pause", str(drop))).code == 0

    async def is_paused() -> bool:
        return (await reserve(shop, drop, "bob")) == (409, "PAUSED")

    await wait_until(is_paused, "a worker knows", seconds=1.0)
    assert (await shop.send("POST", f"/purchase/{hold}", {"userId": "ann"})).status == 201
    assert (await types("drop", "resume", str(drop))).code == 0

    async def goes_on() -> bool:
        return (await reserve(shop, drop, "bob"))[0] == 201

    await wait_until(goes_on, "a worker sells again", seconds=1.0)


async def test_pausing_works_while_redis_is_away(types: Types, settings: Settings) -> None:
    drop = await made(types)

    said = await types("drop", "pause", str(drop), "--json", REDIS_URL=UNREACHABLE)

    assert (said.code, said.json["status"]) == (0, "paused")
    assert "Redis is away" in said.err


async def test_a_connection_lost_under_way_says_look_before_you_repeat(
    types: Types, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = await made(types)

    async def lost(*_: object, **__: object) -> None:
        raise Unknown

    monkeypatch.setattr(drops, "change", lost)
    said = await types("drop", "add", str(drop), "5")

    assert said.code == 3
    assert "it may have been done; look before you repeat" in said.err


async def test_terms_change_in_mid_sale_and_what_is_not_named_stays(types: Types) -> None:
    drop = str(await made(types))

    said = await types(
        "drop", "change", drop, "--price", "99.5", "--max-per-buyer", "none", "--json"
    )

    assert said.code == 0
    assert (said.json["price"], said.json["maxPerBuyer"]) == ("99.50", None)
    assert said.json["name"] == "Aurora"
    ends = (await types("drop", "change", drop, "--ends-at", "2100-01-01", "--json")).json["endsAt"]
    assert ends == "2100-01-01T00:00:00.000Z"
    none = (await types("drop", "change", drop, "--ends-at", "none", "--json")).json["endsAt"]
    assert none is None


async def test_stock_comes_and_goes_and_held_units_stay(types: Types, shop: Shop) -> None:
    drop = str(await made(types))
    assert (await reserve(shop, int(drop), quantity=3))[0] == 201

    added = (await types("drop", "add", drop, "5", "--json")).json
    some = (await types("drop", "withdraw", drop, "4", "--json")).json
    too_many = await types("drop", "withdraw", drop, "9")
    rest = (await types("drop", "withdraw", drop, "all", "--json")).json

    assert (added["totalStock"], added["availableStock"]) == (15, 12)
    assert (some["availableStock"], some["withdrawnStock"]) == (8, 4)
    assert too_many.code == 1
    assert "Only 8 units are free: nothing was withdrawn" in too_many.err
    assert (rest["availableStock"], rest["heldStock"], rest["withdrawnStock"]) == (0, 3, 12)


async def test_a_closed_drop_has_ended(types: Types, shop: Shop) -> None:
    drop = await made(types)

    assert (await types("drop", "close", str(drop), "--json")).json["status"] == "ended"
    assert await reserve(shop, drop) == (409, "ENDED")


async def test_a_hold_is_given_back_for_its_buyer_once(types: Types, shop: Shop) -> None:
    drop = await made(types)
    _, hold = await reserve(shop, drop, quantity=2)

    said = await types("drop", "release", hold)

    assert said.out == f"2 of drop {drop}, held by ann, on sale again\n"
    assert (await types("drop", "show", str(drop), "--json")).json["availableStock"] == 10
    assert (await types("drop", "release", hold)).code == 0
    (chapter,) = (await types("drop", "timeline", "ann", "--json")).json
    assert [event["event"] for event in chapter["events"]] == ["reserved", "released"]
    assert hold in (await types("drop", "timeline", "ann")).out


async def test_what_was_bought_or_never_was_is_not_given_back(types: Types, shop: Shop) -> None:
    _, hold = await reserve(shop, await made(types))
    await shop.send("POST", f"/purchase/{hold}", {"userId": "ann"})

    for id in (hold, "01932c5e-7a40-7c55-8d5c-3f2b1a0c9d8e", "nonsense"):
        assert (await types("drop", "release", id)).code == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", "A", "--price", "x", "--stock", "1"), "--price: want an amount"),
        (("create", "A", "--price", "1", "--stock", "0"), "--stock: want 1 to 1000000"),
        (("create", "A", "--price", "1", "--units", "names"), "--units: add --named"),
        (("create", "", "--price", "1", "--stock", "1"), "--name: want 1 to 200"),
        (
            ("create", "A", "--price", "1", "--stock", "1", "--max-per-buyer", "many"),
            "--max-per-buyer: want a number, or none",
        ),
        (
            ("create", "A", "--price", "1", "--stock", "1", "--ends-at", "2001-01-01"),
            "--ends-at: a drop cannot end before it starts",
        ),
        (("change", "1", "--hold-seconds", "0"), "--hold-seconds: want 1 to 86400"),
        (("change", "1", "--ends-at", "2001-01-01"), "--ends-at: a drop cannot end before"),
        (("change", "1"), "the options: names nothing that can be changed"),
        (("add", "1", "0"), "UNITS: want 1 to 1000000"),
        (("withdraw", "1", "0"), "UNITS: want 1 to"),
    ],
)
async def test_arguments_are_checked_as_the_api_checks_them_and_named_as_they_are_typed(
    types: Types, words: tuple[str, ...], said: str
) -> None:
    await made(types)

    refused = await types("drop", *words)

    assert refused.code == 2
    assert refused.err.startswith(f"velvetrope: {said}")
    assert len((await types("drop", "list", "--json")).json) == 1


@pytest.mark.parametrize("verb", ["show", "pause", "resume", "close", "add", "withdraw", "change"])
async def test_a_drop_that_is_not_there_is_code_1(types: Types, verb: str) -> None:
    more = {"add": ["1"], "withdraw": ["1"], "change": ["--price", "1"]}

    said = await types("drop", verb, "777", *more.get(verb, []))

    assert (said.code, said.err) == (1, "velvetrope: There is no drop 777\n")


@pytest.mark.parametrize(
    "words",
    [
        ("drop", "show", "99999999999999999999"),
        ("drop", "pause", "0"),
        ("drop", "list", "--limit", "-1"),
        ("drop", "list", "--limit", "99999999999"),
        ("drop", "timeline", "ann", "--limit", "0"),
        ("audit", "99999999999999999999"),
        ("reconcile", "-1"),
    ],
)
async def test_numbers_that_no_drop_has_are_not_understood(
    types: Types, words: tuple[str, ...]
) -> None:
    said = await types(*words)

    assert (said.code, said.out) == (2, "")


async def test_a_name_is_shown_as_it_is(types: Types) -> None:
    await types("drop", "create", "[bold]Aurora[/bold] :boom:", "--price", "1", "--stock", "1")

    assert "[bold]Aurora[/bold] :boom:" in (await types("drop", "list")).out


@pytest.mark.usefixtures("keeping")
async def test_a_large_drop_is_waited_for(types: Types, settings: Settings) -> None:
    drop = await made(types, "--stock", "25000", "--wait")

    shown = (await types("drop", "show", str(drop), "--json")).json
    assert shown["availableStock"] == 25_000
    assert shown["status"] == "live"


async def test_nobody_who_fills_is_complained_of(
    types: Types, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop_acts, "QUIET_SECONDS", 0.1)
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        raise KeyboardInterrupt

    monkeypatch.setattr(terminal, "note", note)
    said = await types("drop", "create", "A", "--price", "1", "--stock", "20000", "--wait")

    assert said.code == 130
    assert "does a keeper run" in notes[0]


@pytest.mark.parametrize(("width", "columns"), [(80, 3), (20, 2)])
def test_a_narrow_terminal_loses_a_column_and_not_half_a_number(width: int, columns: int) -> None:
    rows = [("1", 200_000, "2030-01-31 12:00:00"), ("2", 3, "2030-01-31 12:00:00")]

    table = terminal.fitted(("#drop", "#free", "starts"), rows, ("starts",), Console(width=width))

    assert len(table.columns) == columns
