"""The figures of the Lab: how each is counted or measured, and how it is written."""

from __future__ import annotations

from workbench.views.lab_charts import Scale
from workbench_app.words import megabytes, rate


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _megabytes(value: float) -> str:
    return megabytes(round(value))


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _one_digit(value: float) -> str:
    return f"{value:,.1f}"


#: By the name of the field of `workbench_app.lab.measure.Result.figures`.
MEASURES: dict[str, Scale] = {
    "peak": Scale("Most requests at once", _whole, "more"),
    "held_share": Scale("Share of held slots with a token (mean of steps)", _percent, "more"),
    "steps": Scale("Steps until all were done", _whole, "fewer"),
    "mean_finish": Scale("Steps from arrival to end (mean of requests)", _one_digit, "fewer"),
    "preemptions": Scale("Preemptions", _whole, "fewer"),
    "recomputed": Scale("Tokens computed again", _whole, "fewer"),
    "moved_bytes": Scale("Moved to the host and back", _megabytes, "fewer"),
    "saved_share": Scale("Pages saved by sharing", _percent, "more"),
    "most_pages": Scale("Most pages in use", _whole),
    "copies": Scale("Pages copied (copy-on-write)", _whole),
    "hits": Scale("Prompt tokens found in the cache", _whole, "more"),
    "hit_share": Scale("Share of prompt tokens found in the cache", _percent, "more"),
    "evictions": Scale("Cached pages evicted", _whole, "fewer"),
    "prefill": Scale("Prompt tokens computed", _whole, "fewer"),
    "rate": Scale("Output tokens per second", rate, "more", is_measured=True),
}
COURSE = Scale("Requests at once", _whole)
