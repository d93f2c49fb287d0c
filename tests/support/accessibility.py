"""What axe finds wrong with a page for people who use it without a mouse, a screen or good eyes."""

from pathlib import Path

import pytest


def violations(page):
    """Returns axe's findings of any impact, each with its first node; skips where axe is not installed."""
    package = pytest.importorskip("axe_playwright_python", reason="no axe: pip install axe-playwright-python")
    page.evaluate(Path(package.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    return [(one["impact"], one["id"], one["nodes"][0]["html"]) for one in found]
