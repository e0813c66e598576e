"""Events in words: one line that a person can read, for the text view, the app and the notebooks."""

from __future__ import annotations

from workbench.events import types as ev
from workbench.events.cause_words import (
    CAUSES,
    because,
    clean,
    clip,
    member_name,
    milliseconds,
    ordinal,
    plural,
    size,
)
from workbench.events.page_map import PageMap
from workbench.events.page_words import PageEvent, describe_page
from workbench.events.state import Blocked
from workbench.events.types import AnyEvent, Cause

__all__ = ["CAUSES", "because", "clean", "clip", "describe", "describe_blocked", "ordinal", "plural", "size"]


def describe_blocked(blocked: Blocked | ev.AdmissionBlocked, paged: bool, explain: bool = True) -> str:
    """Why the head of the queue waits, with the numbers."""
    cause, needed, available = blocked.cause, blocked.needed, blocked.available
    if cause is Cause.MAX_RUNNING:
        numbers = f"it would be the {ordinal(needed)}, the limit is {available}"
    elif cause is Cause.TOKEN_BUDGET:
        numbers = f"has {plural(needed, 'token')} to compute, a step computes at most {available}"
    elif cause is Cause.JUST_PREEMPTED:
        numbers = "a running request has just lost its memory"
    elif paged:
        kept = " with those kept back" if cause is Cause.WATERMARK else ""
        numbers = f"needs {plural(needed, 'page')}{kept}, {available} free"
    else:
        numbers = f"needs {plural(needed, 'adjacent slot')}, the largest free region has {available}"
    return f"request {blocked.request} waits: {numbers} ({because(cause, explain, paged=paged)})"


def describe(event: AnyEvent, state: PageMap | None = None, explain: bool = True) -> str:
    """An event as one line of plain text.

    Args:
        state: a state from the same step or later, to name the request of a sequence and what kind of memory it is.
        explain: say what a cause means; else only its name in code.
    """
    if isinstance(event, PageEvent):
        return describe_page(event, state, explain)
    match event:
        case ev.RunStarted():
            return _describe_run(event)
        case ev.RunFinished():
            return "run finished"
        case ev.StepStarted():
            swapped = f" ({event.swapped} of them swapped out)" if event.swapped else ""
            return f"step {event.step} begins: {event.running} running, {event.waiting} waiting{swapped}"
        case ev.StepFinished():
            took = (event.schedule_ns + event.forward_ns + event.sample_ns) / 1e6
            tokens = f"{plural(event.prefill_tokens, 'prompt token')} and {plural(event.decode_tokens, 'decode token')}"
            moved = [("copies of pages", event.copy_ns), ("swaps", event.swap_ns)]
            more = "".join(f"; {what} took {milliseconds(ns)}" for what, ns in moved if ns)
            return f"step {event.step} ends: computed {tokens} in {took:.1f} ms{more}"
        case ev.RequestPreempted() | ev.RequestResumed() | ev.PreemptionSettled():
            return _describe_preemption(event, state, explain)
        case ev.SequenceForked() | ev.SequenceFinished() | ev.OutputsChosen() | ev.TokenGenerated():
            return _describe_output(event, state, explain)
    return _describe_request(event, state, explain)


def _describe_run(event: ev.RunStarted) -> str:
    parts = [f"{event.num_blocks} pages of {event.block_size} slots ({event.bytes_per_block} bytes each)"]
    if event.num_host_blocks:
        made_of = f" ({clean(event.host_tier)})" if event.host_tier else ""
        parts.append(f"{event.num_host_blocks} more in the host tier{made_of}")
    if any(event.group_windows) or len(event.group_windows) > 1:
        windows = ", ".join(f"window of {w} tokens" if w else "no window" for w in event.group_windows)
        parts.append(f"{plural(len(event.group_windows), 'layer group')} ({windows})")
    parts += [f"model {clean(event.model.name)}", f"seed {event.seed}"]
    return f"run started: {event.memory} memory, {', '.join(parts)}"


def _describe_request(
    event: ev.RequestQueued | ev.RequestAdmitted | ev.AdmissionBlocked | ev.RequestFinished | ev.RequestRejected,
    state: PageMap | None,
    explain: bool,
) -> str:
    match event:
        case ev.RequestQueued():
            prompt = clip(clean(event.prompt), 60)
            lengths = f"{plural(event.prompt_tokens, 'prompt token')}, at most {event.max_tokens} new ones"
            if event.is_beam_search:
                lengths += f", beam search with {plural(event.width, 'beam')}"
            elif event.width > 1:
                lengths += f", {event.width} samples"
            return f"request {event.request} arrives: {lengths}: “{prompt}”"
        case ev.RequestAdmitted():
            waited = f"after {plural(event.waited_steps, 'step')} of waiting" if event.waited_steps else "at once"
            return f"request {event.request} begins to run, {waited}"
        case ev.AdmissionBlocked():
            return describe_blocked(event, state is None or state.is_paged, explain)
        case ev.RequestFinished():
            tokens = plural(event.output_tokens, "token")
            return f"request {event.request} is complete after {tokens} ({event.reason.value})"
        case ev.RequestRejected():
            return f"request {event.request} is rejected: {clean(event.reason)}"


def _describe_preemption(
    event: ev.RequestPreempted | ev.RequestResumed | ev.PreemptionSettled, state: PageMap | None, explain: bool
) -> str:
    swapped = event.mode is ev.PreemptionMode.SWAP
    match event:
        case ev.RequestPreempted():
            who, why = f"request {event.request}", because(event.cause, explain, state)
            lost = f"{plural(event.tokens_lost, 'stored token')} lost"
            if event.cause is Cause.HOST_FULL:
                return f"{who} loses its pages in the host tier: {lost}, {why}"
            if swapped:
                lost = f"{plural(event.blocks_released, 'page')} given up, what they hold moved to the host tier"
            chosen = f", chosen by policy {clean(event.policy)}" if event.policy else ""
            return f"{who} is preempted ({event.mode.value}): {lost}{chosen}{_how(event)}, {why}"
        case ev.RequestResumed():
            again = f"{plural(event.tokens_to_recompute, 'token')} must be computed a second time"
            if swapped:
                again = "its pages are back from the host tier" + (f", {again}" if event.tokens_to_recompute else "")
            elif event.tokens_kept:
                again += f", {event.tokens_kept} more were still in the prefix cache"
            return f"request {event.request} runs again; {again}"
        case ev.PreemptionSettled():
            cost = (
                f"{size(event.bytes_moved)} moved out and back"
                if swapped
                else (f"{plural(event.tokens_recomputed, 'token')} computed again")
            )
            expected = f" ({milliseconds(event.estimated_ns)} expected)" if event.estimated_ns >= 0 else ""
            took = f"{milliseconds(event.measured_ns)}{expected}"
            return f"request {event.request} is where it was before it was preempted: {cost} in {took}"


def _how(event: ev.RequestPreempted) -> str:
    """Why it was swapped or is to be recomputed, and what either was expected to cost."""
    estimate = event.estimate
    if estimate is None:
        return f"; {clean(event.why)}" if event.why else ""
    costs = (("swapping", estimate.swap_ns), ("recomputing", estimate.recompute_ns))
    expected = ", ".join(f"{what} {milliseconds(ns)}" for what, ns in costs if ns >= 0)
    why = "" if "expected to take" in event.why else clean(event.why)  # those words only repeat the two numbers
    if not expected:
        return f"; {why}" if why else ""
    return f"; {why} (expected: {expected})" if why else f"; expected: {expected}"


def _describe_output(
    event: ev.SequenceForked | ev.SequenceFinished | ev.OutputsChosen | ev.TokenGenerated,
    state: PageMap | None,
    explain: bool,
) -> str:
    match event:
        case ev.SequenceForked():
            shared = f"they share the first {plural(event.num_tokens, 'token')}"
            if not event.num_tokens:
                shared = "nothing of it is in memory"
            child, parent = f"sequence {event.child}", f"sequence {event.parent}"
            why = because(event.cause, explain, state)
            return f"request {event.request}: {child} goes on from {parent}; {shared}, {why}"
        case ev.SequenceFinished():
            who = member_name(event.request, event.sequence, state)
            tokens = plural(event.output_tokens, "token")
            if event.reason is None:
                return f"{who}: the beam is dropped after {tokens}, others are better"
            return f"{who} is complete after {tokens} ({event.reason.value})"
        case ev.OutputsChosen():
            found = plural(len(event.outputs), "result")
            best = f", the best with a score of {event.outputs[0].score:.3f}" if event.outputs else ""
            text = f": “{clip(clean(event.outputs[0].text), 60)}”" if event.outputs and event.outputs[0].text else ""
            return f"request {event.request}: its beam search ends with {found}{best}{text}"
        case ev.TokenGenerated():
            shown = f"“{clean(event.text)}”" if event.text else "nothing to show yet"
            place = f"its {ordinal(event.index + 1)} token"
            who = member_name(event.request, event.sequence, state)
            return f"{who} generates {place}, id {event.token_id}: {shown}"
