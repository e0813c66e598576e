"""Accessibility: axe-core, run in the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

AXE = Path(__file__).with_name("vendor") / "axe.min.js"
#: WCAG 2.0 to 2.2, A and AA.
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")
FAILING = ("serious", "critical")

#: Findings in markup that Gradio makes and an app can't change: rule, selector of the elements, reason.
GRADIO: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Finding:
    """One element that breaks a rule."""

    rule: str
    impact: str
    target: str
    html: str
    why: str

    def __str__(self) -> str:
        return f"{self.impact} {self.rule}: {self.target}\n    {self.html[:160]}\n    {self.why}"


_RUN = """async ([include, type, values]) => {
  const options = { runOnly: { type, values }, resultTypes: ["violations"] };
  const result = await axe.run(include || document, options);
  return result.violations.flatMap((rule) => rule.nodes.map((node) => ({ rule: rule.id, impact: node.impact,
    target: node.target.flat().join(" "), html: node.html, why: node.failureSummary.replace(/\\s+/g, " ") })));
}"""
_MATCHES = """([target, selector]) => { try { return document.querySelector(target).matches(selector); }
  catch { return false; } }"""


def check(
    page: Any, include: str | None = None, impacts: tuple[str, ...] = FAILING, only: tuple[str, ...] = ()
) -> list[Finding]:
    """What is wrong with what is shown now, or with the part that ``include`` selects. ``only``: no other rules."""
    if not page.evaluate("() => Boolean(window.axe)"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    found = [Finding(**one) for one in page.evaluate(_RUN, [include, "rule" if only else "tag", list(only or RULES)])]
    return [one for one in found if one.impact in impacts and not _is_gradios(page, one)]


def _is_gradios(page: Any, finding: Finding) -> bool:
    return any(
        rule == finding.rule and page.evaluate(_MATCHES, [finding.target, selector]) for rule, selector, _ in GRADIO
    )
