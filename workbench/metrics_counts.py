"""What `workbench.metrics` counts: sums over events, and histograms of times."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from workbench.events import EventBatch, PageMap
from workbench.events import types as ev
from workbench.events.state import RequestStatus

#: name: (help, labels beside ``engine`` and ``memory``); the exposition adds ``_total``
COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "num_preemptions": ("Times that a running request had to give its memory back.", ()),
    "prompt_tokens": ("Prompt tokens of requests that were let in.", ()),
    "generation_tokens": ("Tokens that were generated.", ()),
    "request_success": ("Requests that ended, by reason: stop, length, or abort.", ("finished_reason",)),
    "requests_rejected": ("Requests that can never run here, by cause.", ("cause",)),
    "prefix_cache_queries": ("Tokens that were looked up in the prefix cache, at a request's first admission.", ()),
    "prefix_cache_hits": ("Tokens that were found in the prefix cache, at a request's first admission.", ()),
    "prefill_tokens_computed": ("Tokens computed other than by decoding: prompts, and what was lost.", ()),
    "preemptions_by_mode": ("Preemptions, by mode and cause.", ("mode", "cause")),
    "preemption_tokens_lost": ("Stored tokens that preemptions threw away.", ()),
    "preemption_tokens_recomputed": ("Tokens that have to be computed again because of preemptions.", ()),
    "preemption_tokens_kept": ("Tokens that preemptions threw away and the prefix cache gave back.", ()),
    "preemptions_settled": ("Preempted requests that are where they were before.", ("mode",)),
    "preemption_expected_seconds": (
        "What settled preemptions had been expected to cost, where that was asked.",
        ("mode",),
    ),
    "preemption_measured_seconds": (
        "What settled preemptions did cost; with an expectation (estimated=yes) or without.",
        ("mode", "estimated"),
    ),
    "kv_swap_bytes": ("Bytes of pages moved between device and host, by direction.", ("direction",)),
    "kv_streamed_bytes": ("Bytes of host pages read for attention where they lie.", ()),
    "kv_pages_copied": ("Pages copied on write.", ()),
    "kv_pages_evicted": ("Pages that the prefix cache gave up.", ()),
    "steps": ("Engine steps.", ()),
    "step_seconds": ("Time inside engine steps, by phase.", ("phase",)),
}

#: name: help
HISTOGRAMS = {
    "time_to_first_token_seconds": "From a request's arrival to its first token.",
    "e2e_request_latency_seconds": "From a request's arrival to its end; rejected requests are not counted.",
    "request_queue_time_seconds": "From a request's arrival to its first admission.",
}

#: Upper bounds in seconds. vLLM's begin at 0.3; a small model on a CPU is often quicker.
BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0)

#: These are 0 before anything happens, so that rates can be formed from the first time on.
_PRESENT: dict[str, list[tuple[str, ...]]] = {
    "request_success": [("stop",), ("length",), ("abort",)],
    "kv_swap_bytes": [("out",), ("in",)],
}


class Histogram:
    """Counts by bucket, and the sum of what was observed."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(BUCKETS, value)] += 1
        self.sum += value

    def add(self, other: Histogram) -> None:
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    def cumulative(self, bounds: tuple[float, ...]) -> list[tuple[str, float]]:
        """Pairs of upper bound and count up to it, the last for infinity."""
        total, pairs = 0, []
        for bound, count in zip([*map(str, bounds), "+Inf"], self.counts, strict=True):
            total += count
            pairs.append((bound, float(total)))
        return pairs


class Counts:
    """Counters and histograms of one engine, or of several added up. Costs an engine a dictionary look-up per event."""

    def __init__(self) -> None:
        self.memory = ""
        self.counters: dict[str, dict[tuple[str, ...], float]] = {}
        for name, (_, labels) in COUNTERS.items():
            start = _PRESENT.get(name, [] if labels else [()])
            self.counters[name] = defaultdict(float, dict.fromkeys(start, 0.0))
        self.histograms = {name: Histogram() for name in HISTOGRAMS}
        self._run: ev.RunStarted | None = None
        self._arrived: dict[int, int] = {}  # requests that have not ended -> t_ns
        self._prompts: dict[int, int] = {}  # the same -> prompt tokens
        self._requests: dict[int, int] = {}  # their sequences -> requests
        self._begun: set[int] = set()  # requests with a token
        self._sequences: defaultdict[int, list[int]] = defaultdict(list)  # the other way round
        self._preempted: set[int] = set()
        self._swapped: set[int] = set()

    def add(self, other: Counts) -> None:
        """Adds what another has counted."""
        for name, values in other.counters.items():
            for labels, number in list(values.items()):
                self.counters[name][labels] += number
        for name, histogram in other.histograms.items():
            self.histograms[name].add(histogram)

    def begin(self, snapshot: PageMap) -> None:
        """Joins a run. What happened before is not counted."""
        if snapshot.run is not None:
            self._run_started(snapshot.run)
        for number in [*snapshot.waiting, *snapshot.running]:
            request = snapshot.requests[number]
            self._prompts[number] = request.prompt_tokens
            for sequence in request.outputs:
                self._own(number, sequence)
            if request.status is RequestStatus.SWAPPED:
                self._swapped.add(number)
            if request.preemptions:
                self._preempted.add(number)
            if any(output.token_ids for output in request.outputs.values()):
                self._begun.add(number)

    def on_batch(self, batch: EventBatch) -> None:
        """Takes a step's events into account."""
        for event in batch.events:
            if handler := _HANDLERS.get(type(event)):
                handler(self, event)

    def _own(self, request: int, sequence: int) -> None:
        self._requests[sequence] = request
        self._sequences[request].append(sequence)

    def _count(self, name: str, number: float, *labels: str) -> None:
        self.counters[name][labels] += number

    def _time(self, name: str, request: int, t_ns: int) -> None:
        if request in self._arrived:  # else it had arrived before this began
            self.histograms[name].observe((t_ns - self._arrived[request]) / 1e9)

    # -- events ----------------------------------------------------------------------------------------------------

    def _run_started(self, event: ev.RunStarted) -> None:
        self._run = event
        self.memory = event.memory

    def _step_finished(self, event: ev.StepFinished) -> None:
        self._count("steps", 1)
        self._count("prefill_tokens_computed", event.prefill_tokens)
        for phase in ("schedule", "copy", "swap", "forward", "sample"):
            if nanoseconds := getattr(event, f"{phase}_ns"):
                self._count("step_seconds", nanoseconds / 1e9, phase)

    def _queued(self, event: ev.RequestQueued) -> None:
        self._arrived[event.request] = event.t_ns
        self._prompts[event.request] = event.prompt_tokens
        self._own(event.request, event.sequence)

    def _forked(self, event: ev.SequenceForked) -> None:
        self._own(event.request, event.child)

    def _admitted(self, event: ev.RequestAdmitted) -> None:
        tokens = self._prompts.get(event.request, 0)
        self._count("prompt_tokens", tokens)
        if self._run is not None and self._run.config.get("prefix_caching"):
            self._count("prefix_cache_queries", tokens)
        self._time("request_queue_time_seconds", event.request, event.t_ns)

    def _prefix_hit(self, event: ev.PrefixHit) -> None:
        if self._run is not None and self._requests.get(event.sequence) not in self._preempted:
            self._count("prefix_cache_hits", self._run.block_size)  # only full pages are kept

    def _token_generated(self, event: ev.TokenGenerated) -> None:
        self._count("generation_tokens", 1)
        if event.request not in self._begun:
            self._begun.add(event.request)
            self._time("time_to_first_token_seconds", event.request, event.t_ns)

    def _finished(self, event: ev.RequestFinished) -> None:
        reason = "abort" if event.reason is ev.FinishReason.CANCELLED else event.reason.value
        self._count("request_success", 1, reason)
        self._time("e2e_request_latency_seconds", event.request, event.t_ns)
        self._forget(event.request)

    def _rejected(self, event: ev.RequestRejected) -> None:
        self._count("requests_rejected", 1, event.cause.value)
        self._forget(event.request)

    def _forget(self, request: int) -> None:
        for known in (self._arrived, self._prompts):
            known.pop(request, None)
        for sequence in self._sequences.pop(request, []):
            del self._requests[sequence]
        for kept in (self._begun, self._preempted, self._swapped):
            kept.discard(request)

    def _request_preempted(self, event: ev.RequestPreempted) -> None:
        if event.request not in self._swapped:  # else its pages on the host make room, and it was counted before
            self._count("num_preemptions", 1)
        (self._swapped.add if event.mode is ev.PreemptionMode.SWAP else self._swapped.discard)(event.request)
        self._preempted.add(event.request)
        self._count("preemptions_by_mode", 1, event.mode.value, event.cause.value)
        self._count("preemption_tokens_lost", event.tokens_lost)

    def _resumed(self, event: ev.RequestResumed) -> None:
        self._swapped.discard(event.request)
        self._count("preemption_tokens_recomputed", event.tokens_to_recompute)
        self._count("preemption_tokens_kept", event.tokens_kept)

    def _settled(self, event: ev.PreemptionSettled) -> None:
        mode, is_estimated = event.mode.value, event.estimated_ns >= 0
        self._count("preemptions_settled", 1, mode)
        self._count("preemption_measured_seconds", event.measured_ns / 1e9, mode, "yes" if is_estimated else "no")
        if is_estimated:
            self._count("preemption_expected_seconds", event.estimated_ns / 1e9, mode)

    def _swapped_out(self, event: ev.BlocksSwappedOut) -> None:
        self._count("kv_swap_bytes", event.bytes, "out")

    def _swapped_in(self, event: ev.BlocksSwappedIn) -> None:
        self._count("kv_swap_bytes", event.bytes, "in")

    def _streamed(self, event: ev.BlocksStreamed) -> None:
        self._count("kv_streamed_bytes", event.bytes)

    def _copied(self, event: ev.BlockCopied) -> None:
        self._count("kv_pages_copied", 1)

    def _evicted(self, event: ev.BlockEvicted) -> None:
        self._count("kv_pages_evicted", 1)


_HANDLERS: dict[type, Callable[[Counts, Any], None]] = {
    ev.RunStarted: Counts._run_started,
    ev.StepFinished: Counts._step_finished,
    ev.RequestQueued: Counts._queued,
    ev.SequenceForked: Counts._forked,
    ev.RequestAdmitted: Counts._admitted,
    ev.PrefixHit: Counts._prefix_hit,
    ev.TokenGenerated: Counts._token_generated,
    ev.RequestFinished: Counts._finished,
    ev.RequestRejected: Counts._rejected,
    ev.RequestPreempted: Counts._request_preempted,
    ev.RequestResumed: Counts._resumed,
    ev.PreemptionSettled: Counts._settled,
    ev.BlocksSwappedOut: Counts._swapped_out,
    ev.BlocksSwappedIn: Counts._swapped_in,
    ev.BlocksStreamed: Counts._streamed,
    ev.BlockCopied: Counts._copied,
    ev.BlockEvicted: Counts._evicted,
}
