"""Driving wrk, the usual load generator, and reading what it prints.

Statuses are not counted in wrk's `response` callback: Lua for every answer is the servers' time.
wrk's own summary tells answers outside 2xx and 3xx; the caller checks the rest against the
server's stock. Only a load that buys what it reserved has that callback, and the echo that it
is compared with is asked by the same one.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path

import msgspec

from loadtest.client import ADDRESSES, Figures, Shot, Unwatched, Watch
from loadtest.fleet import Untrustworthy

THREADS = 2

# `setup` runs once a thread in the main state, the rest in the thread's own.
SCRIPT = """
local threads = 0
function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

local head, run, opening, again, keyed, n = {head}, {run}, {opening}, {again}, {keyed}, 0
local from = {{}}
function init()
  run = run .. "-" .. number .. "-"
  for i = 1, {addresses} do
    local address = "10." .. number .. "." .. math.floor(i / 256) .. "." .. i % 256
    from[i] = "X-Forwarded-For: " .. address .. "\\r\\n"
  end
end

function request()
  n = n + 1
  local buyer = run .. n
  local body = opening .. buyer .. (again ~= "" and again .. buyer or "") .. '"}}'
  local key = keyed and "Idempotency-Key: " .. buyer .. "\\r\\n" or ""
  local start = head .. from[n % {addresses} + 1] .. key
  return start .. "Content-Length: " .. #body .. "\\r\\n\\r\\n" .. body
end
"""

# A hold that was told is bought by the next request that its thread sends, on whichever of its
# connections: wrk does not say which of them an answer came from.
THEN = """
local reserve, told, buying = request, {{}}, {then_head}

function request()
  local hold = table.remove(told)
  if not hold then return reserve() end
  n = n + 1
  local body = hold .. '"}}'
  local start = buying .. from[n % {addresses} + 1]
  return start .. "Content-Length: " .. #body .. "\\r\\n\\r\\n" .. body
end

function response(status, headers, body)
  if status ~= 201 or string.find(body, "reservationId", 1, true) then return end
  local id, owner = string.match(body, '"id":"([^"]+)".-"userId":"([^"]+)"')
  told[#told + 1] = '{{"reservationId":"' .. id .. '","userId":"' .. owner
end
"""

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3_600.0}
_DURATION = r"([\d.]+)(us|ms|s|m|h)"


def is_installed() -> bool:
    """Whether there is a wrk to drive."""
    return shutil.which("wrk") is not None


def fire(shot: Shot, connections: int, seconds: int, watch: Watch | None = None) -> Figures:
    """Send for `seconds` from `connections` connections; at most `seconds` + 30 pass."""
    watch = watch or Unwatched()
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_script(shot))
        script.flush()
        command = ["wrk", f"-t{THREADS}", f"-c{max(connections, THREADS)}", f"-d{seconds}s"]
        command += ["--timeout", "10s", "--latency", "-s", str(Path(script.name))]
        watch.begin()
        before = _children_seconds()
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{shot.port}{shot.path}"],
            capture_output=True,
            text=True,
            timeout=seconds + 30,
            check=False,
        )
        took = _children_seconds() - before
        watch.end()
    if done.returncode or "Requests/sec" not in done.stdout:
        raise Untrustworthy(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    return msgspec.structs.replace(parse(done.stdout), cpu_seconds=took)


def _children_seconds() -> float:
    """What children that ended have taken; servers of ours live on."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def parse(output: str) -> Figures:
    """The figures in wrk's `--latency` output."""
    total = re.search(rf"(\d+) requests in {_DURATION}", output)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    if not total or not rate:
        raise ValueError(f"not wrk's output: {output!r}")
    requests, requests_per_s = int(total[1]), float(rate[1])
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    non_2xx = int(refused[1]) if refused else 0
    sockets = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output
    )
    return Figures(
        requests_per_s=requests_per_s,
        ok_per_s=requests_per_s * (requests - non_2xx) / requests if requests else 0.0,
        non_2xx=non_2xx,
        p50_ms=_percentile_ms(output, 50),
        p99_ms=_percentile_ms(output, 99),
        errors=sum(map(int, sockets.groups())) if sockets else 0,
        requests=requests,
        seconds=float(total[2]) * _SECONDS[total[3]],
    )


def _percentile_ms(output: str, percent: int) -> float:
    found = re.search(rf"^\s+{percent}%\s+{_DURATION}\s*$", output, re.MULTILINE)
    return float(found[1]) * _SECONDS[found[2]] * 1_000 if found else 0.0


def _script(shot: Shot) -> str:
    return (SCRIPT + THEN * bool(shot.then)).format(
        head=_lua(shot.head),
        then_head=_lua(shot.head_of(shot.then)),
        run=_lua(shot.run),
        opening=_lua(shot.body[0]),
        again=_lua(shot.body[1]),
        keyed=str(shot.keyed).lower(),
        addresses=ADDRESSES,
    )


def _lua(text: str) -> str:
    """`text` as a Lua string literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\r", "\\r").replace("\n", "\\n") + '"'
