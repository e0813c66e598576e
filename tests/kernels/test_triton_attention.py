"""The attention kernels against float64 attention: ragged lengths, permuted and shared pages, poison, all options.

Without a GPU they run in Triton's interpreter; on a GPU the same tests run compiled.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("paged_kernels.decode", reason="needs triton")

from paged_kernels import reference
from paged_kernels.decode import DecodeConfig, DecodePlan, paged_attention_decode
from paged_kernels.page_mass import page_attention_mass
from paged_kernels.prefill import PrefillConfig, PrefillPlan, paged_attention_prefill

FP8 = torch.float8_e4m3fn
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
ON_GPU = torch.cuda.is_available()
#: On a GPU every new combination is compiled: several tests can share the work.
PARTS = 10 if ON_GPU else 1


@dataclass
class Scene:
    """Sequences on pages. Whatever they must not read is NaN."""

    k_cache: Tensor
    v_cache: Tensor
    block_tables: Tensor
    context_lens: Tensor


def make_scene(
    lengths: list[int],
    device: str,
    *,
    kv_heads: int = 2,
    dim: int = 64,
    value_dim: int | None = None,
    block_size: int = 16,
    dtype: torch.dtype = torch.float32,
    lowest: list[int] | None = None,
    shared: int = 0,
    seed: int = 0,
) -> Scene:
    """Random keys and values on pages in random order.

    Args:
        lowest: per sequence, the first position that may be read.
        shared: so many first pages of the first sequence are the second's, too, as far as both have them.
    """
    rng = torch.Generator().manual_seed(seed)
    pages = [-(-length // block_size) for length in lengths]
    num_blocks = sum(pages) + 3
    dims = (dim, value_dim or dim)
    caches = [torch.full((num_blocks, block_size, kv_heads, d), math.nan) for d in dims]
    order = torch.randperm(num_blocks, generator=rng).tolist()
    # Entries past a sequence's end point to a page of poison.
    tables = torch.full((len(lengths), max(pages, default=0) + 2), order.pop(), dtype=torch.int32)
    for seq, length in enumerate(lengths):
        for index in range(pages[seq]):
            is_shared = seq == 1 and index < min(shared, lengths[0] // block_size)
            tables[seq, index] = tables[0, index] if is_shared else order.pop()
        low = lowest[seq] if lowest else 0
        where = torch.arange(low, length)
        for cache, d in zip(caches, dims, strict=True):
            slots = tables[seq, where // block_size].long(), where % block_size
            fresh = cache[slots].isnan()
            cache[slots] = torch.where(fresh, torch.randn(len(where), kv_heads, d, generator=rng), cache[slots])
    k, v = (cache.to(dtype).to(device) for cache in caches)
    return Scene(k, v, tables.to(device), torch.tensor(lengths, dtype=torch.int32, device=device))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """NaN anywhere gives NaN, which no tolerance allows."""
    return ((actual.double() - expected).norm() / expected.norm().clamp(min=1e-9)).item()


def draw_options(data: st.DataObject, num_heads: int, kv_heads: int, device: str, is_fp8: bool) -> dict[str, Any]:
    def uniform(low: float, high: float, count: int) -> Tensor:
        return torch.linspace(low, high, count, device=device)

    options: dict[str, Any] = {
        "scale": data.draw(st.sampled_from([0.125, 1.0]), "scale"),
        "window": data.draw(st.sampled_from([None, None, 1, 5, 33, 100]), "window"),
        "softcap": data.draw(st.sampled_from([None, 3.0]), "softcap"),
    }
    if data.draw(st.booleans(), "sinks"):
        options["sinks"] = uniform(-2, 3, num_heads)
    if data.draw(st.booleans(), "alibi"):
        options["alibi_slopes"] = uniform(0.01, 0.5, num_heads)
    if is_fp8:
        options["k_scale"] = uniform(0.5, 1.5, kv_heads)
        options["v_scale"] = uniform(2.0, 2.0, 1)
    return options


LENGTHS = st.lists(st.one_of(st.sampled_from([1, 15, 16, 17, 32, 33]), st.integers(1, 130)), min_size=1, max_size=3)
HEADS = st.sampled_from([(4, 4), (8, 2), (6, 1), (3, 3), (10, 2)])
DTYPES = st.sampled_from([(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16),
                          (torch.float16, torch.float16), (torch.bfloat16, FP8), (torch.float16, FP8)])  # fmt: skip
DIMS = st.sampled_from([(64, 64), (16, 16), (80, 80), (96, 96), (128, 128), (64, 32), (192, 128), (256, 256)])
BLOCK_SIZES = st.sampled_from([1, 2, 8, 16, 32, 64, 128, 256])
FEW = settings(
    deadline=None, max_examples=12 if ON_GPU else 14, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("part", range(PARTS))
@FEW
@given(st.data(), LENGTHS, HEADS, DTYPES, DIMS, BLOCK_SIZES, st.integers(0, 3))
def test_decode_matches_reference(
    device: str,
    part: int,
    data: st.DataObject,
    lengths: list[int],
    heads: tuple[int, int],
    dtypes: tuple[torch.dtype, torch.dtype],
    dims: tuple[int, int],
    block_size: int,
    shared: int,
) -> None:
    num_heads, kv_heads = heads
    dtype, cache_dtype = dtypes
    options = draw_options(data, num_heads, kv_heads, device, cache_dtype == FP8)
    window = options["window"]
    lowest = [max(0, length - window) if window else 0 for length in lengths]
    # A shared page would be poison for one of the two if they may read different parts of it.
    shared = 0 if window else shared
    scene = make_scene(lengths, device, kv_heads=kv_heads, dim=dims[0], value_dim=dims[1], block_size=block_size,
                       dtype=cache_dtype, lowest=lowest, shared=shared)  # fmt: skip
    scene.context_lens = torch.cat([scene.context_lens, scene.context_lens.new_zeros(1)])  # a padded row
    scene.block_tables = torch.cat([scene.block_tables, scene.block_tables[:1]])
    rows = len(lengths) + 1
    q = torch.randn(rows, num_heads + 1, dims[0], device=device).to(dtype)[:, :num_heads]
    tensors = (scene.k_cache, scene.v_cache, scene.block_tables, scene.context_lens)
    out = torch.full((rows, num_heads, dims[1]), math.nan, dtype=dtype, device=device)
    lse = torch.full((rows, num_heads), math.nan, device=device)
    if data.draw(st.booleans(), "many small pieces"):
        config = DecodeConfig(tile=16, num_warps=4, num_stages=2, share=16, least=8)
        plan = DecodePlan(rows + 2, num_heads, kv_heads, dims[1], device, config).update(tensors[3], window)
    else:
        plan = None
    paged_attention_decode(q, *tensors, **options, plan=plan, out=out, lse=lse)
    expected, expected_lse = reference.paged_attention_decode(q, *tensors, **options)
    assert relative_error(out, expected) < TOLERANCE[dtype]
    assert (out[-1] == 0).all()
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-4, atol=1e-4)

    again = torch.full_like(out, math.nan)
    paged_attention_decode(q, *tensors, **options, plan=plan, out=again)
    assert torch.equal(out, again), "the same call gave other bits"

    options.pop("sinks", None)
    without = {name: value for name, value in options.items() if name != "v_scale"}
    paged_attention_decode(q, *tensors, **options, out=again, lse=lse)
    mass = page_attention_mass(q, scene.k_cache, scene.block_tables, scene.context_lens, lse, **without)
    expected_mass = reference.page_attention_mass(q, *tensors, **options)
    torch.testing.assert_close(mass.double(), expected_mass, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("part", range(PARTS))
@FEW
@given(st.data(), LENGTHS, HEADS, DTYPES, DIMS, BLOCK_SIZES, st.integers(0, 3))
def test_prefill_matches_reference(
    device: str,
    part: int,
    data: st.DataObject,
    lengths: list[int],
    heads: tuple[int, int],
    dtypes: tuple[torch.dtype, torch.dtype],
    dims: tuple[int, int],
    block_size: int,
    shared: int,
) -> None:
    num_heads, kv_heads = heads
    dtype, cache_dtype = dtypes
    options = draw_options(data, num_heads, kv_heads, device, cache_dtype == FP8)
    window = options["window"]
    counts = [data.draw(st.sampled_from(sorted({0, 1, length // 2, length})), "new tokens") for length in lengths]
    lowest = [
        max(0, length - count - window + 1) if window else 0 for length, count in zip(lengths, counts, strict=True)
    ]
    shared = 0 if window else shared
    scene = make_scene(lengths, device, kv_heads=kv_heads, dim=dims[0], value_dim=dims[1], block_size=block_size,
                       dtype=cache_dtype, lowest=lowest, shared=shared)  # fmt: skip
    start = torch.tensor([0, *counts]).cumsum(0).to(torch.int32).to(device)
    rows = sum(counts)
    q = torch.randn(rows, num_heads, dims[0], device=device).to(dtype)
    tensors = (scene.k_cache, scene.v_cache, scene.block_tables, scene.context_lens, start)
    out = torch.full((rows, num_heads, dims[1]), math.nan, dtype=dtype, device=device)
    lse = torch.full((rows, num_heads), math.nan, device=device)
    plan = None
    if data.draw(st.booleans(), "small tiles"):
        config = PrefillConfig(rows=16, tile=16, num_warps=4, num_stages=2)
        plan = PrefillPlan(num_heads // kv_heads, device, config).update(start, scene.context_lens, rows)
    paged_attention_prefill(q, *tensors, **options, plan=plan, out=out, lse=lse)
    if rows == 0:
        return
    expected, expected_lse = reference.paged_attention_prefill(q, *tensors, **options)
    assert relative_error(out, expected) < TOLERANCE[dtype]
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-4, atol=1e-4)
    again = paged_attention_prefill(q, *tensors, **options)
    assert torch.equal(out, again) or plan is not None, "the same call gave other bits"


def test_a_plan_serves_other_lengths_later(device: str) -> None:
    plan = DecodePlan(4, 4, 2, 64, device)
    for lengths in ([200, 1], [1, 1, 1, 1], [0, 129, 64]):
        scene = make_scene(lengths, device)
        q = torch.randn(len(lengths), 4, 64, device=device)
        tensors = (scene.k_cache, scene.v_cache, scene.block_tables, scene.context_lens)
        out = paged_attention_decode(q, *tensors, scale=0.125, plan=plan.update(scene.context_lens))
        expected, _ = reference.paged_attention_decode(q, *tensors, scale=0.125)
        assert relative_error(out, expected) < 1e-5
    assert not plan.counters.any(), "counters must be left at 0 for the next launch"
    with pytest.raises(ValueError, match="context_lens: 5 sequences given; this plan takes at most 4"):
        plan.update(torch.ones(5, dtype=torch.int32, device=device))


@settings(deadline=None, max_examples=60 if ON_GPU else 15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 700), min_size=1, max_size=20), st.sampled_from([None, 1, 40, 300]))
def test_decode_plan_covers_every_key_once(device: str, lengths: list[int], window: int | None) -> None:
    config = DecodeConfig(tile=16, share=64, least=4)
    plan = DecodePlan(32, 4, 2, 64, device, config)
    plan.update(torch.tensor(lengths, dtype=torch.int32, device=device), window)
    spans = [(first, end) for first, end in plan.workers.tolist() if end > first]
    assert [row for first, end in spans for row in range(first, end)] == list(range(spans[-1][1]))
    rows = plan.rows[: spans[-1][1]].tolist()
    shares = [sum(-(-(rows[i][5] - rows[i][4]) // 16) or 1 for i in range(first, end)) for first, end in spans]
    assert max(shares) * len(shares) <= 1.5 * sum(shares) + len(lengths) + max(shares), "workers wait for one of them"
    assert all(rows[row[3] + row[1]] == row for row in rows), "a row's place does not follow from its piece"
    for seq, length in enumerate(lengths):
        mine = sorted(row[1:] for row in rows if row[0] == seq)
        assert [row[0] for row in mine] == list(range(mine[0][1]))
        low = max(0, length - window) if window else 0
        assert mine[0][3] <= low
        assert mine[-1][4] == length
        assert all(a[4] == b[3] for a, b in itertools.pairwise(mine))


def bad(name: str, value: object) -> dict[str, Any]:
    return {name: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a | bad("q", a["q"][:, :3]), "num_heads=3: must be a multiple of num_kv_heads=2"),
        (lambda a: a | bad("q", a["q"][..., :32]), "k_cache: shape"),
        (lambda a: a | bad("q", a["q"].double()), "q: dtype float64"),
        (lambda a: a | bad("q", a["q"].transpose(0, 2).contiguous().transpose(0, 2)), "q: strides"),
        (lambda a: a | bad("v_cache", a["v_cache"].half()), "v_cache: dtype float16"),
        (lambda a: a | bad("block_tables", a["block_tables"].long()), "block_tables: dtype int64"),
        (lambda a: a | bad("context_lens", a["context_lens"][:1]), "context_lens: shape"),
        (lambda a: a | bad("scale", 0.0), "scale: 0.0 given"),
        (lambda a: a | bad("window", 0), "window: 0 given"),
        (lambda a: a | bad("softcap", -1.0), "softcap: -1.0 given"),
        (lambda a: a | bad("sinks", torch.zeros(3)), "sinks: shape"),
        (lambda a: a | bad("k_scale", torch.ones(1)), "k_scale: given; float8_e4m3fn caches need scales"),
        (lambda a: a | bad("out", torch.zeros(2, 4, 32)), "out: shape"),
        (lambda a: a | bad("q", a["q"].to("meta")), "k_cache: on"),
    ],
)
def test_bad_arguments_are_named(device: str, change: Any, message: str) -> None:
    scene = make_scene([5, 9], device)
    arguments = {
        "q": torch.randn(2, 4, 64, device=device),
        "k_cache": scene.k_cache,
        "v_cache": scene.v_cache,
        "block_tables": scene.block_tables,
        "context_lens": scene.context_lens,
        "scale": 0.125,
    }
    changed = {
        name: value.to(device) if isinstance(value, Tensor) and value.device.type != "meta" else value
        for name, value in change(dict(arguments)).items()
    }
    with pytest.raises((ValueError, TypeError), match=message.replace("(", r"\(")):
        paged_attention_decode(**changed)


def test_bad_arguments_of_prefill_and_page_mass_are_named(device: str) -> None:
    scene = make_scene([5, 9], device)
    q = torch.randn(6, 4, 64, device=device)
    tensors = (scene.k_cache, scene.v_cache, scene.block_tables, scene.context_lens)
    start = torch.tensor([0, 2, 6], dtype=torch.int32, device=device)
    for query_start, message in ((start.long(), "query_start: dtype int64"), (start[:2], "query_start: shape")):
        with pytest.raises((ValueError, TypeError), match=message):
            paged_attention_prefill(q, *tensors, query_start, scale=1.0)
    config = PrefillConfig(rows=16, tile=16, num_warps=4, num_stages=2)
    plan = PrefillPlan(2, device, config).update(start, scene.context_lens, 6)
    with pytest.raises(ValueError, match="plan: made for other lengths"):
        paged_attention_prefill(q[:, :2], *tensors, start, scale=1.0, plan=plan)
    lse = torch.zeros(2, 4, device=device)
    mass = (q[:2], scene.k_cache, scene.block_tables, scene.context_lens)
    with pytest.raises(ValueError, match="out: shape"):
        page_attention_mass(*mass, lse, scale=1.0, out=torch.zeros(2, 4, 1, device=device))
    with pytest.raises(ValueError, match="lse: shape"):
        page_attention_mass(*mass, lse[:1], scale=1.0)


def test_sizes_that_the_kernels_do_not_serve(device: str) -> None:
    for sizes, message in (
        ({"dim": 48}, "head_dim=48: the kernels take 8, 16, 32, 64"),
        ({"block_size": 12}, "block_size=12: the kernels take powers of two"),
        ({"block_size": 512}, "block_size=512: the kernels take powers of two from 1 to 256"),
    ):
        scene = make_scene([5], device, **sizes)
        q = torch.randn(1, 4, scene.k_cache.shape[-1], device=device)
        with pytest.raises(ValueError, match=message):
            paged_attention_decode(q, scene.k_cache, scene.v_cache, scene.block_tables, scene.context_lens, scale=1.0)
