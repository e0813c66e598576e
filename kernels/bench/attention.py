"""Attention: our kernels on pages, the same kernels on contiguous memory, and torch's SDPA on contiguous memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from cases import Case
from inputs import Inputs, copies_for, make_inputs
from timing import graph_microseconds
from torch import Tensor

from paged_kernels.decode import DecodeConfig, DecodePlan, paged_attention_decode
from paged_kernels.prefill import PrefillConfig, PrefillPlan, paged_attention_prefill

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Result:
    """Microseconds of a case; None where there is nothing to compare with.

    Attributes:
        plan: making the work list, which happens once per step, not once per layer.
        in_order: our kernel on the same sequences lying in one piece, in order, in pages of 256.
        difference: of our output from SDPA's, relative, in bfloat16.
    """

    case: Case
    ours: float
    plan: float
    in_order: float
    sdpa: float | None
    difference: float | None


def decode_call(case: Case, given: Inputs, config: DecodeConfig | None = None) -> tuple[Call, Call]:
    """The kernel's launch, and that of the plan."""
    plan = DecodePlan(len(case.contexts), case.num_heads, case.num_kv_heads, case.head_dim, given.q.device, config)
    plan.update(given.context_lens)
    tensors = (given.q, given.k_cache, given.v_cache, given.block_tables, given.context_lens)

    def launch() -> Tensor:
        return paged_attention_decode(*tensors, scale=case.head_dim**-0.5, plan=plan, out=given.out)

    return launch, lambda: plan.update(given.context_lens).rows


def prefill_call(case: Case, given: Inputs, config: PrefillConfig | None = None) -> tuple[Call, Call]:
    """The kernel's launch, and that of the plan."""
    group = case.num_heads // case.num_kv_heads
    config = config or PrefillConfig.choose(case.head_dim, case.head_dim, given.q.dtype, given.q.dtype, group)
    num_tokens = given.q.shape[0]
    plan = PrefillPlan(group, given.q.device, config)
    plan.update(given.query_start, given.context_lens, num_tokens)
    tensors = (given.q, given.k_cache, given.v_cache, given.block_tables, given.context_lens, given.query_start)

    def launch() -> Tensor:
        return paged_attention_prefill(*tensors, scale=case.head_dim**-0.5, plan=plan, out=given.out)

    return launch, lambda: plan.update(given.query_start, given.context_lens, num_tokens).rows


def contiguous(case: Case, given: Inputs) -> tuple[Tensor, Tensor]:
    """The pages of equally long sequences, gathered: K and V ``[num_seqs, num_kv_heads, context, head_dim]``."""
    context = case.contexts[0]
    blocks = given.block_tables.long()
    k, v = (
        cache[blocks].flatten(1, 2)[:, :context].transpose(1, 2).contiguous()
        for cache in (given.k_cache, given.v_cache)
    )
    return k, v


def sdpa_call(case: Case, given: Inputs) -> Call | None:
    """SDPA for the same; None where it has no fitting call: ragged lengths, or chunks on a prefix."""
    context, queries = case.contexts[0], case.queries
    if case.is_ragged or queries not in (1, context):
        return None
    k, v = contiguous(case, given)
    q = given.q.view(len(case.contexts), queries, case.num_heads, case.head_dim).transpose(1, 2)
    is_causal = queries > 1
    return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=True)


def measure(case: Case) -> Result:
    """All that is measured of a case, with inputs that outgrow the L2 cache."""
    # Pools that are carved out of what larger cases left behind were seen to be up to 9 % slower.
    torch.cuda.empty_cache()
    sets = make_inputs(case, copies_for(case))
    make = decode_call if case.queries == 1 else prefill_call
    ours = graph_microseconds([make(case, given)[0] for given in sets])
    plan = graph_microseconds([make(case, sets[0])[1]] * 10)
    calls = [sdpa_call(case, given) for given in sets]
    sdpa = difference = None
    if calls[0] is not None:
        sdpa = graph_microseconds([call for call in calls if call is not None])
        expected = calls[0]().transpose(1, 2).reshape_as(sets[0].out).float()
        difference = ((make(case, sets[0])[0]().float() - expected).norm() / expected.norm()).item()
    del calls, sets
    torch.cuda.empty_cache()
    sets = make_inputs(case, copies_for(case), block_size=256, shuffle=False)
    in_order = graph_microseconds([make(case, given)[0] for given in sets])
    return Result(case, ours, plan, in_order, sdpa, difference)


def table(results: list[Result], bytes_per_s: float, flops: float) -> str:
    """Markdown. Floors are for this machine's own copy bandwidth and matrix rate."""
    lines = [
        "| case | floor | ours | of floor | FA3 | ours against FA3 | unified | ours against unified | SDPA | "
        "pages in order | plan | difference from SDPA |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        floor = r.case.floor(bytes_per_s, flops)
        sdpa = "-" if r.sdpa is None else f"{r.sdpa:.1f}"
        difference = "-" if r.difference is None else f"{r.difference:.1e}"
        lines.append(
            f"| {r.case.name} | {floor:.1f} | {r.ours:.1f} | {floor / r.ours:.0%} | {r.case.fa3} | "
            f"{r.case.fa3 / r.ours:.2f}x | {r.case.triton_unified} | {r.case.triton_unified / r.ours:.2f}x | {sdpa} | "
            f"{r.in_order:.1f} | {r.plan:.1f} | {difference} |"
        )
    return "\n".join(lines)
