"""Attention over parts of a context, merged: the same as attention over all of it.

Every part is computed with all keys outside it, and all outputs, poisoned.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from paged_kernels import reference
from paged_kernels.merge import merge_partial
from paged_kernels.torch_partial import page_attention_mass_torch, partial_attention

pytest.importorskip("paged_kernels.decode", reason="needs triton")

from paged_kernels.decode import DecodeConfig, DecodePlan, paged_attention_decode
from paged_kernels.prefill import PrefillConfig, PrefillPlan, paged_attention_prefill
from tests.kernels.test_triton_attention import Scene, draw_options, make_scene, relative_error

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
FEW = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
HEADS = st.sampled_from([(4, 4), (8, 2), (6, 1)])
DTYPES = st.sampled_from([torch.float32, torch.float32, torch.bfloat16])


def part_of(scene: Scene, begins: list[int], ends: list[int]) -> Scene:
    """The keys from ``begins``, multiples of the block size, to below ``ends``, per sequence; all others are NaN."""
    block_size = scene.k_cache.shape[1]
    keep = torch.zeros(scene.k_cache.shape[:2], dtype=torch.bool)
    tables = torch.zeros_like(scene.block_tables)
    for seq, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        where = torch.arange(begin, end)
        keep[scene.block_tables[seq].cpu()[where // block_size].long(), where % block_size] = True
        row = scene.block_tables[seq, begin // block_size :]
        tables[seq, : len(row)] = row
    hidden = ~keep.to(scene.k_cache.device)[..., None, None]
    lens = torch.tensor([e - b for b, e in zip(begins, ends, strict=True)], dtype=torch.int32)
    k, v = (cache.masked_fill(hidden, math.nan) for cache in (scene.k_cache, scene.v_cache))
    return Scene(k, v, tables, lens.to(k.device))


def gathered(cache: Tensor, table: Tensor, begin: int, end: int) -> Tensor:
    """The keys or values from ``begin`` to below ``end``, one after another."""
    where = torch.arange(begin, end, device=cache.device)
    return cache[table[where // cache.shape[1]].long(), where % cache.shape[1]]


class Merged:
    """The sum of all parts so far."""

    def __init__(self, rows: int, num_heads: int, dim: int, dtype: torch.dtype, device: str) -> None:
        self.out = torch.zeros(rows, num_heads, dim, device=device)
        self.lse = torch.full((rows, num_heads), -math.inf, device=device)
        self.dtype = dtype

    def blank(self) -> dict[str, Tensor]:
        """Poisoned outputs for the next part."""
        return {
            "out": torch.full_like(self.out, math.nan, dtype=self.dtype),
            "lse": torch.full_like(self.lse, math.nan),
        }

    def add(self, out: Tensor, lse: Tensor) -> None:
        assert merge_partial(self.out, self.lse, out, lse, inplace=True)[0] is self.out

    def check(self, expected: tuple[Tensor, Tensor]) -> None:
        assert relative_error(self.out, expected[0]) < TOLERANCE[self.dtype]
        torch.testing.assert_close(self.lse.double(), expected[1], rtol=1e-4, atol=2e-4)


@FEW
@given(st.data(), st.lists(st.integers(0, 6), min_size=1, max_size=3), HEADS, DTYPES, st.sampled_from([1, 4, 16, 64]))
def test_merged_parts_are_attention_over_all(
    device: str, data: st.DataObject, whole: list[int], heads: tuple[int, int], dtype: torch.dtype, block_size: int
) -> None:
    num_heads, kv_heads = heads
    dim = data.draw(st.sampled_from([16, 64]), "dim")
    options = draw_options(data, num_heads, kv_heads, device, is_fp8=False)
    # Parts end at the same distance from the ends of all contexts, and begin with a page: same lengths modulo a page.
    tail = data.draw(st.integers(1, block_size), "tail")
    lengths = [pages * block_size + tail for pages in whole]
    scene = make_scene(lengths, device, kv_heads=kv_heads, dim=dim, block_size=block_size, dtype=dtype)
    cuts = data.draw(st.sets(st.integers(0, max(whole)), max_size=3), "cuts")
    ends = [0, *(tail + pages * block_size for pages in sorted(cuts)), max(lengths)]  # distances from the end
    counts = [data.draw(st.integers(1, min(length, ends[1] or 1)), "new tokens") for length in lengths]
    start = torch.tensor([0, *counts]).cumsum(0).to(torch.int32).to(device)
    rows = sum(counts)
    q = torch.randn(rows, num_heads, dim, generator=torch.Generator().manual_seed(len(ends))).to(dtype).to(device)
    last = start[1:].long() - 1
    sinks = options.pop("sinks", None)
    with_sinks = data.draw(st.integers(0, len(ends) - 2), "the part with the sinks")
    has_alibi = "alibi_slopes" in options

    decoded = Merged(len(lengths), num_heads, dim, dtype, device)
    prefilled, plain = (Merged(rows, num_heads, dim, dtype, device) for _ in range(2))
    for number, (behind, further) in enumerate(itertools.pairwise(ends)):
        part_begins = [max(0, length - further) for length in lengths]
        part_ends = [max(0, length - behind) for length in lengths]
        part = part_of(scene, part_begins, part_ends)
        tensors = (part.k_cache, part.v_cache, part.block_tables, part.context_lens)
        mine = options | {"behind": behind, "sinks": sinks if number == with_sinks else None}
        blank = decoded.blank()
        paged_attention_decode(q[last], *tensors, **mine, **blank)
        decoded.add(**blank)
        blank = prefilled.blank()
        paged_attention_prefill(q, *tensors, start, **mine, **blank)
        prefilled.add(**blank)
        if has_alibi:
            continue
        del mine["behind"]
        blank = plain.blank()
        for seq, (begin, end) in enumerate(zip(part_begins, part_ends, strict=True)):
            tokens = slice(int(start[seq]), int(start[seq + 1]))
            k, v = (gathered(cache, scene.block_tables[seq], begin, end) for cache in (scene.k_cache, scene.v_cache))
            shuffled = torch.randperm(end - begin, device=device)
            blank["out"][tokens], blank["lse"][tokens] = partial_attention(
                q[tokens],
                k[shuffled],
                v[shuffled],
                first_position=lengths[seq] - counts[seq],
                key_positions=begin + shuffled,
                **mine,
            )
        plain.add(**blank)
    tensors = (scene.k_cache, scene.v_cache, scene.block_tables, scene.context_lens)
    options["sinks"] = sinks
    expected = reference.paged_attention_prefill(q, *tensors, start, **options)
    prefilled.check(expected)
    decoded.check((expected[0][last], expected[1][last]))
    if not has_alibi:
        plain.check(expected)


@FEW
@given(st.data(), st.lists(st.integers(0, 70), min_size=1, max_size=3), HEADS, st.sampled_from([1, 16, 128]))
def test_behind_matches_reference(
    device: str, data: st.DataObject, lengths: list[int], heads: tuple[int, int], block_size: int
) -> None:
    """Any distance, any number of keys: none, fewer than queries, or out of some windows."""
    num_heads, kv_heads = heads
    options = draw_options(data, num_heads, kv_heads, device, is_fp8=False)
    options["behind"] = data.draw(st.one_of(st.integers(1, 8), st.integers(9, 120)), "behind")
    counts = [data.draw(st.integers(0, 60), "new tokens") for _ in lengths]
    scene = make_scene(lengths, device, kv_heads=kv_heads, dim=16, block_size=block_size)
    start = torch.tensor([0, *counts]).cumsum(0).to(torch.int32).to(device)
    rows, num_seqs = sum(counts), len(lengths)
    tensors = (scene.k_cache, scene.v_cache, scene.block_tables, scene.context_lens)
    q = torch.randn(max(rows, num_seqs), num_heads, 16, device=device)
    small = data.draw(st.booleans(), "small tiles")

    out, lse = torch.full_like(q[:rows], math.nan), torch.full((rows, num_heads), math.nan, device=device)
    plan: Any = None
    if small:
        config = PrefillConfig(rows=16, tile=16, num_warps=4, num_stages=2)
        plan = PrefillPlan(num_heads // kv_heads, device, config).update(start, scene.context_lens, rows)
    paged_attention_prefill(q[:rows], *tensors, start, **options, plan=plan, out=out, lse=lse)
    expected, expected_lse = reference.paged_attention_prefill(q[:rows], *tensors, start, **options)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-4, atol=1e-4)

    out, lse = torch.full_like(q[:num_seqs], math.nan), torch.full((num_seqs, num_heads), math.nan, device=device)
    if small:
        pieces = DecodeConfig(tile=16, num_warps=4, num_stages=2, share=16, least=8)
        plan = DecodePlan(num_seqs, num_heads, kv_heads, 16, device, pieces)
        plan.update(scene.context_lens, options["window"], options["behind"])
    paged_attention_decode(q[:num_seqs], *tensors, **options, plan=plan, out=out, lse=lse)
    expected, expected_lse = reference.paged_attention_decode(q[:num_seqs], *tensors, **options)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("behind", [1, 17, 32, 33, 34])
def test_decoding_at_the_edge_of_a_window(device: str, behind: int) -> None:
    lengths = [200, 97, 33, 5, 0]
    scene = make_scene(lengths, device, lowest=[min(n, max(0, n + behind - 33)) for n in lengths])
    tensors = (scene.k_cache, scene.v_cache, scene.block_tables, scene.context_lens)
    q = torch.randn(5, 4, 64, device=device)
    for sinks in (None, torch.randn(4, device=device)):
        out, lse = torch.full_like(q, math.nan), torch.full((5, 4), math.nan, device=device)
        options: dict[str, Any] = {"scale": 0.125, "window": 33, "behind": behind, "sinks": sinks}
        paged_attention_decode(q, *tensors, **options, out=out, lse=lse)
        expected, expected_lse = reference.paged_attention_decode(q, *tensors, **options)
        torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_with_nothing(device: str, dtype: torch.dtype) -> None:
    out = torch.randn(3, 2, 8, device=device).to(dtype)
    lse = torch.randn(3, 2, device=device)
    nothing, never = torch.zeros_like(out), torch.full_like(lse, -math.inf)
    for first, second in (((out, lse), (nothing, never)), ((nothing, never), (out, lse))):
        for inplace in (False, True):
            merged = merge_partial(*(t.clone() for t in first), *second, inplace=inplace)
            assert torch.equal(merged[0], out)
            assert torch.equal(merged[1], lse)
    merged = merge_partial(nothing, never, nothing, never)
    assert torch.equal(merged[0], nothing)
    assert torch.equal(merged[1], never)
    far = merge_partial(out, lse - 1e4, out * 2, lse + 1e4)
    assert torch.equal(far[0], out * 2)
    assert torch.equal(far[1], lse + 1e4)


@settings(deadline=None, max_examples=40)
@given(
    st.data(), st.lists(st.integers(0, 70), min_size=1, max_size=4), HEADS, st.sampled_from([1, 3, 16]), st.booleans()
)
def test_page_mass_in_torch_matches_reference(
    data: st.DataObject, lengths: list[int], heads: tuple[int, int], block_size: int, is_fp8: bool
) -> None:
    num_heads, kv_heads = heads
    options = draw_options(data, num_heads, kv_heads, "cpu", is_fp8)
    sinks = options.pop("sinks", None)
    window = options["window"]
    lowest = [max(0, length - window) if window else 0 for length in lengths]
    dtype = torch.float8_e4m3fn if is_fp8 else torch.float32
    scene = make_scene(lengths, "cpu", kv_heads=kv_heads, dim=16, block_size=block_size, dtype=dtype, lowest=lowest)
    tables = scene.block_tables.clone()
    for seq, length in enumerate(lengths):
        tables[seq, -(-length // block_size) :] = 1_000_000
    q = torch.randn(len(lengths), num_heads, 16)
    tensors = (scene.k_cache, scene.v_cache, scene.block_tables, scene.context_lens)
    expected = reference.page_attention_mass(q, *tensors, **options)
    v_scale = options.pop("v_scale", None)
    mass = page_attention_mass_torch(q, scene.k_cache, tables, scene.context_lens, **options)
    torch.testing.assert_close(mass.double(), expected, rtol=1e-4, atol=1e-5)
    options |= {"sinks": sinks, "v_scale": v_scale}
    lse = reference.paged_attention_decode(q, *tensors, **options)[1].float()
    expected = reference.page_attention_mass(q, *tensors, **options)
    del options["sinks"], options["v_scale"]
    mass = page_attention_mass_torch(q, scene.k_cache, tables.long(), scene.context_lens.long(), lse, **options)
    torch.testing.assert_close(mass.double(), expected, rtol=1e-4, atol=1e-5)


def test_no_queries_and_no_keys(device: str) -> None:
    q, k = torch.randn(3, 4, 16, device=device), torch.randn(5, 2, 8, device=device)
    sinks = torch.randn(4, device=device)
    out, lse = partial_attention(q[:0, :, :8], k, k[..., :4], scale=1.0, first_position=3, sinks=sinks)
    assert (out.shape, lse.shape) == ((0, 4, 4), (0, 4))
    out, lse = partial_attention(q[..., ::2], k[:0], k[:0], scale=1.0)
    assert not out.any()
    assert (lse == -math.inf).all()
    out, lse = partial_attention(q[..., :8], k, k, scale=1.0, sinks=sinks, first_position=-3)
    assert not out.any()
    assert torch.equal(lse, sinks.expand(3, 4))


def test_bad_arguments_are_named(device: str) -> None:
    q, k = torch.randn(5, 4, 16, device=device), torch.randn(9, 2, 16, device=device)
    calls: list[tuple[dict[str, Any], str]] = [
        ({"k": k[..., :8]}, "k: shape"),
        ({"v": k[:4]}, "v: shape"),
        ({"q": q[:, :3]}, "q: 3 heads given"),
        ({"q": q.double()}, "q: dtype float64"),
        ({"v": k.half()}, "v: dtype float16"),
        ({"sinks": torch.zeros(3, device=device)}, "sinks: shape"),
        ({"window": 4}, "first_position: None given"),
        ({"window": 0, "first_position": 1}, "window: 0 given"),
        ({"key_positions": torch.arange(8), "first_position": 1}, "key_positions: shape"),
        ({"q": q.to("meta")}, "k: on"),
    ]
    for change, message in calls:
        with pytest.raises((ValueError, TypeError), match=message):
            partial_attention(**({"q": q, "k": k, "v": k, "scale": 1.0} | change))
    lse = torch.zeros(5, 4, device=device)
    with pytest.raises(ValueError, match="lse_b: shape"):
        merge_partial(q, lse, q, lse[:4])
    with pytest.raises(TypeError, match="lse_a: dtype float16"):
        merge_partial(q, lse.half(), q, lse)
    scene = make_scene([5], device)
    tensors = (scene.k_cache, scene.v_cache, scene.block_tables, scene.context_lens)
    q = torch.randn(1, 4, 64, device=device)
    with pytest.raises(ValueError, match="behind: -1 given"):
        paged_attention_decode(q, *tensors, scale=1.0, behind=-1)
    start = torch.tensor([0, 1], dtype=torch.int32, device=device)
    with pytest.raises(ValueError, match="behind: -1 given"):
        paged_attention_prefill(q, *tensors, start, scale=1.0, behind=-1)
    with pytest.raises(ValueError, match="k_cache: shape"):
        page_attention_mass_torch(q, scene.k_cache[..., :8], *tensors[2:], scale=1.0)
    with pytest.raises(ValueError, match="lse: shape"):
        page_attention_mass_torch(q, scene.k_cache, *tensors[2:], torch.zeros(2, 4, device=device), scale=1.0)
