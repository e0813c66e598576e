"""Sampling on the device, in one reading of the logits: the contract of `workbench.engine.sampler` for plain requests.

A row's cumulative distribution is never written down. A first kernel reduces every chunk of the vocabulary to its
largest logit and its sum of exponentials. A second one, per row, finds the chunk in which the uniform number falls, and
then the token inside it. Whatever else is in the batch, a row's arithmetic is the same.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_CHUNK = 4096


@triton.jit
def _reduce_chunks(
    logits_ptr, temperatures_ptr, maxima_ptr, sums_ptr, best_ptr, vocab_size, stride, num_chunks, CHUNK: tl.constexpr
):
    row, chunk = tl.program_id(0), tl.program_id(1)
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(logits_ptr + row.to(tl.int64) * stride + token, mask=token < vocab_size, other=float("-inf"))
    x = x.to(tl.float32)
    largest, best = tl.max(x, 0), tl.argmax(x, 0)
    temperature = tl.load(temperatures_ptr + row)
    factor = tl.where(temperature > 0.0, 1.0 / tl.where(temperature > 0.0, temperature, 1.0), 0.0)
    # A chunk of nothing but minus infinity must give 0, not NaN.
    weights = tl.where(x > float("-inf"), tl.exp((x - tl.where(largest > float("-inf"), largest, 0.0)) * factor), 0.0)
    at = row * num_chunks + chunk
    tl.store(maxima_ptr + at, largest)
    tl.store(sums_ptr + at, tl.sum(weights, 0))
    tl.store(best_ptr + at, chunk * CHUNK + best)


@triton.jit
def _pick_tokens(
    logits_ptr, temperatures_ptr, uniforms_ptr, maxima_ptr, sums_ptr, best_ptr, out_ptr, vocab_size, stride,
    num_chunks, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    chunks = tl.arange(0, CHUNKS)
    at = row * num_chunks + chunks
    maxima = tl.load(maxima_ptr + at, mask=chunks < num_chunks, other=float("-inf"))
    largest = tl.max(maxima, 0)
    temperature = tl.load(temperatures_ptr + row)
    if temperature > 0.0:
        factor = 1.0 / temperature
        sums = tl.load(sums_ptr + at, mask=chunks < num_chunks, other=0.0)
        weights = (sums * tl.exp((maxima - largest) * factor)).to(tl.float64)
        cumulative = tl.cumsum(weights, 0)
        target = tl.load(uniforms_ptr + row) * tl.sum(weights, 0)
        # The first chunk whose cumulative weight exceeds the target; rounding may not lead behind the last with weight.
        last = tl.max(tl.where(weights > 0.0, chunks, 0), 0)
        chosen = tl.minimum(tl.sum((cumulative <= target).to(tl.int32), 0), last)
        # Not below 0, which rounding could make it: a token without a chance must not be taken.
        rest = tl.maximum(target - tl.sum(tl.where(chunks < chosen, weights, 0.0), 0), 0.0)

        inside = tl.arange(0, CHUNK)
        token = chosen * CHUNK + inside
        x = tl.load(logits_ptr + row.to(tl.int64) * stride + token, mask=token < vocab_size, other=float("-inf"))
        shares = tl.exp((x.to(tl.float32) - largest) * factor).to(tl.float64)
        below = tl.cumsum(shares, 0) <= rest
        last_inside = tl.max(tl.where(shares > 0.0, inside, 0), 0)
        picked = tl.minimum(tl.sum(below.to(tl.int32), 0), last_inside)
        tl.store(out_ptr + row, (chosen * CHUNK + picked).to(tl.int64))
    else:
        first = tl.argmax(maxima, 0)
        tl.store(out_ptr + row, tl.load(best_ptr + row * num_chunks + first).to(tl.int64))


def pick_tokens(logits: Tensor, temperatures: Tensor, uniforms: Tensor, out: Tensor) -> None:
    """Chooses a token per row. Allocates scratch memory only, and waits for nothing: fit for a CUDA graph.

    Args:
        logits: ``[rows, vocab_size]``, any float type, the last dimension contiguous.
        temperatures: float32 ``[rows]``; 0 takes the largest logit (of equal ones the first).
        uniforms: float64 ``[rows]``, from 0 to below 1; the inverse of the cumulative distribution is taken there.
        out: int64 ``[rows]``, written.
    """
    rows, vocab_size = logits.shape
    if rows == 0:
        return
    chunk = min(_CHUNK, triton.next_power_of_2(vocab_size))
    num_chunks = triton.cdiv(vocab_size, chunk)
    maxima = torch.empty(rows, num_chunks, dtype=torch.float32, device=logits.device)
    sums = torch.empty_like(maxima)
    best = torch.empty(rows, num_chunks, dtype=torch.int32, device=logits.device)
    stride = logits.stride(0)
    _reduce_chunks[(rows, num_chunks)](
        logits, temperatures, maxima, sums, best, vocab_size, stride, num_chunks, CHUNK=chunk, num_warps=8
    )
    _pick_tokens[(rows,)](
        logits,
        temperatures,
        uniforms,
        maxima,
        sums,
        best,
        out,
        vocab_size,
        stride,
        num_chunks,
        CHUNK=chunk,
        CHUNKS=triton.next_power_of_2(num_chunks),
        num_warps=8,
    )
