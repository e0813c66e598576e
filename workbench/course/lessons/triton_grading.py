"""Runs the kernels of lesson 5 and names the first page at which they go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from workbench.course.lessons.paged_scene import Scene, lift_of, make_scene
from workbench.course.lessons.tensor_verdicts import numbers, unequal
from workbench.course.lessons.triton_puzzles import (
    HAS_TRITON,
    MISSING,
    Launch,
    Misplaced,
    guarded,
    is_stub,
    launch,
    output,
)
from workbench.course.lessons.triton_specs import (
    spec_attend,
    spec_attend_page,
    spec_load_page,
    spec_load_tokens,
    spec_scores,
)
from workbench.course.verdict import Verdict


def _refusal(answer: Any) -> Verdict | None:
    """Why the kernel can't be run at all, or None."""
    if is_stub(answer):
        return Verdict(False, "", is_missing=True)
    if not HAS_TRITON:
        return Verdict(False, MISSING)
    if not hasattr(answer, "fn"):
        return Verdict(False, "This is no kernel: write `@triton.jit` in the line above `def`.")
    return None


def _read_beyond(record: Launch, arguments: tuple[str, ...], page: int, count: int, size: int, dim: int) -> str:
    """What was read of the caches beside the first ``count`` slots of ``page``, in words; empty if nothing."""
    for argument in arguments:
        for places in record.read(argument):
            for slot in sorted({int(n) // dim for n in places}):
                if slot // size != page:
                    return f"Page {slot // size} was read instead of page {page}."
                if slot % size >= count:
                    return f"Slot {slot % size} was read, and only {count} slots hold a token: mask the load."
    return ""


def _page_puzzle(
    answer: Any,
    seed: int,
    run: Callable[[Scene, int, int], tuple[dict[str, Any], dict[str, int], Tensor]],
    caches: tuple[str, ...],
    *,
    full: bool = False,
) -> Verdict:
    """Runs the kernel for some pages of a scene.

    Args:
        run: ``(scene, page, count)``: arguments (with "out"), constants, and what ``out`` should be.
        full: all pages are full.
    """
    refusal = _refusal(answer)
    if refusal is not None:
        return refusal
    scene = make_scene(seed)
    size, dim = scene.block_size, scene.q.shape[-1]
    for index in range(scene.pages(0)):
        page = int(scene.block_tables[0, index])
        count = size if full else min(size, scene.lengths[0] - index * size)
        if full and (index + 1) * size > scene.lengths[0]:
            continue
        args, constants, expected = run(scene, page, count)
        place = f"page {page}"
        try:
            record = launch(answer, (1,), args, constants)
        except Misplaced as error:
            return Verdict(False, str(error), first_wrong=place)
        yours = args["out"].cpu()
        wrong = unequal(yours, expected)
        tokens = f"page {page} with {count} of {size} slots filled"
        if bool(wrong.any()):
            row = int(wrong.flatten(1).any(1).nonzero()[0]) if wrong.ndim > 1 else 0
            left, right = (yours[row], expected[row]) if wrong.ndim > 1 else (yours, expected)
            message = f"`out` is another one for {tokens}" + (f": row {row} is the first wrong one." if row else ".")
            if bool(left.isnan().any()):
                message += record.why_nan("slots that hold no token")
            return Verdict(False, message, numbers(left), numbers(right), place)
        beyond = _read_beyond(record, caches, page, count, size, dim)
        if beyond:
            return Verdict(False, f"`out` is right, but for {tokens}: {beyond}", first_wrong=place)
    return Verdict(True, "Every page comes out as the spec says, and nothing else was read.")


def _one_head(scene: Scene) -> tuple[Tensor, Tensor]:
    return scene.k_cache[:, :, 0].contiguous(), scene.v_cache[:, :, 0].contiguous()


def _constants(scene: Scene) -> dict[str, int]:
    return {"BLOCK_SIZE": scene.block_size, "DIM": scene.q.shape[-1]}


def grade_load_page(answer: Any, seed: int) -> Verdict:
    """``kernel(cache_ptr, out_ptr, page, BLOCK_SIZE, DIM)``."""

    def run(scene: Scene, page: int, count: int) -> tuple[dict[str, Any], dict[str, int], Tensor]:
        cache, _ = _one_head(scene)
        args = {"cache": guarded(cache), "out": output(scene.block_size, cache.shape[2]), "page": page}
        return args, _constants(scene), spec_load_page(cache, page)

    return _page_puzzle(answer, seed, run, ("cache",), full=True)


def grade_load_tokens(answer: Any, seed: int) -> Verdict:
    """``kernel(cache_ptr, out_ptr, page, count, BLOCK_SIZE, DIM)``."""

    def run(scene: Scene, page: int, count: int) -> tuple[dict[str, Any], dict[str, int], Tensor]:
        cache, _ = _one_head(scene)
        args = {"cache": guarded(cache), "out": output(scene.block_size, cache.shape[2]), "page": page, "count": count}
        return args, _constants(scene), spec_load_tokens(cache, page, count)

    return _page_puzzle(answer, seed, run, ("cache",))


def grade_scores(answer: Any, seed: int) -> Verdict:
    """``kernel(q_ptr, k_ptr, out_ptr, page, count, scale, BLOCK_SIZE, DIM)``."""

    def run(scene: Scene, page: int, count: int) -> tuple[dict[str, Any], dict[str, int], Tensor]:
        k, _ = _one_head(scene)
        q, scale = scene.q[0, 0], 1 / math.sqrt(k.shape[2])
        args: dict[str, Any] = {"q": guarded(q), "k": guarded(k), "out": output(scene.block_size)}
        args |= {"page": page, "count": count, "scale": scale}
        return args, _constants(scene), spec_scores(q, k, page, count, scale)

    return _page_puzzle(answer, seed, run, ("k",))


def grade_attend_page(answer: Any, seed: int) -> Verdict:
    """``kernel(q_ptr, k_ptr, v_ptr, out_ptr, page, count, scale, BLOCK_SIZE, DIM)``."""

    def run(scene: Scene, page: int, count: int) -> tuple[dict[str, Any], dict[str, int], Tensor]:
        if seed % 2:
            scene = make_scene(seed, lift=100.0)
        k, v = _one_head(scene)
        q, scale = scene.q[0, 0], 1 / math.sqrt(k.shape[2])
        args: dict[str, Any] = {"q": guarded(q), "k": guarded(k), "v": guarded(v), "out": output(k.shape[2])}
        args |= {"page": page, "count": count, "scale": scale}
        return args, _constants(scene), spec_attend_page(q, k, v, page, count, scale)

    return _page_puzzle(answer, seed, run, ("k", "v"))


def attend(
    kernel: Any, scene: Scene, lens: Tensor | None = None, *, heads: bool = False
) -> tuple[Tensor, Launch, dict[str, Any]]:
    """Runs an attention kernel on a scene.

    Args:
        lens: context lengths other than the scene's.
        heads: a program per sequence and KV head (5.6), not one per sequence (5.5).

    Returns:
        ``out`` on the CPU, what was touched, and the arguments.
    """
    num_seqs, num_heads, dim = scene.q.shape
    args: dict[str, Any] = {
        "q": guarded(scene.q),
        "k": guarded(scene.k_cache),
        "v": guarded(scene.v_cache),
        "out": output(num_seqs, num_heads, dim),
        "tables": guarded(scene.block_tables.int(), 0),
        "lens": guarded((scene.context_lens if lens is None else lens).int(), 0),
        "max_pages": scene.block_tables.shape[1],
        "scale": 1 / math.sqrt(dim),
    }
    constants = _constants(scene)
    kv_heads = scene.k_cache.shape[2]
    if heads:
        args["num_kv_heads"] = kv_heads
        constants["GROUP"] = num_heads // kv_heads
    record = launch(kernel, (num_seqs, kv_heads) if heads else (num_seqs,), args, constants)
    return args["out"].cpu(), record, args


def _expected(scene: Scene, lens: Tensor) -> Tensor:
    scale = 1 / math.sqrt(scene.q.shape[-1])
    return spec_attend(scene.q, scene.k_cache, scene.v_cache, scene.block_tables, lens, scale)


def _strange_read(scene: Scene, record: Launch) -> tuple[str, str]:
    """The first slot that was read and is none of its program's sequence: where, and what, in words."""
    heads, dim = scene.k_cache.shape[2:]
    for access in record.accesses:
        if access.argument not in ("k", "v") or access.is_store:
            continue
        seq = access.program[0]
        table, length = scene.block_tables[seq].tolist(), scene.lengths[seq]
        pages = table[: scene.pages(seq)]
        for slot in sorted({int(n) // (heads * dim) for n in access.numbers}):
            page, offset = divmod(slot, scene.block_size)
            if page not in pages:
                return f"sequence {seq}", f"the program of sequence {seq} read page {page}, which is not in its table"
            index = pages.index(page)
            if index * scene.block_size + offset >= length:
                what = f"the program of sequence {seq} read slot {offset} of page {page}, which has no token of it"
                return f"page {index} of sequence {seq}", what
    return "", ""


def _grade_attention(answer: Any, scene: Scene, heads: bool) -> Verdict:
    refusal = _refusal(answer)
    if refusal is not None:
        return refusal
    try:
        yours, record, _ = attend(answer, scene, heads=heads)
    except Misplaced as error:
        return Verdict(False, str(error), first_wrong=_misplaced_page(answer, scene, heads))
    expected = _expected(scene, scene.context_lens)
    wrong = unequal(yours, expected).any(2).nonzero().tolist()
    if wrong:
        seq, head = wrong[0]
        page, mine, theirs = _first_wrong_page(answer, scene, seq, head, heads)
        where_ = f"page {page} of sequence {seq}" + (f", query head {head}" if heads else "")
        message = f"Lengths {scene.lengths}, pages of {scene.block_size}: with this page the output is another one."
        if bool(mine.isnan().any()):
            message += record.why_nan("slots that hold no token of the sequence")
        return Verdict(False, message, numbers(mine), numbers(theirs), where_)
    place, what = _strange_read(scene, record)
    if what:
        return Verdict(False, f"`out` is right, but {what}.", first_wrong=place)
    return Verdict(True, f"Equal to the spec; the last batch had lengths {scene.lengths}.")


def _growing(scene: Scene, seq: int) -> list[Tensor]:
    """Context lengths with which the sequence grows page by page."""
    found = []
    for page in range(scene.pages(seq)):
        lens = scene.context_lens.clone()
        lens[seq] = min(scene.lengths[seq], (page + 1) * scene.block_size)
        found.append(lens)
    return found


def _first_wrong_page(answer: Any, scene: Scene, seq: int, head: int, heads: bool) -> tuple[int, Tensor, Tensor]:
    growing = _growing(scene, seq)
    for page, lens in enumerate(growing):
        yours, expected = attend(answer, scene, lens, heads=heads)[0][seq, head], _expected(scene, lens)[seq, head]
        if page == len(growing) - 1 or bool(unequal(yours, expected).any()):
            return page, yours, expected
    raise AssertionError("a sequence has at least one page")


def _misplaced_page(answer: Any, scene: Scene, heads: bool) -> str | None:
    for seq in range(len(scene.lengths)):
        alone = replace(
            scene,
            q=scene.q[seq : seq + 1],
            block_tables=scene.block_tables[seq : seq + 1],
            context_lens=scene.context_lens[seq : seq + 1],
        )
        for page, lens in enumerate(_growing(alone, 0)):
            try:
                attend(answer, alone, lens, heads=heads)
            except Misplaced:
                return f"page {page} of sequence {seq}"
    return None


def scene_of(seed: int, heads: bool = False) -> Scene:
    """What 5.5 and 5.6 are graded on."""
    lift, peak_at = lift_of(seed)
    if not heads:
        return make_scene(seed, num_seqs=2 + seed % 3, max_pages=5, lift=lift, peak_at=peak_at)
    kv_heads, group = 2 + seed % 2, (4, 2, 1)[seed % 3]
    return make_scene(
        seed, num_seqs=kv_heads, max_pages=4, num_kv_heads=kv_heads, group=group, lift=lift, peak_at=peak_at
    )


def grade_attend(answer: Any, seed: int) -> Verdict:
    """``kernel(q_ptr, k_ptr, v_ptr, out_ptr, tables_ptr, lens_ptr, max_pages, scale, BLOCK_SIZE, DIM)``."""
    return _grade_attention(answer, scene_of(seed), heads=False)


def grade_gqa(answer: Any, seed: int) -> Verdict:
    """As 5.5, with ``num_kv_heads`` before the constants ``GROUP, BLOCK_SIZE, DIM``; programs (sequence, KV head)."""
    return _grade_attention(answer, scene_of(seed, heads=True), heads=True)
