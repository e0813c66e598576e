"""What events are made of: their common base, the answers to "why?", and plain records within them."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Cause(StrEnum):
    """Answers "why did this happen?"."""

    ADMISSION = "admission"  #: a waiting request was let in and got memory for its known tokens
    PREFILL = "prefill"  #: prompt tokens were computed
    DECODE = "decode"  #: one generated token was computed
    RECOMPUTE = "recompute"  #: tokens of a preempted request were computed again, perhaps with new ones behind them
    DECODE_GROWTH = "decode_growth"  #: the last page was full and one more token had to be stored
    POOL_EXHAUSTED = "pool_exhausted"  #: no free page or region is large enough
    WATERMARK = "watermark"  #: free pages are left, but so few that running requests will soon need them
    MAX_RUNNING = "max_running"  #: as many requests run as the configuration allows
    TOKEN_BUDGET = "token_budget"  #: the step computes as many tokens as it may
    JUST_PREEMPTED = "just_preempted"  #: memory ran out in this very step, so nobody is let in
    PREEMPTION_VICTIM = "preemption_victim"  #: the request was put back so that an older one can go on
    HOST_FULL = "host_full"  #: the host tier has no room for what would be swapped out
    RESUMPTION = "resumption"  #: a preempted request goes on
    FORK = "fork"  #: a sequence split in two, which share what both have in common
    COPY_ON_WRITE = "copy_on_write"  #: a token has to be stored in a page that others use too
    BEAM_DROPPED = "beam_dropped"  #: a beam is not among the best any more
    PREFIX_HIT = "prefix_hit"  #: the page holds just the tokens with which a sequence begins
    PREFIX_EVICTION = "prefix_eviction"  #: no page was free, so one that was kept for its content gave way
    OUT_OF_WINDOW = "out_of_window"  #: no token to come can see the page: it lies behind the sliding window
    LARGER_THAN_MEMORY = "larger_than_memory"  #: the sequence has more pages than the device's pool
    SEQUENCE_FINISHED = "sequence_finished"  #: one of a request's sequences is complete; others go on
    REQUEST_FINISHED = "request_finished"
    CANCELLED = "cancelled"
    NEVER_FITS = "never_fits"  #: the request is larger than the whole pool


class FinishReason(StrEnum):
    """Why a request stopped generating."""

    STOP = "stop"  #: a stop token, a stop string or the end-of-text token
    LENGTH = "length"  #: `max_tokens` or the model's last position was reached
    CANCELLED = "cancelled"


class Tier(StrEnum):
    """Where a page lies."""

    DEVICE = "device"
    HOST = "host"  #: the computer's own memory; on a CPU a second pool that stands for it


class PreemptionMode(StrEnum):
    """What becomes of a preempted request's KV memory (Kwon et al., SOSP 2023, section 4.5)."""

    RECOMPUTE = "recompute"  #: it is thrown away, and computed again later
    SWAP = "swap"  #: its pages move to the host tier, and back later


class ModelGeometry(msgspec.Struct, frozen=True):
    """The shape of the model, as far as its KV cache is concerned. ``kv_bytes_per_token`` counts all layers."""

    name: str
    architecture: str
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    dtype: str
    kv_bytes_per_token: int


class LiveWaste(msgspec.Struct, frozen=True):
    """What every slot of the pool is doing now. The four counts add up to the pool.

    While a request runs nobody knows how long it gets, so reservation and internal fragmentation (Kwon et al.,
    SOSP 2023, Fig. 2) cannot be told apart: both are ``reserved``. `workbench.events.waste` splits them afterwards.

    Attributes:
        token_states: slots that hold the keys and values of a token.
        reserved: slots that belong to a running request and hold nothing yet.
        external: slots that no waiting request can get: rounding by the buddy allocator, and free slots in pieces
            too small for the request at the head of the queue.
        free: slots that could be given to a request, and hold nothing of use.
        cached: slots of pages that nobody uses, kept because their content may be wanted again (prefix cache). They,
            too, could be given to a request.
    """

    token_states: int
    reserved: int
    external: int
    free: int
    cached: int = 0


class PreemptionEstimate(msgspec.Struct, frozen=True):
    """What getting a victim back was expected to cost, either way, when it was preempted.

    Attributes:
        swap_ns: time to move its pages out and in again; -1: impossible (no host tier, or it is full).
        recompute_ns: time to compute its tokens again; -1: not known yet.
        tokens: those to compute again, each shared one once, without ``tokens_kept``.
        tokens_kept: tokens that the prefix cache will give back, because other running sequences hold their pages.
        bytes: to be moved, one way.
    """

    swap_ns: int
    recompute_ns: int
    tokens: int
    tokens_kept: int
    bytes: int


class OutputState(msgspec.Struct, frozen=True):
    """One output of a beam search. ``score`` is the sum of log probabilities over length to the length penalty."""

    token_ids: list[int]
    text: str
    score: float
    reason: FinishReason


class Event(msgspec.Struct, tag=True, tag_field="type", kw_only=True, gc=False):
    """Base of all events. The bus fills in ``seq``, ``step`` and ``t_ns``."""

    seq: int = -1
    step: int = -1
    t_ns: int = 0
