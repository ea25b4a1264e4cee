"""The command line: `velvetrope` or `python -m engine`.

Each command's docstring is its `--help`; what it does stands in the module that it imports when it
runs, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from typing import Annotated

import cyclopts
from cyclopts import Group, Parameter

from engine import __version__
from engine.infra.aliases import DATABASE, SAME
from engine.infra.settings import Settings
from engine.ops import terminal
from engine.ops.audit_commands import audit, reconcile
from engine.ops.beta_commands import beta
from engine.ops.drop_commands import drop
from engine.ops.freezer_commands import freezer
from engine.ops.key_commands import apikey, token
from engine.ops.ledger_commands import ledger
from engine.ops.pass_commands import passes
from engine.ops.receipt_commands import receipt
from engine.ops.size_commands import size
from engine.ops.tier_commands import tier
from engine.ops.user_commands import user

RUN = Group.create_ordered("Run")
OPERATE = Group.create_ordered("Operate")
CREDENTIALS = Group.create_ordered("Credentials")
CHECK = Group.create_ordered("Check")
OTHER = Group.create_ordered("Other")

app = cyclopts.App(
    name="velvetrope",
    help="""Reservations for moments when far more people want something than there is of it.

`velvetrope dev` runs everything on this machine; `serve` and `keep` run in production, beside
`migrate`. Where DATABASE_URL is not set, commands find the servers of a `make run` in this folder.
`velvetrope COMMAND --help` says when to use a command, with examples.""",
    help_epilogue="Exit codes: 0 done · 1 the answer is no · 2 not understood · "
    "3 cannot start: settings or servers",
    help_format="markdown",
    default_parameter=Parameter(negative="", show_default=False),
    version=__version__,
    version_flags=["--version"],
)
app["--help"].group = OTHER
app["--version"].group = OTHER
drop.group = freezer.group = ledger.group = passes.group = tier.group = OPERATE
apikey.group = beta.group = receipt.group = token.group = user.group = CREDENTIALS
app.command(drop)
app.command(freezer)
app.command(audit, group=OPERATE)
app.command(reconcile, group=OPERATE)
app.command(apikey)
app.command(beta)
app.command(ledger)
app.command(passes)
app.command(tier)
app.command(receipt)
app.command(token)
app.command(user)
app.command(size, group=CHECK)

AsJson = Annotated[bool, Parameter(help="for programs")]


@app.command(group=RUN)
def dev() -> None:
    """Run everything: Postgres and Valkey of its own, migrations, demo data, workers and keeper.

    For trying it out and for development; this is what `make run` does. It honours HOST PORT
    WORKERS AUTH DATABASE_URL REDIS_URL DATA_DIR; with your own URLs it starts no server. Ctrl-C
    stops everything and the data stays; SIGHUP replaces the workers without closing the door.

    **Examples**

        velvetrope dev
        AUTH=open PORT=8001 velvetrope dev
        DATABASE_URL=postgresql://… REDIS_URL=redis://… velvetrope dev
    """
    from engine.ops.supervisor import run_dev

    sys.exit(run_dev(terminal.given(beside_a_stack=False)))


@app.command(group=RUN)
def serve() -> None:
    """Run one API worker on HOST:PORT.

    Start as many as you like, here (they share the port) or on other machines behind any
    balancer. SIGTERM drains it: requests under way are answered. It looks at its servers first
    and exits with 3, saying why, where the sale would be hurt (see `velvetrope preflight`).

    **Examples**

        velvetrope serve
        HOST=0.0.0.0 PORT=8000 velvetrope serve
    """
    from engine.ops.serve import serve as work

    terminal.run(work, "worker")


@app.command(group=RUN)
def keep() -> None:
    """Run the keepers, who free, mend, recount, seal and tidy behind the sale.

    They are: sweeper, ringer, bell, reaper, reconciler, settler, filler, auditor, sealer, checker,
    ender, postman, beater, pruner, partitioner.

    At least one process must run, or holds do not expire; a second one on another machine makes
    sure of it. They do the same work without treading on each other.

    **Examples**

        velvetrope keep
    """
    from engine.ops.serve import keep as work

    terminal.run(work, "keeper")


@app.command(group=RUN)
def listen() -> None:
    """Run a process for listeners alone: /ws, /events and /socket.io.

    Without it the workers tell listeners themselves. Start one beside them, with the same
    DATA_DIR, where thousands listen: workers hand theirs to it, so that telling them takes no
    time from those who buy. When it is gone the workers serve listeners again. With LISTENER_PORT
    it has a port as well, for a proxy or another machine that leads those paths to it.

    **Examples**

        LISTENERS=1 velvetrope dev
        velvetrope listen
        HOST=0.0.0.0 LISTENER_PORT=8010 velvetrope listen
    """
    from engine.ops.serve import listen as work

    terminal.run(work, "listener")


@app.command(group=RUN)
def provider(
    *,
    shop: Annotated[
        str, Parameter(help="the shop's address; HOST and PORT say it unless told")
    ] = "",
) -> None:
    """Run a mock payment provider: a checkout page and signed callbacks. No money moves.

    `velvetrope dev` runs one beside an AUTH=open shop that has no PAYMENT_URL. It is for trying
    out: slow, failing, doubled and late payments, on this machine alone. Its pages are at
    PROVIDER_PORT, PORT + 1 unless told; both sides must be given the same PAYMENT_SECRET, and the
    shop a PAYMENT_URL. It keeps its books in memory: GET /books shows them.

    **Examples**

        export PAYMENT_SECRET="$(openssl rand -hex 32)"
        PAYMENT_URL=http://127.0.0.1:8001/checkout velvetrope serve
        velvetrope provider
        velvetrope provider --shop http://127.0.0.1:8080
        curl 127.0.0.1:8001/payments -d '{"reservationId": "…", "amount": "139.00",
          "currency": "USD", "behaviour": "slow+duplicate", "slowSeconds": 3}'
        curl 127.0.0.1:8000/api/v1/refunds?status=due | curl 127.0.0.1:8001/refunds -d @-
    """
    from engine.ops.serve import provide

    async def work(given: Settings) -> None:
        host = f"[{given.host}]" if ":" in given.host else given.host
        await provide(given, shop or f"http://{host}:{given.port}")

    terminal.run(work, "provider")


@app.command(group=RUN)
def migrate(
    *,
    check: Annotated[
        bool, Parameter(help="change nothing; exit 1 if something is pending")
    ] = False,
) -> None:
    """Bring the database at DATABASE_URL to the present.

    Run it once before the first start, and after every update before the new workers start.
    Twice is once, and several at a time wait for each other. Migrations only go forward.

    **Examples**

        velvetrope migrate
        velvetrope migrate --check || echo "not yet"
    """
    from engine.ops.migrate import migrate as work
    from engine.ops.migrate import pending

    async def apply(given: Settings) -> None:
        count = await work(given, lambda name: terminal.say(f"applying {name}"))
        terminal.say(
            f"applied {count} migration{'s' if count != 1 else ''}: the database is up to date"
        )

    async def look(given: Settings) -> None:
        waiting = await pending(given)
        for name in waiting:
            terminal.say(f"pending: {name}")
        if waiting:
            sys.exit(terminal.NO)
        terminal.say("nothing is pending: the database is up to date")

    terminal.run(look if check else apply)


@app.command(group=RUN)
def seed(
    *,
    accounts: Annotated[
        bool, Parameter(help="also an admin and four people with accounts, as DEMO_ACCOUNTS=1 does")
    ] = False,
) -> None:
    """Put the demo on show: 20 sneaker drops and ten past purchases, a freezer, a hall, members.

    The freezer has twenty slots, some of them booked; the hall has a seat map. Only for a demo.
    Made once, and no freezer where there is one; run again, it arms the drop that opens in a minute
    anew. The accounts' password is well known with AUTH=open; else each has a random one, which is
    shown now and never again.

    **Examples**

        velvetrope seed
        velvetrope seed --accounts
    """
    from msgspec.structs import replace

    from engine.ops.seed import seed as work

    async def plant(given: Settings) -> None:
        did, made = await work(replace(given, demo_accounts=accounts or given.demo_accounts))
        terminal.say(did)
        for each in made:
            print(f"{each.email}  {each.password}")

    terminal.run(plant)


@app.command(group=CHECK)
def settings(*, json: AsJson = False) -> None:
    """Show every setting: name, value, default, unit and reason.

    Each is an environment variable. Secrets are shown by their length only, URLs without their
    passwords. A value in front of which stands a `*` is not the default.

    **Examples**

        velvetrope settings
        PORT=9000 velvetrope settings --json
    """
    from engine.ops.settings_page import rows

    listed = rows(terminal.given())
    if json:
        terminal.show_json(listed)
        return
    terminal.show(
        ("setting", "value", "default", "unit", "reason"),
        [(each.name, each.marked, each.default, each.unit, each.reason) for each in listed],
    )
    terminal.say(f"Instead of DATABASE_URL: {' '.join(DATABASE)}")
    for theirs, ours in SAME.items():
        terminal.say(f"Instead of {ours}: {theirs}")


@app.command(group=CHECK)
def preflight(
    *,
    strict: Annotated[bool, Parameter(help="exit 1 for a warning too")] = False,
    json: AsJson = False,
) -> None:
    """Look at everything a sale stands on, and say how to mend what is wrong.

    Postgres, its durability, connections, migrations, indexes and rights; Redis, its version,
    role, eviction and memory; the clocks of both; secrets, access, open files and processors.
    Run it before a sale and after every change of a server. `serve` and `keep` run a short form.

    **Exit codes**: 0 nothing fails · 1 a warning, with `--strict` · 3 something fails

    **Examples**

        velvetrope preflight
        velvetrope preflight --strict --json > preflight.json
    """
    from engine.ops.preflight import everything

    async def look(given: Settings) -> None:
        found = await everything(given)
        if json:
            terminal.show_json(found)
        else:
            terminal.show(
                ("", "check", "found", "mend"),
                [(terminal.verdict(f.verdict), f.check, f.found, f.mend) for f in found],
            )
        verdicts = {each.verdict for each in found}
        if "fail" in verdicts:
            sys.exit(terminal.REFUSED)
        if strict and "warn" in verdicts:
            sys.exit(terminal.NO)

    terminal.run(look)


def run(words: list[str] | None = None) -> None:
    """Entry point. The words are those of the command line unless given."""
    try:
        app(words, exit_on_error=False)
    except cyclopts.CycloptsError:
        sys.exit(terminal.MISUSED)  # it has said why
