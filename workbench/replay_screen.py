"""What `workbench replay` prints: one step of a history as plain text. Pure functions of a state and its events."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from workbench.events.holdings import Holding, holdings
from workbench.events.page_map import PageMap
from workbench.events.state import OutputText, RequestState, RequestStatus
from workbench.events.types import AnyEvent
from workbench.events.waste import WasteReport, WasteSplit
from workbench.events.words import clean, clip, describe, describe_blocked, plural
from workbench.replay_map import Style, char_width, fit, letter, page_map_lines, tail, wrapped

__all__ = [
    "Style",
    "char_width",
    "event_lines",
    "letter",
    "page_map_lines",
    "render",
    "request_lines",
    "sharing_line",
    "tail",
    "waste_line",
    "waste_report_lines",
    "wrapped",
]

_MAX_LISTED = 8


def waste_line(state: PageMap) -> str:
    """The use of all slots in words, as far as it can be known at this step."""
    waste, total = state.waste(), max(1, state.num_slots)
    parts = [("token states", waste.token_states), ("reserved, still empty", waste.reserved)]
    if not state.is_paged:
        parts.append(("external fragmentation", waste.external))
    if waste.cached:
        parts.append(("kept for reuse (cached)", waste.cached))
    parts.append(("free", waste.free))
    return f"of {total} slots: " + ", ".join(f"{name} {count} ({count / total:.0%})" for name, count in parts)


def waste_report_lines(report: WasteReport) -> list[str]:
    """The split of the whole run in the paper's categories."""
    if not report.num_averaged:
        return ["no step to average over"]

    def shares(split: WasteSplit) -> str:
        named = [
            ("token states", split.token_states),
            ("reservation", split.reservation),
            ("internal fragmentation", split.internal),
            ("external fragmentation", split.external),
            ("reserved by unfinished requests", split.reserved),
            ("kept for reuse (cached)", split.cached),
            ("free", split.free),
        ]
        return ", ".join(f"{name} {share:.1%}" for name, share in named if share or name == "token states")

    steps = plural(report.num_averaged, "step")
    return [
        f"average over {steps}: {shares(report.shares)}",
        f"of what was held: {shares(report.shares.without_free())}",
    ]


def sharing_line(state: PageMap) -> str:
    """What sharing saves on the device; empty if nothing is shared."""
    named, used = state.sharing()
    if named == used:
        return ""
    saved = f"block tables name {plural(named, 'page')}, {used} different ones: sharing saves {named - used}"
    return f"{saved} ({(named - used) / named:.0%})"


def _memory_words(info: RequestState, holding: Holding) -> str:
    if holding.region is not None:
        return f"{holding.tokens} stored in {holding.region.size} slots"
    places = [plural(holding.pages, "page")] if holding.pages or not holding.host_pages else []
    if holding.host_pages:
        places.append(f"{plural(holding.host_pages, 'host page')}")
    words = f"{holding.tokens} stored in {' and '.join(places)}"
    return words + (f" ({holding.shared} shared)" if holding.shared else "")


def _output_words(info: RequestState) -> str:
    """How far its outputs are."""
    if info.chosen:
        lengths = "/".join(str(len(output.token_ids)) for output in info.chosen)
        beams = "the best beam" if len(info.chosen) == 1 else f"the {len(info.chosen)} best beams"
        return f"{info.prompt_tokens} + {lengths} tokens, {beams}"
    live = [output for output in info.outputs.values() if not output.is_dropped]
    if len(live) < 2 and info.width < 2:
        return f"{info.prompt_tokens} + {len(info.token_ids)}/{info.max_tokens} tokens"
    lengths = "+".join(str(len(output.token_ids)) for output in live)
    kind = "beam" if info.is_beam_search else "sample"
    done = sum(output.reason != "" for output in live)
    ended = f", {done} ended" if done else ""
    return f"{info.prompt_tokens} + {lengths} of at most {info.max_tokens} tokens, {plural(len(live), kind)}{ended}"


def _request_line(request: int, state: PageMap, held: dict[int, Holding], style: Style) -> str:
    info = state.requests[request]
    status = "swapped out" if info.status is RequestStatus.SWAPPED else info.status.value
    parts = [status if info.reason == "" else f"{status} ({clip(clean(info.reason), 40)})"]
    parts.append(_output_words(info))
    if request in held:
        parts.append(_memory_words(info, held[request]))
    if info.preemptions:
        parts.append(f"preempted {plural(info.preemptions, 'time')}")
    head = f"  {letter(request)} request {request}: " + ", ".join(parts)
    shown = fit(head, style.width)
    room = style.width - sum(map(char_width, shown)) - 4
    if room >= 8 and info.text:
        shown += f"  “{tail(info.text, room)}”"
    elif room >= 16 and info.prompt:
        shown += f"  prompt “{tail(info.prompt, room - 7)}”"
    return shown


def _sample_lines(request: int, state: PageMap, style: Style) -> list[str]:
    """One line for each output of a request with several."""
    info = state.requests[request]
    if info.chosen:
        rows = [(f"beam {i + 1}, score {o.score:.3f}", o.text) for i, o in enumerate(info.chosen)]
    else:
        live = [(name, output) for name, output in info.outputs.items() if not output.is_dropped]
        rows = [(f"sequence {name}{_ended(output)}", output.text) for name, output in live if len(live) > 1]
    lines = []
    for head, text in rows:
        start = fit(f"      {head}", style.width)
        room = style.width - len(start) - 4
        lines.append(start + (f"  “{tail(text, room)}”" if room >= 8 and text else ""))
    return lines


def _ended(output: OutputText) -> str:
    return f" ({clip(clean(output.reason), 12)})" if output.reason else ""


def _listed(ids: Sequence[int], line: Callable[[int], list[str]], everything: bool, width: int) -> list[str]:
    most = len(ids) if everything else _MAX_LISTED
    lines = [text for request in ids[:most] for text in line(request)]
    return lines + ([fit(f"  … and {len(ids) - most} more (r lists all)", width)] if len(ids) > most else [])


def request_lines(state: PageMap, style: Style, everything: bool = False) -> list[str]:
    """Who runs, who waits and why, and with ``everything`` who has ended."""

    held = holdings(state)

    def line(request: int) -> list[str]:
        head = _request_line(request, state, held, style)
        return [head, *(_sample_lines(request, state, style) if everything else [])]

    lines = [f"running ({len(state.running)}):", *_listed(state.running, line, everything, style.width)]
    lines += [f"waiting ({len(state.waiting)}):", *_listed(state.waiting, line, everything, style.width)]
    if state.blocked is not None:
        lines += wrapped("  " + describe_blocked(state.blocked, state.is_paged), style.width)
    gone: dict[RequestStatus, list[int]] = {}
    for request, info in state.requests.items():
        gone.setdefault(info.status, []).append(request)
    ended = (RequestStatus.FINISHED, RequestStatus.CANCELLED, RequestStatus.REJECTED)
    if any(gone.get(status) for status in ended):
        counts = ", ".join(f"{len(gone[status])} {status.value}" for status in ended if status in gone)
        lines += wrapped(f"ended: {counts}", style.width)
        if everything:
            lines += [text for status in ended for request in gone.get(status, []) for text in line(request)]
    return lines


def event_lines(events: Sequence[AnyEvent], state: PageMap | None, width: int, everything: bool = True) -> list[str]:
    """A step's events in words: all of them in full, or the first ones in a line each."""
    if everything:
        return [f"  {describe(event, state)}" for event in events]
    lines = [fit(f"  {describe(event, state, explain=False)}", width) for event in events[:_MAX_LISTED]]
    more = len(events) - _MAX_LISTED
    return lines + ([fit(f"  … and {more} more (e lists all)", width)] if more > 0 else [])


def render(
    state: PageMap,
    events: Sequence[AnyEvent],
    steps: tuple[int, int, int],
    style: Style,
    all_requests: bool = False,
    all_events: bool = False,
) -> str:
    """One step on one screen.

    Args:
        events: those of the step.
        steps: the step, the first and the last of the history.
    """
    step, first, last = steps
    head = f"step {step} of {first} to {last}"
    if state.run is not None:
        run = state.run
        what = f"{run.num_blocks} pages of {run.block_size} slots"
        if not state.is_paged:
            what = f"an arena of {state.num_slots} slots"
        head += f" · {run.memory} memory, {what} · model {clean(run.model.name)}"
    lines = [fit(head, style.width), *page_map_lines(state, style)]
    if state.run is not None:
        lines += [*wrapped(waste_line(state), style.width), *wrapped(sharing_line(state), style.width)]
        lines += request_lines(state, style, all_requests)
    lines += [
        fit(f"events of this step ({len(events)}):", style.width),
        *event_lines(events, state, style.width, all_events),
    ]
    text = "\n".join(lines)
    if style.plain:
        text = text.translate(_TO_ASCII).encode("ascii", "backslashreplace").decode()
    return text


_TO_ASCII = str.maketrans({"…": "~", "“": '"', "”": '"', "·": "|"})
