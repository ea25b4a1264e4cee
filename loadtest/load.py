"""`make loadtest`: Locust in a process of its own, against a service that runs or one of ours.

Without a target it takes the service at 127.0.0.1:8000 if there is one, else it starts
everything in a temporary folder on a free port, and ends it again, also after Ctrl-C. What it
does not know it hands to Locust: `python -m loadtest.load --users 50 --purchase 90`.
"""

from __future__ import annotations

import argparse
import html
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from engine.ops.launch import free_port
from loadtest.fleet import ROOT, Untrustworthy, ask, await_true, fleet
from loadtest.sale import KEY_WANTED, PREFIX, check_allowed
from loadtest.shapes import SHAPES, START_RATE_MAX

USUAL = "http://127.0.0.1:8000"
RESULTS = ROOT / "loadtest" / "results" / "local"
END_SECONDS = 90  # from Ctrl-C to the verdict
UI_PORT = 8_089


def answers(target: str) -> bool:
    """Whether Velvetrope answers there."""
    try:
        _, health = ask(target, PREFIX + "/health")
    except (OSError, msgspec.DecodeError):
        return False
    return isinstance(health, dict) and "database" in health


@contextmanager
def own_service() -> Iterator[str]:
    """Everything a sale needs in a temporary folder; nothing is left of it. Its address."""
    port = free_port()
    target = f"http://127.0.0.1:{port}"
    command = (sys.executable, "-m", "engine", "dev")
    with tempfile.TemporaryDirectory(prefix="loadtest-") as folder:
        Path(folder).chmod(0o711)  # root's Postgres runs as somebody else, who has to get in
        env = {
            "PORT": str(port),
            "HOST": "127.0.0.1",
            "DATA_DIR": f"{folder}/data",
            "AUTH": "open",
            "WORKERS": "2",
            "LOG_LEVEL": "warning",
            # Servers of our own, whatever this shell's service uses.
            **dict.fromkeys(("DATABASE_URL", "REDIS_URL", "DB_HOST", "SEED"), ""),
            # And a mock provider of its own, which our buyers find by a hold's payUrl.
            **dict.fromkeys(("PAYMENT_URL", "PAYMENT_SECRET", "PROVIDER_PORT"), ""),
        }
        with fleet(command, env, Path(folder) / "service.log", 1) as service:
            await_true(lambda: answers(target), "the service", check=service.check)
            yield target


@contextmanager
def own_provider(target: str) -> Iterator[str]:
    """A mock provider for a service whose PAYMENT_SECRET we know. Its address."""
    port = free_port()
    command = (sys.executable, "-m", "engine", "provider", "--shop", target)
    with tempfile.TemporaryDirectory(prefix="loadtest-") as folder:
        env = {"HOST": "127.0.0.1", "PORT": str(port), "PROVIDER_PORT": str(port)}
        with fleet(command, env | {"LOG_LEVEL": "warning"}, Path(folder) / "provider.log", 1):
            yield f"http://127.0.0.1:{port}"


def find(options: argparse.Namespace, stack: ExitStack) -> str:
    """The address to load, after making sure that somebody answers and that we may."""
    if not options.target:
        if answers(USUAL):
            print(f"loading {USUAL}, which runs already")
            return USUAL
        target = stack.enter_context(own_service())
        print(f"loading a service of our own at {target}")
        return target
    target = str(options.target).rstrip("/")
    check_allowed(target, anywhere=options.anywhere)
    if not answers(target):
        raise Untrustworthy(f"no Velvetrope answers at {target}{PREFIX}/health")
    return target


def command(
    options: argparse.Namespace, others: list[str], target: str, provider: str
) -> list[str]:
    """Locust's command line."""
    words = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--host", target]
    words += ["--users", str(options.users), "--spawn-rate", str(int(START_RATE_MAX))]
    words += ["--run-time", f"{options.seconds}s", "--shape", options.shape]
    words += ["--provider", provider] if provider else []
    words += ["--units", str(options.units), *(["--anywhere"] if options.anywhere else [])]
    if options.ui:
        words += ["--web-host", "127.0.0.1", "--web-port", str(options.ui_port)]
    else:
        results = options.report.with_suffix("")
        words += ["--headless", "--only-summary", "--loglevel", "WARNING"]
        # With a file for its figures Locust prints none: ours are shorter.
        words += ["--html", f"{results}.html", "--json-file", str(results)]
    return words + others


def run(words: list[str]) -> int:
    """Locust's exit code. Ctrl-C lets it come to its verdict; a second one does not."""
    process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(END_SECONDS)
        except BaseException:
            process.kill()
            process.wait()
        raise


def put_verdict(report: Path) -> None:
    """Open Locust's report with our verdict: whoever is handed the page must see it first."""
    verdict = report.with_suffix(".verdict")
    said = verdict.read_text() if verdict.exists() else "verdict: none was reached"
    shown = f'<body><pre style="padding:1em;font-size:1.1em">{html.escape(said)}</pre>'
    report.write_text(report.read_text().replace("<body>", shown, 1))
    verdict.unlink(missing_ok=True)


def check_welcome(target: str, others: list[str]) -> None:
    """Raise unless the service lets us open a drop: with AUTH=required that takes a key."""
    key = os.environ.get("API_KEY", "")
    if "--api-key" in others[:-1]:
        key = others[others.index("--api-key") + 1]
    headers = {"X-API-Key": key} if key else {}
    status, told = ask(target, f"{PREFIX}/buyers/loadtest/timeline", None, headers)
    if status in (401, 403):
        raise Untrustworthy(f"{target} says {told.get('error')}: {KEY_WANTED}")


def main() -> None:
    """`python -m loadtest.load`"""
    options, others = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind as on Ctrl-C
    options.report.parent.mkdir(parents=True, exist_ok=True)
    code = 130
    try:
        with ExitStack() as stack:
            target = find(options, stack)
            check_welcome(target, others)
            if options.ui:
                print(f"open http://127.0.0.1:{options.ui_port} - Ctrl-C ends it", flush=True)
            sys.stdout.flush()
            provider = ""
            if options.target and os.environ.get("PAYMENT_SECRET") and "--provider" not in others:
                provider = stack.enter_context(own_provider(target))
            code = run(command(options, others, target, provider))
    except Untrustworthy as wrong:
        sys.exit(f"loadtest: {wrong}")
    except KeyboardInterrupt:
        pass
    report = options.report.with_suffix(".html")
    if report.exists():
        put_verdict(report)
        print(f"report: {report.relative_to(ROOT) if report.is_relative_to(ROOT) else report}")
    sys.exit(code)


def _options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.load", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--shape", default="spike", choices=("none", *SHAPES))
    parser.add_argument("--units", type=int, default=3_000)
    parser.add_argument("--target", default="", metavar="URL")
    parser.add_argument("--anywhere", action="store_true", help="not only this machine")
    parser.add_argument("--ui", action="store_true", help="Locust's own page instead")
    parser.add_argument("--ui-port", type=int, default=UI_PORT)
    name = f"load-{time.strftime('%Y%m%d-%H%M%S')}.html"
    parser.add_argument("--report", type=Path, default=RESULTS / name, metavar="FILE")
    options, others = parser.parse_known_args()
    options.report = options.report.resolve()
    return options, others


if __name__ == "__main__":
    main()
