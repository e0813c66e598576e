"""Lesson 5, the Triton kernel as puzzles: specs in plain torch, graders, hints, and pictures of what a kernel reads.

Puzzles 5.1 to 5.4 look at one page of one head: caches are ``[num_blocks, block_size, dim]``. 5.6 has heads.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import torch
from torch import Tensor

from workbench.course.exercise import Exercise, Question
from workbench.course.lessons.paged_scene import Scene, make_scene
from workbench.course.lessons.real_runs import short_run
from workbench.course.lessons.triton_puzzles import (
    DEVICE,
    HAS_TRITON,
    MISSING,
    Launch,
    Misplaced,
    guarded,
    is_stub,
    launch,
    output,
    tl,
    triton,
    where,
)
from workbench.course.verdict import Verdict
from workbench.views.palette import request_color

__all__ = [
    "DEVICE", "HAS_TRITON", "guarded", "launch", "make_scene", "output", "reads", "reads_figure", "tl", "triton",
    "where",
]  # fmt: skip

TOLERANCE = 1e-4
_INF = float("inf")


# -- specs: what each kernel computes, in plain torch ------------------------------------------------------------------


def spec_load_page(cache: Tensor, page: int) -> Tensor:
    """5.1: the page's rows, ``[block_size, dim]``."""
    return cache[page]


def spec_load_tokens(cache: Tensor, page: int, count: int) -> Tensor:
    """5.2: the page's first ``count`` rows, zeros below them; what lies there in the cache is not read."""
    rows = torch.zeros_like(cache[page])
    rows[:count] = cache[page][:count]
    return rows


def spec_scores(q: Tensor, k_cache: Tensor, page: int, count: int, scale: float) -> Tensor:
    """5.3: the query's product with each of the first ``count`` keys, times ``scale``; -inf below them."""
    scores = torch.full((k_cache.shape[1],), -_INF)
    scores[:count] = k_cache[page][:count] @ q * scale
    return scores


def spec_attend_page(q: Tensor, k_cache: Tensor, v_cache: Tensor, page: int, count: int, scale: float) -> Tensor:
    """5.4: attention over the first ``count`` tokens of one page, ``[dim]``."""
    weights = spec_scores(q, k_cache, page, count, scale)[:count].softmax(0)
    return weights @ v_cache[page][:count]


def spec_attend(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, block_tables: Tensor, context_lens: Tensor, scale: float
) -> Tensor:
    """5.5 and 5.6: attention of one query per sequence over its pages.

    ``q`` and the result are ``[num_seqs, num_heads, dim]``, caches ``[num_blocks, block_size, num_kv_heads, dim]``.
    Query head h reads KV head h // group. In 5.5 both numbers of heads are 1.
    """
    out = torch.empty_like(q)
    group = q.shape[1] // k_cache.shape[2]
    for seq, length in enumerate(context_lens.tolist()):
        place = torch.arange(length)
        slots = block_tables[seq, place // k_cache.shape[1]], place % k_cache.shape[1]
        for head in range(q.shape[1]):
            keys, values = k_cache[slots][:, head // group], v_cache[slots][:, head // group]
            weights = (keys @ q[seq, head] * scale).softmax(0)
            out[seq, head] = weights @ values
    return out


# -- grading -----------------------------------------------------------------------------------------------------------


def _refusal(answer: Any, number: str) -> Verdict | None:
    """Why the kernel can't be run at all, or None."""
    if is_stub(answer):
        task = EXERCISES[number]
        return Verdict(False, f"{task.title}. {task.hints[0]}", is_missing=True)
    if not HAS_TRITON:
        return Verdict(False, MISSING)
    if not hasattr(answer, "fn"):
        return Verdict(False, "This is no kernel: write `@triton.jit` in the line above `def`.")
    return None


def _numbers(value: Tensor, count: int = 8) -> list[float]:
    return [round(float(x), 4) for x in value.flatten()[:count]]


def _unequal(yours: Tensor, expected: Tensor) -> Tensor:
    """Where they differ; NaN differs from everything, minus infinity equals itself."""
    close = (yours.double() - expected.double()).abs() <= TOLERANCE * (1 + expected.double().abs())
    return ~((close & expected.isfinite()) | (yours == expected))


def _read_beyond(record: Launch, arguments: tuple[str, ...], page: int, count: int, size: int, dim: int) -> str:
    """What was read of the caches beside the first ``count`` slots of ``page``, in words; empty if nothing."""
    for argument in arguments:
        for numbers in record.read(argument):
            for slot in sorted({int(n) // dim for n in numbers}):
                if slot // size != page:
                    return f"Page {slot // size} was read instead of page {page}."
                if slot % size >= count:
                    return f"Slot {slot % size} was read, and only {count} slots hold a token: mask the load."
    return ""


def _page_puzzle(
    number: str,
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
    refusal = _refusal(answer, number)
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
        wrong = _unequal(yours, expected)
        tokens = f"page {page} with {count} of {size} slots filled"
        if bool(wrong.any()):
            row = int(wrong.flatten(1).any(1).nonzero()[0]) if wrong.ndim > 1 else 0
            left, right = (yours[row], expected[row]) if wrong.ndim > 1 else (yours, expected)
            message = f"`out` is another one for {tokens}" + (f": row {row} is the first wrong one." if row else ".")
            if bool(left.isnan().any()):
                message += " NaN lies in slots that hold no token; or it is inf - inf."
            return Verdict(False, message, _numbers(left), _numbers(right), place)
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

    return _page_puzzle("5.1", answer, seed, run, ("cache",), full=True)


def grade_load_tokens(answer: Any, seed: int) -> Verdict:
    """``kernel(cache_ptr, out_ptr, page, count, BLOCK_SIZE, DIM)``."""

    def run(scene: Scene, page: int, count: int) -> tuple[dict[str, Any], dict[str, int], Tensor]:
        cache, _ = _one_head(scene)
        args = {"cache": guarded(cache), "out": output(scene.block_size, cache.shape[2]), "page": page, "count": count}
        return args, _constants(scene), spec_load_tokens(cache, page, count)

    return _page_puzzle("5.2", answer, seed, run, ("cache",))


def grade_scores(answer: Any, seed: int) -> Verdict:
    """``kernel(q_ptr, k_ptr, out_ptr, page, count, scale, BLOCK_SIZE, DIM)``."""

    def run(scene: Scene, page: int, count: int) -> tuple[dict[str, Any], dict[str, int], Tensor]:
        k, _ = _one_head(scene)
        q, scale = scene.q[0, 0], 1 / math.sqrt(k.shape[2])
        args = {"q": guarded(q), "k": guarded(k), "out": output(scene.block_size)}
        args |= {"page": page, "count": count, "scale": scale}
        return args, _constants(scene), spec_scores(q, k, page, count, scale)

    return _page_puzzle("5.3", answer, seed, run, ("k",))


def grade_attend_page(answer: Any, seed: int) -> Verdict:
    """``kernel(q_ptr, k_ptr, v_ptr, out_ptr, page, count, scale, BLOCK_SIZE, DIM)``."""

    def run(scene: Scene, page: int, count: int) -> tuple[dict[str, Any], dict[str, int], Tensor]:
        if seed % 2:
            scene = make_scene(seed, lift=100.0)
        k, v = _one_head(scene)
        q, scale = scene.q[0, 0], 1 / math.sqrt(k.shape[2])
        args = {"q": guarded(q), "k": guarded(k), "v": guarded(v), "out": output(k.shape[2])}
        args |= {"page": page, "count": count, "scale": scale}
        return args, _constants(scene), spec_attend_page(q, k, v, page, count, scale)

    return _page_puzzle("5.4", answer, seed, run, ("k", "v"))


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


def _grade_attention(number: str, answer: Any, scene: Scene, heads: bool) -> Verdict:
    refusal = _refusal(answer, number)
    if refusal is not None:
        return refusal
    try:
        yours, record, _ = attend(answer, scene, heads=heads)
    except Misplaced as error:
        return Verdict(False, str(error), first_wrong=_misplaced_page(answer, scene, heads))
    expected = _expected(scene, scene.context_lens)
    wrong = _unequal(yours, expected).any(2).nonzero().tolist()
    if wrong:
        seq, head = wrong[0]
        page, mine, theirs = _first_wrong_page(answer, scene, seq, head, heads)
        where_ = f"page {page} of sequence {seq}" + (f", query head {head}" if heads else "")
        message = f"Lengths {scene.lengths}, pages of {scene.block_size}: with this page the output is another one."
        if bool(mine.isnan().any()):
            message += " NaN lies in slots that hold no token of the sequence; or it is inf - inf."
        return Verdict(False, message, _numbers(mine), _numbers(theirs), where_)
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
        if page == len(growing) - 1 or bool(_unequal(yours, expected).any()):
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
    lift = (0.0, 100.0)[seed % 2]
    if not heads:
        return make_scene(seed, num_seqs=2 + seed % 3, max_pages=5, lift=lift)
    return make_scene(
        seed, num_seqs=2 + seed % 2, max_pages=4, num_kv_heads=2 + seed % 2, group=(4, 2, 1)[seed % 3], lift=lift
    )


def grade_attend(answer: Any, seed: int) -> Verdict:
    """``kernel(q_ptr, k_ptr, v_ptr, out_ptr, tables_ptr, lens_ptr, max_pages, scale, BLOCK_SIZE, DIM)``."""
    return _grade_attention("5.5", answer, scene_of(seed), heads=False)


def grade_gqa(answer: Any, seed: int) -> Verdict:
    """As 5.5, with ``num_kv_heads`` before the constants ``GROUP, BLOCK_SIZE, DIM``; programs (sequence, KV head)."""
    return _grade_attention("5.6", answer, scene_of(seed, heads=True), heads=True)


EXERCISES = {
    "5.1": Exercise(
        "Load one page",
        grade_load_page,
        (
            "A page begins at number `page * BLOCK_SIZE * DIM` of the cache; a slot is DIM numbers further.",
            "`slot = tl.arange(0, BLOCK_SIZE)` and `dim = tl.arange(0, DIM)`; `slot[:, None] * DIM + dim[None, :]` are "
            "the places within a page.",
            "`rows = tl.load(cache_ptr + page * BLOCK_SIZE * DIM + places)`, then `tl.store(out_ptr + places, rows)`.",
        ),
    ),
    "5.2": Exercise(
        "Load only the slots that hold a token",
        grade_load_tokens,
        (
            "`tl.load` takes a `mask`: where it is false, nothing is read and `other` stands there instead.",
            "The mask must have the shape of the places, or one that grows to it: `(slot < count)[:, None]`.",
            "`tl.load(pointers, mask=(slot < count)[:, None], other=0.0)`; the store has no mask: zeros are wanted.",
        ),
    ),
    "5.3": Exercise(
        "The products of a query with the keys of a page",
        grade_scores,
        (
            "The query is DIM numbers: one load. Multiply it with every row and add up along the row.",
            "`tl.sum(x, axis=1)` adds up along rows; `q[None, :]` stands beside every row.",
            "A masked key is 0 and so is its score, but it must be minus infinity: "
            '`tl.where(slot < count, scores, float("-inf"))`.',
        ),
    ),
    "5.4": Exercise(
        "Softmax over one page",
        grade_attend_page,
        (
            "Softmax: subtract the largest score, `tl.exp`, divide by the sum.",
            "exp(-inf) is 0, so slots without a token get no weight. Mask their values all the same: 0 x NaN is NaN.",
            "`tl.sum(weights[:, None] * values, axis=0) / tl.sum(weights, axis=0)`, stored at `out_ptr + dim`.",
        ),
    ),
    "5.5": Exercise(
        "The online softmax over a block table",
        grade_attend,
        (
            "One program per sequence: `seq = tl.program_id(0)`. Its query and its row of the table begin at seq times "
            "the row's length.",
            "`for start in range(0, length, BLOCK_SIZE)`: page = `tl.load(tables_ptr + seq * max_pages + start // "
            "BLOCK_SIZE)`, tokens there: `start + slot < length`.",
            "Lesson 4: new = tl.maximum(largest, tl.max(scores, axis=0)); fade = tl.exp(largest - new); total and acc "
            "are old x fade + new ones.",
        ),
    ),
    "5.6": Exercise(
        "Grouped heads: read each page once for all query heads of a KV head",
        grade_gqa,
        (
            "A program has one sequence and one KV head, `tl.program_id(1)`, and GROUP query heads: `kv_head * GROUP + "
            "tl.arange(0, GROUP)`.",
            "A slot now has num_kv_heads * DIM numbers; the row of our head begins at kv_head * DIM in it. q is "
            "`[GROUP, DIM]`, scores are `[GROUP, BLOCK_SIZE]`.",
            "Scores: `tl.sum(q[:, None, :] * keys[None, :, :], axis=2)`. largest and total become `[GROUP]`, acc "
            "`[GROUP, DIM]`: `tl.sum(weights[:, :, None] * values[None, :, :], axis=1)`.",
        ),
    ),
}


# -- what the cells show -----------------------------------------------------------------------------------------------


def reads(kernel: Any, scene: Scene, sequence: int, *, heads: bool = False) -> list[list[int]]:
    """The slots of the pool from which a kernel really loaded keys for one sequence, load by load (interpreter only).

    Empty where nothing can be recorded: a kernel that is not written yet, a GPU, no Triton.
    """
    if is_stub(kernel) or not HAS_TRITON or DEVICE != "cpu":
        return []
    _, record, _ = attend(kernel, scene, heads=heads)
    row = scene.k_cache.shape[2] * scene.k_cache.shape[3]
    return [sorted({int(n) // row for n in numbers}) for numbers in record.read("k", (sequence, 0))]


def planned_reads(scene: Scene, sequence: int) -> list[list[int]]:
    """The slots that the block table says should be read, page by page."""
    size, length = scene.block_size, scene.lengths[sequence]
    table = scene.block_tables[sequence].tolist()
    return [
        [table[i] * size + offset for offset in range(min(size, length - i * size))]
        for i in range(scene.pages(sequence))
    ]


def reads_figure(scene: Scene, steps: list[list[int]], title: str) -> go.Figure:
    """The pool, a row per page, at every load: "now" is read, "•" was read before. The slider needs no Python."""
    pages, size = scene.k_cache.shape[:2]

    def grid(step: int) -> go.Heatmap:
        z = [[0] * size for _ in range(pages)]
        text = [[""] * size for _ in range(pages)]
        for number, slots in enumerate(steps[: step + 1]):
            for slot in slots:
                z[slot // size][slot % size] = 2 if number == step else 1
                text[slot // size][slot % size] = "now" if number == step else "•"
        scale = [[0, "rgba(128,128,128,.15)"], [0.5, request_color(1)], [1, request_color(0)]]
        return go.Heatmap(
            z=z, text=text, texttemplate="%{text}", colorscale=scale, zmin=0, zmax=2, showscale=False, xgap=1, ygap=1
        )

    def words(step: int) -> dict[str, Any]:
        touched = sorted({slot // size for slot in steps[step]})
        names = ", ".join(map(str, touched))
        return {"text": f"{title}: load {step + 1} of {len(steps)}, page {names}", "font": {"size": 14}}

    frames = [go.Frame(data=[grid(i)], name=str(i), layout={"title": words(i)}) for i in range(len(steps))]
    slider = {
        "steps": [
            {"label": str(i + 1), "method": "animate", "args": [[str(i)], {"mode": "immediate"}]}
            for i in range(len(steps))
        ],
        "currentvalue": {"prefix": "load "},
    }
    layout = go.Layout(
        template="none", height=110 + 22 * pages, sliders=[slider], title=words(0) if steps else title,
        xaxis={"title": "slot", "dtick": 1}, yaxis={"title": "page", "autorange": "reversed", "dtick": 1},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", uirevision="reads",
    )  # fmt: skip
    return go.Figure(data=[grid(0)] if steps else [], frames=frames, layout=layout)


def make_question(seed: int) -> Question:
    """An address, or the number of programs and loads, for a block table of a real run."""
    rng = random.Random(seed)
    llm = short_run(seed)
    state = llm.page_map
    sequence = rng.choice(sorted(state.sequences))
    table, length = state.sequences[sequence].block_table, state.sequences[sequence].num_computed_tokens
    size = state.block_size
    layer = llm.model.layers[0]
    kv_heads, dim = layer.num_kv_heads, layer.head_dim
    head_line = (
        f"A run of the engine on the bundled model ({layer.num_heads} query heads, {kv_heads} KV heads, {dim} numbers "
        f"per key), pages of {size}: sequence {sequence} has {length} tokens, block table {table}."
    )
    if rng.random() < 0.6:
        position, kv_head = rng.randrange(length), rng.randrange(kv_heads)
        page, offset = table[position // size], position % size
        answer = ((page * size + offset) * kv_heads + kv_head) * dim
        return Question(
            f"{head_line} The keys of a layer are `[pages, {size}, {kv_heads}, {dim}]`, without gaps. At which number "
            f"does the key of position {position}, KV head {kv_head} begin?",
            answer,
            f"Logical block {position // size} is page {page}, offset {offset}: (({page} x {size} + {offset}) x "
            f"{kv_heads} + {kv_head}) x {dim}.",
        )
    last = length - (len(table) - 1) * size
    count = len(state.sequences)
    return Question(
        f"{head_line} {count} sequences decode in this step. With a program per sequence and KV head, as in "
        f"puzzle 5.6: how many programs run in a layer, and for how many slots is the mask of this sequence's "
        f"last page true? Answer with a list of two numbers.",
        [count * kv_heads, last],
        f"{count} x {kv_heads} programs; {length} tokens leave {last} on the last of {len(table)} pages.",
        what="number",
    )
