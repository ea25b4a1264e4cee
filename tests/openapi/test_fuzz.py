"""Schemathesis asks a running service for all that the document allows, and for what it forbids:
all its checks, all its phases, no failure. `make fuzz` asks for longer."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.identity import tokens
from engine.infra.settings import Settings
from tests.support.service import Service

ROOT = Path(__file__).parents[2]
JWT_SECRET = "a secret of the fuzzing, for the tokens"
HMAC_SECRET = "another of the fuzzing, for names shown"
CHECKS = {
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance", "negative_data_rejection"),
    *("positive_data_acceptance", "missing_required_header", "unsupported_method"),
    *("allow_header_conformance", "use_after_free", "ensure_resource_availability", "ignored_auth"),
    "a_valid_request_is_refused_for_a_relation_alone",
}


async def _run(service: Service, folder: Path, *more: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code, what it said, and its report."""
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "--no-color"),
        *("--config-file", "tests/openapi/schemathesis.toml"),
        *("run", f"http://127.0.0.1:{service.port}/openapi.json", "--continue-on-failure"),
        *("--report", "json,ndjson", "--report-dir", str(folder)),
        *("--report-json-path", str(folder / "report.json")),
        *("--report-ndjson-path", str(folder / "report.ndjson"), *more),
    ]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode(), json.loads((folder / "report.json").read_text())


def _passed(folder: Path) -> Counter[str]:
    """How often each check passed."""
    passed: Counter[str] = Counter()
    for line in (folder / "report.ndjson").read_text().splitlines():
        scenario = json.loads(line).get("ScenarioFinished", {})
        for checks in (scenario.get("recorder") or {}).get("checks", {}).values():
            passed.update(check["name"] for check in checks if check["status"] == "success")
    return passed


@pytest.mark.slow
@pytest.mark.timeout(7_200 if "EXAMPLES" in os.environ else 420)
@pytest.mark.parametrize("auth", ["open", pytest.param("required", marks=pytest.mark.at_length)])
async def test_nothing_the_document_allows_or_forbids_is_answered_otherwise(
    settings: Settings, tmp_path: Path, auth: str
) -> None:
    given = msgspec.structs.replace(settings, auth=auth)
    more: list[str] = []
    if auth == "required":
        token = tokens.create(JWT_SECRET, "root", 3_600, "admin")
        more = ["--header", f"Authorization: Bearer {token}", "--max-examples", "3"]
    if longer := os.environ.get("EXAMPLES"):
        more += ["--max-examples", longer]
    async with Service.open(
        given,
        tmp_path,
        JWT_SECRET=JWT_SECRET,
        HMAC_SECRET=HMAC_SECRET,
        RATE_LOGINS_PER_ACCOUNT="off",
    ) as service:
        code, said, report = await _run(service, tmp_path, *more)
        log = service.log()

    assert code == 0, said
    assert {name: phase["status"] for name, phase in report["phases"].items()} == dict.fromkeys(
        ("examples", "coverage", "fuzzing", "stateful"), "success"
    )
    assert report["operations"]["tested"] == report["operations"]["total"] >= 25
    assert report["test_cases"]["generated"] > 1_000
    assert set(_passed(tmp_path)) >= CHECKS
    assert "http.crashed" not in log
