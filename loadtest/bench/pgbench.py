"""What Postgres itself can do: pgbench runs the engine's own claim statement, batches of 128.

The statement is the engine's (sql/queries/sale.sql): no driver, no Python, no bouncer. Its arrays
lie ready in a table; made up on the way they would take Postgres 7 of some 45 µs a unit, and
pgbench would look slower than it is.
"""

from __future__ import annotations

import re
import resource
import subprocess

import msgspec

from engine.infra import sql
from engine.ops import binaries
from engine.sale.bouncer import ATTEMPTS_PER_EPOCH
from loadtest.client import Watch
from loadtest.fleet import Untrustworthy

BATCH = 128
THREADS = 2

READY = (
    "CREATE SCHEMA IF NOT EXISTS bench",
    "DROP TABLE IF EXISTS bench.batches",
    "CREATE UNLOGGED TABLE bench.batches"
    " (n bigint PRIMARY KEY, requests uuid[], ids uuid[], buyers text[])",
    "DROP SEQUENCE IF EXISTS bench.numbers",
    "CREATE SEQUENCE bench.numbers",
)
# Requests sorted, as the engine sorts them; buyers are named after them and so sorted as well.
FILL = """
INSERT INTO bench.batches
SELECT batch.n, made.*
  FROM generate_series(1, {batches}) AS batch (n)
 CROSS JOIN LATERAL (
       SELECT array_agg(one.request), array_agg(one.id), array_agg('p-' || one.request)
         FROM (SELECT gen_random_uuid() AS request, {id} AS id
                 FROM generate_series(batch.n, batch.n + {batch} - 1)
                ORDER BY 1) AS one) AS made
"""
NEXT = """\
WITH batch AS MATERIALIZED (
    SELECT b.* FROM bench.batches AS b WHERE b.n = (SELECT nextval('bench.numbers'))
)
"""


class Ran(msgspec.Struct, frozen=True):
    """What pgbench did."""

    units: int
    units_per_s: float
    cpu_seconds: float  # of pgbench itself


def script(drop_id: int, epoch: int) -> str:
    """One transaction: the claim of a batch. Raises `Untrustworthy` if the statement has words
    that are not known here."""
    query = sql.load("sale")["claim_units"]
    ones = f"array_fill(1, ARRAY[{BATCH}])"
    attempt = f"array_fill({epoch * ATTEMPTS_PER_EPOCH + 1}::bigint, ARRAY[{BATCH}])"
    words = {
        "drop_id": f"{drop_id}",
        "epoch": f"{epoch}",
        "requests": "(SELECT batch.requests FROM batch)",
        "attempts": attempt,
        "ids": "(SELECT batch.ids FROM batch)",
        "buyers": "(SELECT batch.buyers FROM batch)",
        "quantities": ones,
        "buyers_once": "(SELECT batch.buyers FROM batch)",
        "units_once": ones,
    }
    if unknown := set(query.words) - set(words):
        raise Untrustworthy(f"claim_units wants {sorted(unknown)}: tell loadtest/bench/pgbench.py")
    text = re.sub(r"\$(\d+)", lambda found: words[query.words[int(found[1]) - 1]], query.text)
    return NEXT + text + ";\n"


def batches(units: int) -> list[str]:
    """The statements that make batches for so many units; those of another run are gone."""
    newest = binaries.postgres_major(binaries.postgres()) >= 18
    id = "uuidv7()" if newest else "gen_random_uuid()"
    return [*READY, FILL.format(batches=units // BATCH, batch=BATCH, id=id)]


def run(url: str, script: str, clients: int, seconds: int, watch: Watch) -> Ran:
    """That transaction over and over from so many connections, each statement prepared once."""
    command = [str(binaries.postgres() / "pgbench"), "--no-vacuum", "--protocol=prepared"]
    command += [f"--client={clients}", f"--jobs={min(clients, THREADS)}", f"--time={seconds}"]
    watch.begin()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, "--file=/dev/stdin", url],
        input=script,
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    watch.end()
    if done.returncode:
        raise Untrustworthy(f"pgbench failed: {done.stderr.strip()[-500:]}")
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    transactions, per_s = parse(done.stdout)
    return Ran(transactions * BATCH, per_s * BATCH, took)


def parse(output: str) -> tuple[int, float]:
    """Transactions, and transactions a second without the time to connect."""
    processed = re.search(r"transactions actually processed: (\d+)", output)
    per_s = re.search(r"^tps = ([\d.]+)", output, re.MULTILINE)
    if not processed or not per_s:
        raise ValueError(f"not pgbench's output: {output!r}")
    return int(processed[1]), float(per_s[1])
