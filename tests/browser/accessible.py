"""axe-core on a page, and what it found as a text that says where."""

from __future__ import annotations

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
OPTIONS = {"resultTypes": ["violations"], "runOnly": {"type": "tag", "values": RULES}}


async def violations(page: Page) -> list[str]:
    """What is wrong, one a line; empty if all is well."""
    found = (await Axe().run(page, options=OPTIONS)).response
    assert found["passes"], "axe saw nothing to judge"
    wrong = []
    for rule in found["violations"]:
        for node in rule["nodes"]:
            summary = node.get("failureSummary", "").replace("\n", " ")
            wrong.append(f"{rule['id']} {node['target']}: {summary} {node['html'][:160]}")
    return wrong


async def is_too_wide(page: Page) -> bool:
    """Whether one must scroll sideways."""
    wide: bool = await page.evaluate(
        "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )
    return wide
