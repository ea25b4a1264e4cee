"""`velvetrope ledger …`: is it what was sealed, what is in it, and who shall be forgotten."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import cyclopts
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from engine.infra.errors import Misconfigured, Problem
from engine.infra.settings import Settings
from engine.ops import terminal

if TYPE_CHECKING:
    from engine.record.explain import Explained
    from engine.record.keys import Keyring
    from engine.record.models import Head, Verdict

ledger = cyclopts.App(
    name="ledger",
    help="""The ledger of purchases, refunds and bookings: verify, export, witness, erase, rotate.

It is sealed by the keepers, behind the sale. docs/LEDGER.md tells what it proves and what not.""",
)

PUBLIC_KEY_BYTES = 32
AsJson = Annotated[bool, Parameter(help="for programs")]


@ledger.command(name="verify")
def ledger_verify(
    file: Annotated[Path | None, Parameter(help="an export; none: the database")] = None,
    /,
    *,
    head: Annotated[
        Path | None,
        Parameter(
            help="a head that `ledger head` or GET /ledger/head gave earlier, kept elsewhere"
        ),
    ] = None,
    key: Annotated[
        str | None,
        Parameter(help="of a FILE: the public key, in hex, that its end must be signed with"),
    ] = None,
    json: AsJson = False,
) -> None:
    """Check the whole ledger, from the first record to the signed head.

    Of the database also whether purchases and bookings are still what was recorded, and that none
    lacks its record. A FILE is checked with no server; with HMAC_SECRET in the environment as the
    owner can, without it as anybody can: then a chain that its owner made anew looks like the
    first, unless you have a `--head` of that one.

    **Exit codes**: 0 it is what was sealed · 1 it is not

    **Examples**

        velvetrope ledger verify
        velvetrope ledger verify ledger.ndjson --head head-of-monday.json
        velvetrope ledger verify ledger.ndjson --key PUBLIC_KEY
    """
    from engine.record import transcript
    from engine.record.explain import explain
    from engine.record.verify import verify

    pinned = None if key is None else _public_key(key, file)
    witness = None if head is None else _witness(head)
    given = terminal.given(beside_a_stack=file is None)
    if file is None and not given.database_url:
        terminal.refuse("DATABASE_URL is needed here, or a `make run` in this folder")
    ring = _ring(given, needed=file is None)

    def judge(verdict: Verdict, explained: Explained | None = None) -> None:
        made = _made(verdict, by_file=file is not None, has_secret=bool(ring.secrets))
        made += [] if witness is None else [f"the head kept at record {witness.sequence:,}"]
        made += [] if pinned is None else ["that the key given signed the end"]
        if json:
            terminal.show_json(verdict)
        else:
            _tell(verdict, made, explained)
        if not verdict.valid:
            sys.exit(terminal.NO)

    if file is not None:
        try:
            with _progress() as seen, _opened(file) as lines:
                verdict = transcript.verify_lines(
                    lines, ring, witness, lambda n: seen(n, 0), pinned
                )
        except Problem as problem:
            terminal.refuse(f"{file}: {problem.message}", terminal.MISUSED)
        judge(verdict)
        return

    async def look(given: Settings) -> None:
        from engine.runtime import database

        async with database(given) as postgres:
            with _progress() as seen:

                async def told(checked: int, entries: int) -> None:
                    seen(checked, entries)

                verdict = await verify(postgres, ring, witness=witness, told=told)
            explained = await explain(postgres, verdict)
        judge(verdict, explained)

    terminal.run(look)


@ledger.command(name="export")
def ledger_export() -> None:
    """Print the whole ledger: a line for each key, link and record, the signed head at the end.

    It names no buyer: who he was is a salted hash. Keep it where the database's owner may not
    write; `ledger verify FILE` checks it with no server.

    **Examples**

        velvetrope ledger export > ledger.ndjson
    """
    from engine.record import transcript
    from engine.record.verify import Pace
    from engine.runtime import database

    async def write(given: Settings) -> None:
        async with database(given) as postgres:
            async for piece in transcript.lines(postgres, Pace(1.0)):
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()

    terminal.run(write)


@ledger.command(name="head")
def ledger_head() -> None:
    """Print where the ledger ends, signed, as one line.

    Keep it with somebody else, once a day say: `ledger verify --head` then tells whether all that
    was in the ledger that day is still in it.

    **Examples**

        velvetrope ledger head > head-of-monday.json
    """
    import msgspec

    from engine.record import books, transcript
    from engine.runtime import database

    async def show(given: Settings) -> None:
        async with database(given) as postgres:
            found = (await books.ends(postgres)).head
        if not found.height:
            terminal.refuse("nothing is sealed yet", terminal.NO)
        print(msgspec.json.encode(transcript.head_line(found)).decode())

    terminal.run(show)


@ledger.command(name="forget")
def ledger_forget(
    buyer: Annotated[str, Parameter(help="the buyer's id, as the shop names him")], /
) -> None:
    """Erase a buyer from the ledger: his salted hashes are nobody's from now on.

    The chain stays valid, with everything he bought in it. What is left of him elsewhere, such as
    his purchases' rows, is not touched. It cannot be undone.

    **Examples**

        velvetrope ledger forget ann
    """
    from engine.record import books
    from engine.runtime import database

    async def work(given: Settings) -> None:
        async with database(given) as postgres:
            was_there = await books.forget_salt(postgres, buyer)
        if not was_there:
            terminal.refuse("the ledger knows nobody by that name", terminal.NO)
        terminal.say("forgotten: the ledger stays valid, and nobody can tell that it was him")

    terminal.run(work, deed="forget_buyer")


@ledger.command(name="rotate")
def ledger_rotate(
    *,
    lost: Annotated[
        bool, Parameter(help="the old secret is gone: nobody vouches for the new one")
    ] = False,
) -> None:
    """Put a new HMAC_SECRET or LEDGER_SIGNING_KEY in force now, not with the next record.

    Set the new one and keep the old one as HMAC_SECRET_PREVIOUS (LEDGER_SIGNING_KEY_PREVIOUS), for
    workers and keepers too: then the old chain vouches for the new key, in a record of its own.

    **Examples**

        HMAC_SECRET=$new HMAC_SECRET_PREVIOUS=$old velvetrope ledger rotate
    """
    from engine.record.seal import rotate
    from engine.runtime import database

    async def work(given: Settings) -> None:
        async with database(given) as postgres:
            done = await rotate(postgres, _ring(given), lost=lost)
        terminal.say(
            "the new key is in force" if done else "nothing to do: no other key is in force"
        )

    terminal.run(work, deed="rotate_ledger_key", lost=lost)


def _ring(given: Settings, *, needed: bool = True) -> Keyring:
    """Our keys; none of who checks a file without them."""
    from engine.record import keys

    if not needed and not given.hmac_secret:
        return keys.NO_KEYS
    try:
        return keys.ring(given)
    except Misconfigured as why:
        terminal.refuse(str(why))


def _witness(path: Path) -> Head:
    from engine.record import transcript

    try:
        return transcript.witness_of(_read(path))
    except Problem as problem:
        terminal.refuse(f"{path}: {problem.message}", terminal.MISUSED)


def _public_key(text: str, file: Path | None) -> bytes:
    """A key that was given; of the database there is no choice."""
    if file is None:
        terminal.refuse(
            "--key is for a FILE: the database is checked with our own", terminal.MISUSED
        )
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != PUBLIC_KEY_BYTES:
        terminal.refuse(
            "--key: want 64 hex digits, `publicKey` of GET /ledger/key", terminal.MISUSED
        )
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as wrong:
        terminal.refuse(f"{path}: {wrong.strerror}", terminal.MISUSED)


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as wrong:
        terminal.refuse(f"{path}: {wrong.strerror}", terminal.MISUSED)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A line on the terminal's other channel that says how far it is; none where nobody looks."""
    if not sys.stderr.isatty():
        yield lambda checked, entries: None
        return
    columns = (TextColumn("{task.completed:,} records"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda checked, entries: bar.update(task, completed=checked, total=entries or None)


def _made(verdict: Verdict, *, by_file: bool, has_secret: bool) -> list[str]:
    """What was checked."""
    made = ["hashes", "order", "nonces", "the signed head"]
    made += ["every link's HMAC"] if has_secret and not verdict.unchecked else []
    return made + ([] if by_file else ["the rows behind it"])


def _tell(verdict: Verdict, made: list[str], explained: Explained | None) -> None:
    """A verdict for a person, with what was checked and what could not be."""
    if verdict.valid:
        terminal.say(f"valid: {verdict.entries:,} records; checked: {', '.join(made)}")
    else:
        place = "" if verdict.invalid_at is None else f" at record {verdict.invalid_at:,}"
        subject = verdict.subject if explained is None else explained.subject
        whose = "" if subject is None else f" ({subject})"
        terminal.say(f"NOT VALID: {verdict.reason}{place}{whose}")
        for line in explained.lines if explained is not None else ():
            terminal.say(f"  {line}")
    if verdict.signed_by:
        terminal.note(
            f"velvetrope: signed with the key {verdict.signed_by}, as the file says: is that the "
            "shop's (GET /ledger/key)? Whoever made another key could have made another ledger"
        )
    if verdict.unchecked:
        terminal.note(
            "velvetrope: without HMAC_SECRET (or HMAC_SECRET_PREVIOUS) of "
            f"{', '.join(verdict.unchecked)}: checked as anybody can"
        )
