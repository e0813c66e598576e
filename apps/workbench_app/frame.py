"""One frame: everything the page shows at one moment, as one small JSON string."""

from __future__ import annotations

import json
from typing import Any

from workbench.events import EventBus, PageMap
from workbench.events.types import SCHEMA_VERSION, ModelGeometry, RunStarted
from workbench.views import blocked_words, map_payload, request_label, request_rows
from workbench.views.words import sharing_words, token_share
from workbench_app.duel import Asked, Duel, Mark, Side
from workbench_app.settings import POLICIES, Prompt, Settings
from workbench_app.words import megabytes, rate, share

#: Characters of each text that are sent while a run goes on. Paused frames carry all of it.
LIVE_TAIL = 110
_PROMPT_CHARS = 90
_HISTORY_POINTS = 160
_SUBTITLES = {
    "paged": "pages (blocks) are handed out one by one, when they are needed",
    "max": "each request reserves one region, for the longest sequence allowed",
    "pow2": "each request reserves one region, its output rounded up to a power of two",
    "oracle": "each request reserves one region, as if its output length were known",
}


def build_frame(duel: Duel, step: int, run: int, running: bool, state: str, note: str = "") -> str:
    """The page at a step of a run. While it is running, texts are cut to their ends to keep the frame small."""
    tail = LIVE_TAIL if running else None
    (left, left_mark), (right, right_mark) = (side.at(step) for side in duel.sides)
    comparison = duel.compare_states(left, right)
    frame = {
        "run": run,
        "step": step,
        "last": duel.last_step,
        "running": running,
        "state": state,
        "note": note,
        "badge": {"state": comparison.state, "words": comparison.words},
        "sides": ["Paged", "Contiguous"],
        "left": _side(left, left_mark, duel.settings, duel.left.asked),
        "right": _side(right, right_mark, duel.settings, duel.right.asked),
        "history": _history(duel),
        "requests": _cards(duel, request_rows(left, tail), request_rows(right, tail)),
    }
    return _encode(frame)


def preview_frame(settings: Settings, geometry: ModelGeometry, run: int = 0, note: str = "") -> str:
    """The page before a run: two empty pools of the size that is set, and the requests that would be sent."""
    empty = Mark()
    frame = {
        "run": run,
        "step": 0,
        "last": 0,
        "running": False,
        "state": "Ready: press Run",
        "note": note,
        "badge": {"state": "pending", "words": "Outputs: nothing to compare yet"},
        "sides": ["Paged", "Contiguous"],
        "left": _side(_empty_pool("paged", settings, geometry), empty, settings),
        "right": _side(_empty_pool("contiguous", settings, geometry), empty, settings),
        "history": {"x": [], "left": [], "right": [], "words": "", "title": _history_title(settings)},
        "requests": [
            [number, _prompt_words(prompt, sample), None, None, None]
            for number, prompt in enumerate(settings.prompts)
            for sample in range(prompt.samples)
        ],
    }
    return _encode(frame)


def _encode(frame: dict[str, Any]) -> str:
    return json.dumps(frame, ensure_ascii=False, separators=(",", ":"))


def _empty_pool(memory: str, settings: Settings, geometry: ModelGeometry) -> PageMap:
    bus = EventBus()
    bus.emit(
        RunStarted(
            schema_version=SCHEMA_VERSION,
            memory=memory,
            block_size=settings.block_size,
            num_blocks=settings.num_blocks,
            bytes_per_block=settings.block_size * geometry.kv_bytes_per_token,
            seed=settings.seed,
            model=geometry,
            config={},
        )
    )
    bus.flush()
    return bus.page_map


def _side(page_map: PageMap, mark: Mark, settings: Settings, asked: Asked | None = None) -> dict[str, Any]:
    policy = settings.policy
    totals = page_map.totals
    busy = totals.busy_ns / 1e9
    pool_bytes = page_map.run.bytes_per_block * page_map.run.num_blocks if page_map.run else 0
    speed = totals.generated_tokens / busy if busy else None
    mean = f"mean {share(mark.mean_share)}" if mark.mean_share is not None else ""
    if mark.busy_share is not None:
        mean += f"; {share(mark.busy_share)} while others waited"
    return {
        "title": "Paged" if page_map.is_paged else f"Contiguous, {POLICIES[policy]}",
        "subtitle": _SUBTITLES["paged" if page_map.is_paged else policy],
        "map": map_payload(page_map),
        "pool": f"{page_map.num_slots:,} slots, {megabytes(pool_bytes)}",
        "stats": [
            ["Running now", str(mark.running), _running_words(page_map, mark, settings)],
            ["Waiting", str(len(page_map.waiting)), _count(totals.preemptions, "preemption")],
            ["Held memory in use", share(token_share(page_map.waste())), mean],
            [
                "Tokens per second",
                rate(speed),
                f"{totals.generated_tokens:,} in {busy:.1f} s, measured" if busy else "",
            ],
        ],
        "waiting": page_map.waiting,
        "why": blocked_words(page_map),
        "extra": [text for text in [sharing_words(page_map), *_refusals(asked, settings)] if text],
    }


def _running_words(page_map: PageMap, mark: Mark, settings: Settings) -> str:
    if not settings.has_samples:
        return f"peak {mark.peak}"
    return f"{'text' if mark.running == 1 else 'texts'} of {_count(len(page_map.running), 'request')}; peak {mark.peak}"


def _refusals(asked: Asked | None, settings: Settings) -> list[str]:
    """What this side refused, why, and what it does instead."""
    if asked is None:
        return []
    by_reason: dict[str, list[int]] = {}
    for prompt, why in asked.refused.items():
        by_reason.setdefault(why, []).append(prompt)
    sentences = []
    for why, prompts in by_reason.items():
        names = _listed([request_label(prompt) for prompt in prompts])
        instead = [request_label(request) for prompt in prompts for request in asked.requests_of(prompt)]
        sentences.append(
            f"{names} refused: {why}. Instead, the same is written here by "
            f"{_count(len(instead), 'separate request')}: {_listed(instead)}."
        )
    return sentences


def _listed(names: list[str]) -> str:
    shown = names if len(names) <= 8 else [*names[:7], f"{len(names) - 7} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _cards(duel: Duel, left: list[list[Any]], right: list[list[Any]]) -> list[list[Any]]:
    """One row per prompt and sample: ``[prompt, words, left output, right output, the right side's request]``.

    The last is None where it has the prompt's own number.
    """
    here, there = _by_place(left, duel.left.asked), _by_place(right, duel.right.asked)
    rows = []
    for number, prompt in enumerate(duel.settings.prompts):
        for sample in range(prompt.samples):
            a, b = here[number, sample], there[number, sample]
            other = None if number not in duel.right.asked.refused else b[0]
            rows.append([number, _prompt_words(prompt, sample), a[1:], b[1:], other])
    return rows


def _by_place(rows: list[list[Any]], asked: Asked) -> dict[tuple[int, int], list[Any]]:
    return {(asked.places[row[0]][0], asked.places[row[0]][1] + row[9]): row for row in rows}


def _prompt_words(prompt: Prompt, sample: int) -> str:
    which = f"(sample {sample + 1} of {prompt.samples}) " if prompt.samples > 1 else ""
    return which + _short(prompt.text)


def _short(text: str) -> str:
    return text if len(text) <= _PROMPT_CHARS else text[: _PROMPT_CHARS - 1] + "…"


def _history(duel: Duel) -> dict[str, Any]:
    """Running requests per step, thinned out to what a chart can show. Peaks survive: each point is its span's most."""
    stride = max(1, -(-duel.last_step // _HISTORY_POINTS))
    starts = range(0, duel.last_step + 1, stride)

    def series(side: Side) -> list[int]:
        marks = side.marks
        return [max((mark.running for mark in marks[s : s + stride]), default=0) for s in starts]

    left, right = duel.left, duel.right
    noun = "texts" if duel.settings.has_samples else "requests"
    words = (
        f"At most {left.marks[-1].peak} {noun} at once in paged memory and {right.marks[-1].peak} in contiguous "
        f"memory; {left.last_step:,} and {right.last_step:,} steps so far."
    )
    lines = {"left": series(left), "right": series(right)}
    return {"x": list(starts), **lines, "words": words, "title": _history_title(duel.settings)}


def _history_title(settings: Settings) -> str:
    return "Texts written at once" if settings.has_samples else "Requests running at once"
