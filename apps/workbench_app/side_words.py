"""What is said about one side of the comparison: its name, its numbers, and what it refused."""

from __future__ import annotations

from typing import Any

from workbench.events import PageMap
from workbench.events.state import RequestStatus
from workbench.views import blocked_words, map_payload, request_label
from workbench.views.words import plural, sharing_words, token_share
from workbench_app.lanes import Asked, Mark
from workbench_app.settings import POLICIES, Settings
from workbench_app.words import megabytes, rate, share

_SUBTITLES = {
    "paged": "pages (blocks) are handed out one by one, when they are needed",
    "max": "each request reserves one region, for the longest sequence allowed",
    "pow2": "each request reserves one region, its output rounded up to a power of two",
    "oracle": "each request reserves one region, as if its output length were known",
}


def side_frame(page_map: PageMap, mark: Mark, settings: Settings, asked: Asked | None = None) -> dict[str, Any]:
    """Everything that the page shows of one side."""
    policy = settings.policy
    totals = page_map.totals
    pool_bytes = page_map.run.bytes_per_block * page_map.run.num_blocks if page_map.run else 0
    speed = mark.tokens / mark.seconds if mark.seconds else None
    mean = f"mean {share(mark.mean_share)}" if mark.mean_share is not None else ""
    if mark.busy_share is not None:
        mean += f"; {share(mark.busy_share)} while others waited"
    return {
        "title": "Paged" if page_map.is_paged else f"Contiguous, {POLICIES[policy]}",
        "subtitle": _subtitle(page_map, settings),
        "map": map_payload(page_map),
        "pool": f"{page_map.num_slots:,} slots, {megabytes(pool_bytes)}",
        "stats": [
            ["Running now", str(mark.running), _running_words(page_map, mark, settings)],
            ["Waiting", str(len(page_map.waiting)), plural(totals.preemptions, "preemption")],
            ["Held memory in use", share(token_share(page_map.waste())), mean],
            ["Tokens per second", rate(speed), f"{mark.tokens:,} in {mark.seconds:.1f} s, measured" if speed else ""],
        ],
        "waiting": list(page_map.waiting),
        "why": blocked_words(page_map),
        "extra": [
            text
            for text in [
                sharing_words(page_map),
                _tier_words(page_map),
                *refusals(asked, settings),
                *_rejections(page_map),
            ]
            if text
        ],
    }


def _subtitle(page_map: PageMap, settings: Settings) -> str:
    if not page_map.is_paged:
        return _SUBTITLES[settings.policy]
    more = ["full pages are kept for requests that begin alike"] if settings.prefix_caching else []
    if settings.host_tokens:
        more.append(f"{plural(settings.num_host_blocks, 'page')} of host memory behind them")
    return "; ".join([_SUBTITLES["paged"], *more])


def _tier_words(page_map: PageMap) -> str:
    """What the prefix cache and the host tier have done so far, counted."""
    totals = page_map.totals
    parts = [
        (totals.prefix_hit_tokens, f"{totals.prefix_hit_tokens:,} tokens were found in the prefix cache"),
        (totals.evictions, f"{plural(totals.evictions, 'page')} evicted from it"),
        (totals.blocks_copied, f"{plural(totals.blocks_copied, 'page')} copied on write"),
        (totals.swapped_out_bytes, f"{megabytes(totals.swapped_out_bytes)} swapped out"),
        (totals.swapped_in_bytes, f"{megabytes(totals.swapped_in_bytes)} swapped in"),
        (totals.recomputed_tokens, f"{totals.recomputed_tokens:,} tokens computed again after preemptions"),
    ]
    said = [words for count, words in parts if count]
    return f"So far: {', '.join(said)}." if said else ""


def _running_words(page_map: PageMap, mark: Mark, settings: Settings) -> str:
    if not settings.has_samples:
        return f"peak {mark.peak}"
    texts = "text" if mark.running == 1 else "texts"
    return f"{texts} of {plural(len(page_map.running), 'request')}; peak {mark.peak}"


def refusals(asked: Asked | None, settings: Settings) -> list[str]:
    """What this side refused, why, and what it does instead."""
    if asked is None:
        return []
    by_reason: dict[str, list[int]] = {}
    for prompt, why in asked.refused.items():
        by_reason.setdefault(why, []).append(prompt)
    sentences = []
    for why, prompts in by_reason.items():
        words = f"{_listed([request_label(prompt) for prompt in prompts])} refused: {why}."
        instead = [request_label(request) for prompt in prompts for request in asked.requests_of(prompt)]
        if instead:
            requests = plural(len(instead), "separate request")
            words += f" Instead, the same is written here by {requests}: {_listed(instead)}."
        else:
            words += " Nothing can stand in for a beam search, whose beams depend on each other."
        sentences.append(words)
    return sentences


def _rejections(page_map: PageMap) -> list[str]:
    """Requests that can never fit, and the arithmetic for the first of them."""
    rejected = [request for request, state in page_map.requests.items() if state.status is RequestStatus.REJECTED]
    if not rejected:
        return []
    why = page_map.requests[rejected[0]].reason.partition(": ")[2]
    first = "" if len(rejected) == 1 else f" For {request_label(rejected[0])}:"
    return [f"{_listed([request_label(request) for request in rejected])} rejected, never to fit.{first} {why}."]


def _listed(names: list[str]) -> str:
    shown = names if len(names) <= 8 else [*names[:7], f"{len(names) - 7} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
