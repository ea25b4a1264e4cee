"""`velvetrope pass …`: what a door needs, to know members without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import cyclopts
import msgspec
from cyclopts import Parameter

from engine.infra.errors import Misconfigured
from engine.infra.settings import SECRET_BYTES_MIN, Settings
from engine.ops import terminal

if TYPE_CHECKING:
    from engine.membership.barcode import PublicKeys

passes = cyclopts.App(
    name="pass",
    help="""Passes at a door: the keys, the check, and who does not come in any more.

The QR code of a pass is signed, so a door checks it offline. It takes with it the public keys, and
now and then the list of memberships that were revoked (docs/PASSES.md).""",
)

T = TypeVar("T")
MEND = "HMAC_SECRET must be the one the service has; or fetch its GET /wallet/keys (--keys)"


class Revoked(msgspec.Struct):
    """The list for doors: ids of memberships."""

    revoked: list[str]


class No(msgspec.Struct):
    """What `pass check --json` says of a pass that lets nobody in."""

    ok: bool
    why: str


@passes.command(name="key")
def pass_key() -> None:
    """Print the public keys that barcodes are signed with, as JSON, the one in force first.

    They change when HMAC_SECRET does; those of HMAC_SECRET_PREVIOUS are among them. The same is at
    GET /wallet/keys.

    **Examples**

        velvetrope pass key > keys.json
    """

    async def tell(given: Settings) -> None:
        terminal.show_json(_ours(given))

    terminal.run(tell)


@passes.command(name="check")
def pass_check(
    message: Annotated[str, Parameter(help="what the QR code says")],
    /,
    *,
    keys: Annotated[
        Path | None, Parameter(help="a file of `pass key`; without it: our own HMAC_SECRET's")
    ] = None,
    revoked: Annotated[Path | None, Parameter(help="a file of `pass revoked`")] = None,
    json: Annotated[bool, Parameter(help="for programs")] = False,
) -> None:
    """Say whose pass this is, or that it is none of ours. No database is asked.

    Write the message last, behind `--`: else a code that says `--help` is an option, and those end
    with 0. Without `--revoked` nobody can say whether the membership has ended since.
    docs/check_pass.py does the same with nothing installed but `cryptography`.

    **Exit codes**: 0 it is good · 1 it is not · 2 a file cannot be read

    **Examples**

        velvetrope pass check --keys keys.json --revoked revoked.json -- "$scanned"
    """
    from engine.membership import barcode

    gone = frozenset[str]() if revoked is None else frozenset(_read(revoked, Revoked).revoked)
    try:
        if keys is None:
            known = barcode.by_id(_ours(terminal.given()))
        else:
            known = barcode.by_id(_read(keys, barcode.PublicKeys))
    except ValueError:
        terminal.refuse(f"{keys}: a key in it is not in hex", terminal.MISUSED)
    except Misconfigured as why:
        terminal.refuse(str(why))
    try:
        shown = barcode.check(message, known, gone)
    except barcode.Refused as why:
        if json:
            terminal.show_json(No(ok=False, why=str(why)))
        terminal.refuse(str(why), terminal.NO)
    if json:
        terminal.show_json(shown)
        return
    terminal.say(f"{shown.tier} {shown.year} #{shown.number}, minted on {shown.minted_on}")
    if revoked is None:
        terminal.note("velvetrope: without --revoked nobody knows whether it has ended since")


@passes.command(name="revoked")
def pass_revoked() -> None:
    """Print the ids of all memberships that were revoked, as JSON, for doors.

    Write it to the door's device as often as you can: who was revoked since comes in until then.

    **Examples**

        velvetrope pass revoked > revoked.json
    """
    from engine.membership.pass_store import find_revoked
    from engine.runtime import database

    async def tell(given: Settings) -> None:
        async with database(given) as postgres:
            terminal.show_json(Revoked([id async for id in find_revoked(postgres)]))

    terminal.run(tell)


def _ours(given: Settings) -> PublicKeys:
    """The keys of our own secret. One made up here would refuse everybody."""
    from engine.membership.barcode import Barcodes

    if given.auth != "open" and len(given.hmac_secret.encode()) < SECRET_BYTES_MIN:
        raise Misconfigured(MEND)
    return Barcodes(given).public()


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as wrong:
        terminal.refuse(f"{path}: {wrong.strerror}", terminal.MISUSED)
    except msgspec.DecodeError as wrong:
        terminal.refuse(f"{path}: {wrong}", terminal.MISUSED)
