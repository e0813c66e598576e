"""Paged attention for decoding: one new token per sequence, its keys and values on scattered pages.

Every program takes one KV head and an equal share of all contexts (`plan`), reads that K and V once for all query heads
that share the head, and keeps a running softmax (Milakov and Gimelshein, 2018). Where a context was cut into pieces,
whoever is done last merges them by their log-sum-exp (Dao et al., Flash-Decoding, 2023), in the pieces' order: the
result does not depend on who that was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from paged_kernels.checks import check_not_negative
from paged_kernels.decode_kernel import decode_kernel
from paged_kernels.options import AttentionOptions, check_attention, kernel_constants, kernel_strides
from paged_kernels.plan import ROW_WIDTH, multiprocessors, plan_decode


@dataclass(frozen=True)
class DecodeConfig:
    """How the kernel is launched. The defaults were measured on an H200 (docs/benchmarks.md).

    Attributes:
        tile: keys per step of a program.
        share: keys per program of a ragged batch to aim at, where that is enough to fill the chip.
        least: programs per multiprocessor that fill it.
    """

    tile: int = 32
    num_warps: int = 2
    num_stages: int = 4
    share: int = 2048
    least: int = 2

    @staticmethod
    def choose(head_dim: int, query_dtype: torch.dtype) -> DecodeConfig:
        """The configuration for a head size (of K or V, the larger) and the queries' dtype."""
        if query_dtype == torch.float32:
            return DecodeConfig(num_warps=4, num_stages=2)
        if head_dim > 128:
            return DecodeConfig(num_warps=4, num_stages=3)
        return DecodeConfig()


class DecodePlan:
    """The work list of a batch, and the scratch memory of its launches.

    Everything is allocated here, so `update` and `paged_attention_decode` can be captured in a CUDA graph. One plan
    serves the layers of one kind, one after another on one stream.

    Args:
        max_seqs: most sequences in a batch.
        config: default: what suits 16-bit queries.
    """

    def __init__(
        self,
        max_seqs: int,
        num_heads: int,
        num_kv_heads: int,
        value_head_dim: int,
        device: torch.device | str,
        config: DecodeConfig | None = None,
    ) -> None:
        device = torch.device(device)
        self.config = config or DecodeConfig.choose(value_head_dim, torch.bfloat16)
        self.num_heads, self.num_kv_heads, self.value_head_dim = num_heads, num_kv_heads, value_head_dim
        self._least_workers = math.ceil(self.config.least * multiprocessors(device) / num_kv_heads)
        self._most_workers = max(self._least_workers, 2 * self.config.least * multiprocessors(device) // num_kv_heads)
        self.max_seqs = max_seqs
        num_rows = 3 * self._least_workers + max_seqs
        self.rows = torch.zeros(num_rows, ROW_WIDTH, dtype=torch.int32, device=device)
        self.workers = torch.zeros(self._most_workers, 2, dtype=torch.int32, device=device)
        self.partial = torch.empty(num_rows, num_heads, value_head_dim, dtype=torch.float32, device=device)
        #: running maximum and sum of every piece and head
        self.partial_stats = torch.empty(num_rows, num_heads, 2, dtype=torch.float32, device=device)
        #: pieces that are done, per sequence and KV head; back at 0 after every launch
        self.counters = torch.zeros(max_seqs, num_kv_heads, dtype=torch.int32, device=device)
        self.num_seqs = 0

    def update(self, context_lens: Tensor, window: int | None = None, behind: int = 0) -> DecodePlan:
        """Plans for these lengths, int32 ``[num_seqs]`` on the device; on the device, without waiting for it."""
        self.num_seqs = context_lens.shape[0]
        if self.num_seqs > self.max_seqs:
            raise ValueError(f"context_lens: {self.num_seqs} sequences given; this plan takes at most {self.max_seqs}")
        if self.num_seqs == 0:
            return self
        plan_decode(
            context_lens,
            self.rows,
            self.workers[: self.num_workers],
            self.config.tile,
            self.config.share // self.config.tile,
            self._least_workers,
            None if window is None else max(1, window - behind),
        )
        return self

    @property
    def num_workers(self) -> int:
        """Programs per KV head: no more than can be useful, because idle ones take time, too."""
        return min(self._most_workers, self._least_workers + self.num_seqs)


def paged_attention_decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    behind: int = 0,
    plan: DecodePlan | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """Attention of one query per sequence over its pages (Kwon et al., SOSP 2023, eq. 4).

    Args:
        q: ``[num_seqs, num_heads, head_dim]``, float16, bfloat16 or float32; the last dimension contiguous.
        k_cache: ``[num_blocks, block_size, num_kv_heads, head_dim]``, of q's dtype, or float8_e4m3fn with scales.
        v_cache: ``[num_blocks, block_size, num_kv_heads, value_head_dim]``.
        block_tables: int32 ``[num_seqs, max_blocks]``; entries past a sequence's end, or behind its window, are not
            used.
        context_lens: int32 ``[num_seqs]``, keys of every sequence, the new token's own included. 0: a padded row; its
            output is zeros (its log-sum-exp minus infinity, or the sink).
        scale: factor on the scores.
        window: only the last ``window`` keys take part.
        softcap: scores become ``softcap * tanh(score / softcap)``.
        sinks: ``[num_heads]``, a logit per head that takes part in the softmax and has no value.
        alibi_slopes: float32 ``[num_heads]``; scores get ``slope * (key position - query position)``.
        k_scale: float32 ``[1]`` or ``[num_kv_heads]``, what a stored value of 1 stands for; ``v_scale`` alike.
        behind: how much further behind the given keys the queries of all sequences are: 0 if the last key is the
            query's own; for a part of a context that ends before key ``b`` of ``n``, ``n - b``. Windows and ALiBi count
            it. The results for all parts are merged by `paged_kernels.merge.merge_partial`.
        plan: made by `DecodePlan.update` for the same lengths, window and ``behind``; made anew if missing.
        out: ``[num_seqs, num_heads, value_head_dim]``, written; allocated if missing.
        lse: float32 ``[num_seqs, num_heads]``, written: the log-sum-exp of the scores, sinks included.

    Returns:
        ``out``.

    Raises:
        ValueError, TypeError: an argument has a wrong shape, dtype, stride or device; nothing has been launched.
    """
    options = AttentionOptions(scale, window, softcap, sinks, alibi_slopes, k_scale, v_scale)
    shape = check_attention(q, k_cache, v_cache, block_tables, context_lens, options, out, lse)
    check_not_negative("behind", behind)
    num_seqs = q.shape[0]
    if context_lens.shape[0] != num_seqs:
        raise ValueError(f"q: {num_seqs} rows given; expected one per sequence, {context_lens.shape[0]}")
    if out is None:
        out = torch.empty(num_seqs, shape.num_heads, shape.value_head_dim, dtype=q.dtype, device=q.device)
    if num_seqs == 0:
        return out
    if behind:
        if window is not None and window <= behind:
            return _attend_to_nothing(out, lse, sinks)
        options = options._replace(window=None if window is None else window - behind)
        if alibi_slopes is not None and sinks is not None:
            # To be further behind takes the same from all scores of a head: softmax sees it only against the sink.
            options = options._replace(sinks=sinks.float() + alibi_slopes * behind)
    if plan is None:
        config = DecodeConfig.choose(max(shape.head_dim, shape.value_head_dim), q.dtype)
        plan = DecodePlan(num_seqs, shape.num_heads, shape.num_kv_heads, shape.value_head_dim, q.device, config)
        plan.update(context_lens, window, behind)
    elif plan.rows.device != q.device:
        raise ValueError(f"plan: on {plan.rows.device}; expected {q.device}, where q is")
    elif (plan.num_heads, plan.num_kv_heads, plan.value_head_dim, plan.num_seqs) != (
        shape.num_heads,
        shape.num_kv_heads,
        shape.value_head_dim,
        num_seqs,
    ):
        raise ValueError(
            f"plan: made for {plan.num_seqs} sequences, {plan.num_heads} heads, {plan.num_kv_heads} KV heads of "
            f"{plan.value_head_dim}; expected {num_seqs}, {shape.num_heads}, {shape.num_kv_heads}, "
            f"{shape.value_head_dim}"
        )
    config = plan.config
    constants = kernel_constants(q, shape, options, lse)
    group_pad = constants["GROUP_PAD"]
    decode_kernel[(shape.num_kv_heads, plan.num_workers)](
        q,
        k_cache,
        v_cache,
        out,
        lse,
        block_tables,
        plan.rows,
        plan.workers,
        plan.partial,
        plan.partial_stats,
        plan.counters,
        options.sinks,
        alibi_slopes,
        k_scale,
        v_scale,
        scale,
        softcap or 0.0,
        options.window or 0,
        *kernel_strides(q, k_cache, v_cache, block_tables, out),
        options.k_scale_step,
        options.v_scale_step,
        shape.num_kv_heads,
        M=max(16, group_pad),
        TILE=config.tile,
        MERGE_ROWS=max(1, min(16, 8192 // (group_pad * constants["DV_PAD"]))),
        **constants,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    if behind and alibi_slopes is not None and lse is not None:
        lse -= alibi_slopes * behind
    return out


def _attend_to_nothing(out: Tensor, lse: Tensor | None, sinks: Tensor | None) -> Tensor:
    """What a query gets that sees no key."""
    if lse is not None:
        lse.copy_(torch.full_like(lse, -torch.inf) if sinks is None else sinks.expand_as(lse))
    return out.zero_()
