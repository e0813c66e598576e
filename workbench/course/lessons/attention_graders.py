"""Lesson 4's graders: attention over pages beside attention over contiguous keys, in float64.

All tensors are those of one layer and one head: caches are ``[num_blocks, block_size, dim]``, a query is ``[dim]``.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workbench.course.lessons.paged_scene import PEAK, Scene, lift_of, make_scene
from workbench.course.lessons.tensor_verdicts import differ, numbers
from workbench.course.verdict import Verdict

State = tuple[Tensor, Tensor, Tensor]


def reference(q: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of one query over keys and values ``[length, dim]`` in float64, and its log-sum-exp."""
    scores = keys.double() @ q.double() / math.sqrt(q.shape[-1])
    lse = scores.logsumexp(0)
    return torch.exp(scores - lse) @ values.double(), lse


def rows(cache: Tensor, table: Tensor, length: int) -> Tensor:
    """The first ``length`` rows of a sequence, in order, taken slot by slot."""
    where = torch.arange(length)
    return cache[table[where // cache.shape[1]], where % cache.shape[1]]


def _tokens(scene: Scene, sequence: int, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Keys and values of a sequence's first tokens, in order, ``[length, dim]``."""
    count = scene.lengths[sequence] if length is None else length
    table = scene.block_tables[sequence]
    return rows(scene.k_cache[:, :, 0], table, count), rows(scene.v_cache[:, :, 0], table, count)


def _caches(scene: Scene) -> tuple[Tensor, Tensor]:
    """Fresh copies, so that an answer that writes to its arguments spoils nothing."""
    return scene.k_cache[:, :, 0].clone(), scene.v_cache[:, :, 0].clone()


def _shape_error(yours: Any, shape: tuple[int, ...], what: str) -> Verdict | None:
    if not isinstance(yours, Tensor):
        return Verdict(False, f"{what} should be a tensor.", type(yours).__name__, "Tensor")
    if tuple(yours.shape) != shape:
        return Verdict(False, f"{what} has another shape than expected.", list(yours.shape), list(shape))
    return None


_OR_EXP = ", or from an exp that is too large"


def _wrong(message: str, yours: Tensor, expected: Tensor, where: str, keys_only: bool = False) -> Verdict:
    if bool(yours.isnan().any()):
        message += f" NaN comes from a slot that holds no token of this sequence{'' if keys_only else _OR_EXP}."
    return Verdict(False, message, numbers(yours), numbers(expected), where)


# -- 4.1 ---------------------------------------------------------------------------------------------------------------


def grade_gather(answer: Callable[..., Any], seed: int) -> Verdict:
    """``answer(cache, table, length)``: the sequence's keys in order, ``[length, dim]``."""
    scene = make_scene(seed)
    for sequence, length in enumerate(scene.lengths):
        expected, _ = _tokens(scene, sequence)
        yours = answer(_caches(scene)[0], scene.block_tables[sequence].clone(), length)
        if isinstance(yours, Tensor) and yours.ndim == 2 and yours.shape[1] == expected.shape[1]:
            for page in range(max(scene.pages(sequence), -(-len(yours) // scene.block_size))):
                part = slice(page * scene.block_size, (page + 1) * scene.block_size)
                mine, theirs = yours[part], expected[part]
                where = f"page {page} of sequence {sequence}"
                if mine.shape != theirs.shape:
                    message = f"A sequence of {length} tokens on pages of {scene.block_size}: this page has "
                    message += f"{len(theirs)} of them, and you have {len(mine)}."
                    return Verdict(False, message, f"{len(mine)} tokens", f"{len(theirs)} tokens", where)
                if differ(mine, theirs):
                    return _wrong("These are not the keys of that page.", mine, theirs, where, keys_only=True)
        wrong = _shape_error(yours, tuple(expected.shape), "What you return")
        if wrong:
            return wrong
    return Verdict(True, "All keys are there, in order, and nothing else.")


# -- 4.2 and 4.4 -------------------------------------------------------------------------------------------------------


def _first_wrong_page(scene: Scene, sequence: int, attend: Callable[[int], Tensor]) -> tuple[int, Tensor, Tensor]:
    """The first page with which ``attend(length)`` goes wrong when the context grows page by page."""
    length = scene.lengths[sequence]
    last = scene.pages(sequence) - 1
    for page in range(last + 1):
        seen = min(length, (page + 1) * scene.block_size)
        expected, _ = reference(scene.q[sequence, 0], *_tokens(scene, sequence, seen))
        yours = attend(seen)
        if differ(yours, expected):
            return page, yours, expected
    return last, yours, expected


def grade_attend(answer: Callable[..., Any], seed: int) -> Verdict:
    """``answer(q, k_cache, v_cache, table, length)``: attention of one query, ``[dim]``."""
    scene = make_scene(seed, lift=(0.0, 100.0)[seed % 2])
    for sequence, length in enumerate(scene.lengths):

        def attend(seen: int, sequence: int = sequence) -> Tensor:
            table = scene.block_tables[sequence].clone()
            out: Tensor = answer(scene.q[sequence, 0].clone(), *_caches(scene), table, seen)
            return out

        expected, _ = reference(scene.q[sequence, 0], *_tokens(scene, sequence))
        yours = attend(length)
        wrong = _shape_error(yours, tuple(expected.shape), "The output")
        if wrong:
            return wrong
        if differ(yours, expected):
            page, mine, theirs = _first_wrong_page(scene, sequence, attend)
            tokens = f"{length} tokens, pages of {scene.block_size}"
            return _wrong(f"The output is another one ({tokens}).", mine, theirs, f"page {page} of sequence {sequence}")
    return Verdict(True, "Equal to attention over contiguous keys and values.")


def grade_batch(answer: Callable[..., Any], seed: int) -> Verdict:
    """``answer(q, k_cache, v_cache, block_tables, context_lens)``: ``[num_seqs, dim]``, for ragged lengths."""
    lift, peak_at = lift_of(seed)
    scene = make_scene(seed, num_seqs=2 + seed % 4, lift=lift, peak_at=peak_at)

    def run(lens: Tensor) -> Any:
        return answer(scene.q[:, 0].clone(), *_caches(scene), scene.block_tables.clone(), lens)

    yours = run(scene.context_lens.clone())
    wrong = _shape_error(yours, (len(scene.lengths), scene.q.shape[-1]), "The output")
    if wrong:
        return wrong
    for sequence in range(len(scene.lengths)):
        expected, _ = reference(scene.q[sequence, 0], *_tokens(scene, sequence))
        if not differ(yours[sequence], expected):
            continue

        def attend(seen: int, sequence: int = sequence) -> Tensor:
            lens = scene.context_lens.clone()
            lens[sequence] = seen
            out: Tensor = run(lens)[sequence]
            return out

        page, mine, theirs = _first_wrong_page(scene, sequence, attend)
        message = f"Lengths {scene.lengths}, pages of {scene.block_size}: sequence {sequence} has another output."
        return _wrong(message, mine, theirs, f"page {page} of sequence {sequence}")
    return Verdict(True, f"Right for all sequences; the last batch had lengths {scene.lengths}.")


# -- 4.3 ---------------------------------------------------------------------------------------------------------------


def score_pages(seed: int) -> list[tuple[Tensor, Tensor]]:
    """Scores ``[n]`` and values ``[n, dim]``, page by page; all scores may be very large or very small."""
    rng = torch.Generator().manual_seed(seed)
    around = (0.0, 300.0, -300.0)[seed % 3]
    count = int(torch.randint(3, 7, (1,), generator=rng))
    sizes = [8] * (count - 1) + [int(torch.randint(1, 8, (1,), generator=rng))]
    pages = [(torch.randn(n, generator=rng) * 3 + around, torch.randn(n, 4, generator=rng)) for n in sizes]
    # The largest score of all comes late, so that the past has to be repaired once more.
    pages[-1][0][0] = around + 12
    return pages


def graded_pages(seed: int) -> list[tuple[Tensor, Tensor]]:
    """`score_pages` with one score so far above all others that exp of the distance is no float32.

    It is on the last page (who keeps to the first page's maximum is found out) or, for odd seeds, on the second (who
    takes each page's own maximum).
    """
    pages = score_pages(seed)
    pages[1 if seed % 2 else -1][0][0] += PEAK
    return pages


def start_state(dim: int = 4) -> State:
    """Nothing seen yet: largest score minus infinity, sum 0, weighted sum of the values 0."""
    return torch.tensor(-math.inf), torch.tensor(0.0), torch.zeros(dim)


def grade_add_page(answer: Callable[..., Any], seed: int) -> Verdict:
    """``answer(state, scores, values)``: the state ``(largest, total, acc)`` with one more page in it."""
    state = start_state()
    pages = graded_pages(seed)
    for page in range(len(pages)):
        state = answer(state, pages[page][0].clone(), pages[page][1].clone())
        if not isinstance(state, tuple | list) or len(state) != 3:
            return Verdict(False, "Return the three parts of the state.", type(state).__name__, "(largest, total, acc)")
        state = tuple(torch.as_tensor(part) for part in state)  # type: ignore[assignment]
        scores = torch.cat([p[0] for p in pages[: page + 1]]).double()
        values = torch.cat([p[1] for p in pages[: page + 1]]).double()
        expected = scores.softmax(0) @ values
        wrong = _shape_error(state[2], (values.shape[1],), "acc")
        if wrong:
            return wrong
        yours = state[2].double() / state[1].double()
        if differ(yours, expected):
            message = f"After this page acc / total is not the attention over the pages so far ({len(scores)} scores)."
            message += f" Its largest score is {float(pages[page][0].max()):.1f}"
            before = [float(p[0].max()) for p in pages[:page]]
            message += f", that of the pages before {max(before):.1f}." if before else "."
            if bool(yours.isnan().any()):
                message += " NaN: inf / inf, 0 / 0 or inf - inf."
            return Verdict(False, message, numbers(yours), numbers(expected), f"page {page}")
    return Verdict(True, "After every page the state is the attention over all pages so far.")


# -- 4.5 ---------------------------------------------------------------------------------------------------------------


def split_parts(seed: int) -> tuple[list[tuple[int, int]], list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """Runs of pages (first page, one behind the last), each one's output and log-sum-exp, and those of the whole.

    One part is empty (zeros and minus infinity); for odd seeds the first two are, too.
    """
    rng = random.Random(seed)
    scene = make_scene(seed, lift=(0.0, 100.0)[seed % 2])
    keys, values = _tokens(scene, 0)
    cuts = sorted({0, scene.pages(0), *(rng.randrange(1, scene.pages(0)) for _ in range(2))})
    runs = list(itertools.pairwise(cuts))
    runs.insert(rng.randrange(len(runs) + 1), (0, 0))
    if seed % 2:
        runs[:0] = [(0, 0), (0, 0)]
    parts = []
    for first, stop in runs:
        inside = slice(first * scene.block_size, stop * scene.block_size)
        if first == stop:
            parts.append((torch.zeros(values.shape[1]), torch.tensor(-math.inf)))
        else:
            out, lse = reference(scene.q[0, 0], keys[inside], values[inside])
            parts.append((out.float(), lse.float()))
    return runs, parts, reference(scene.q[0, 0], keys, values)


def _reference_merge(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    lse = torch.logaddexp(a[1].double(), b[1].double())
    if bool(lse == -math.inf):
        return a[0].double(), lse
    return torch.exp(a[1] - lse) * a[0] + torch.exp(b[1] - lse) * b[0], lse


def grade_merge(answer: Callable[..., Any], seed: int) -> Verdict:
    """``answer(out_a, lse_a, out_b, lse_b)``: output and log-sum-exp over the keys of both parts."""
    runs, parts, _ = split_parts(seed)
    mine = theirs = parts[0]
    for number in range(1, len(parts)):
        theirs = _reference_merge(theirs, parts[number])
        mine = answer(mine[0].clone(), mine[1].clone(), parts[number][0].clone(), parts[number][1].clone())
        if not isinstance(mine, tuple | list) or len(mine) != 2:
            return Verdict(False, "Return two things: output, lse.", type(mine).__name__, "(out, lse)")
        first, stop = runs[number]
        pages = "no pages" if first == stop else f"pages {first} to {stop - 1}"
        where = f"part {number} ({pages})"
        wrong = _shape_error(mine[0], tuple(theirs[0].shape), "The output")
        if wrong:
            return wrong
        if differ(mine[0], theirs[0]):
            message = f"The output is wrong once {where} is in."
            if bool(mine[0].isnan().any()):
                message += " NaN: minus infinity less minus infinity is no number."
            return Verdict(False, message, numbers(mine[0]), numbers(theirs[0]), where)
        lse = torch.as_tensor(mine[1])
        if differ(lse, theirs[1]):
            return Verdict(
                False, f"The log-sum-exp is wrong once {where} is in.", numbers(lse), numbers(theirs[1]), where
            )
    return Verdict(True, f"{len(parts)} parts, empty ones among them, give the whole.")
