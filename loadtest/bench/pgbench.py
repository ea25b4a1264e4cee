"""What Postgres itself can do: pgbench runs the engine's own claim statement, batches of 128.

The statement is the engine's (sql/queries/sale.sql), its words replaced by arrays that the server
makes up on the way: no driver, no Python, no bouncer. Making them up takes Postgres some time
that the engine spends elsewhere; `generating` tells how much.
"""

from __future__ import annotations

import re
import resource
import subprocess
from urllib.parse import urlsplit

import msgspec

from engine.infra import sql
from engine.ops import binaries
from engine.sale.bouncer import ATTEMPTS_PER_EPOCH
from loadtest.client import Watch
from loadtest.fleet import Untrustworthy

BATCH = 128
THREADS = 2

# Requests sorted, as the engine sorts them; buyers are named after them and so sorted as well.
ARRAYS = """\
WITH batch AS MATERIALIZED (
    SELECT array_agg(one.request) AS requests, array_agg(one.id) AS ids,
           array_agg('p-' || one.request) AS buyers
      FROM (SELECT gen_random_uuid() AS request, {id} AS id
              FROM generate_series(1, {batch})
             ORDER BY 1) AS one
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
        "owners": "(SELECT batch.ids FROM batch)",
        "buyers_once": "(SELECT batch.buyers FROM batch)",
        "units_once": ones,
    }
    if unknown := set(query.words) - set(words):
        raise Untrustworthy(f"claim_units wants {sorted(unknown)}: tell loadtest/bench/pgbench.py")
    text = re.sub(r"\$(\d+)", lambda found: words[query.words[int(found[1]) - 1]], query.text)
    return _arrays() + text + ";\n"


def _arrays() -> str:
    newest = binaries.postgres_major(binaries.postgres()) >= 18
    return ARRAYS.format(id="uuidv7()" if newest else "gen_random_uuid()", batch=BATCH)


def run(url: str, script: str, clients: int, seconds: int, watch: Watch) -> Ran:
    """That transaction over and over from so many connections, each statement prepared once."""
    parts = urlsplit(url)
    command = [str(binaries.postgres() / "pgbench"), "--no-vacuum", "--protocol=prepared"]
    command += [f"--client={clients}", f"--jobs={min(clients, THREADS)}", f"--time={seconds}"]
    command += ["--host=127.0.0.1", f"--port={parts.port}", f"--username={parts.username}"]
    watch.begin()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, "--file=/dev/stdin", parts.path[1:]],
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
