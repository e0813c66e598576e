"""Lesson 7's graders: a student's decisions beside the engine's, on random states and whole workloads."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

from workbench.course.lessons.scheduler_judge import Judge
from workbench.course.lessons.small_server import Request, Server, advance
from workbench.course.verdict import Verdict


def _show(server: Server) -> dict[str, Any]:
    return {
        "running": [r.number for r in server.running],
        "waiting": [r.number for r in server.waiting],
        "pages of the running": [r.pages for r in server.running],
        "stored": [r.stored for r in server.running],
        "free": server.free,
    }


# -- 7.1 --------------------------------------------------------------------------------------------------------------


def grade_chunks(answer: Callable[[list[int], int], list[int]], seed: int) -> Verdict:
    """Budgets that are used up within a prompt, at its end, or not at all."""
    rng = random.Random(seed)
    for _ in range(20):
        missing = [rng.choice((1, 1, 1, rng.randint(2, 60))) for _ in range(rng.randint(1, 7))]
        budget = rng.randint(1, 70)
        expected, left = [], budget
        for count in missing:
            expected.append(min(count, left))
            left -= expected[-1]
        yours = answer(list(missing), budget)
        if yours == expected:
            continue
        place = 0
        words = "there must be one number per request"
        if isinstance(yours, list) and len(yours) == len(expected):
            place = next(i for i in range(len(expected)) if yours[i] != expected[i])
            total = sum(yours[: place + 1])
            words = f"request {place} may compute {expected[place]} of its {missing[place]} tokens"
            if total > budget:
                words += f"; with yours the step has {total} tokens by then"
        return Verdict(False, f"missing {missing}, budget {budget}: {words}.", yours, expected, f"request {place}")
    return Verdict(True, "20 steps, each within its budget.")


# -- 7.2 and 7.3: one decision ----------------------------------------------------------------------------------------


def _settings(rng: random.Random) -> dict[str, int]:
    return {
        "num_pages": rng.randint(12, 30),
        "block_size": rng.choice((2, 4, 8)),
        "budget": rng.choice((8, 16, 64)),
        "max_running": rng.randint(3, 8),
        "reserve": rng.choice((0, 1, 2, 3)),
    }


def settings_words(settings: dict[str, int]) -> str:
    """What a server is made with, as a verdict says it."""
    return (
        f"{settings['num_pages']} pages of {settings['block_size']}, a budget of {settings['budget']}, at most "
        f"{settings['max_running']} run, {settings['reserve']} pages in reserve"
    )


def _fill(server: Server, seed: int, crowded: bool) -> Server:
    """Running requests with pages, and waiting ones; the same for the same seed."""
    rng = random.Random(seed)
    size, total = server.block_size, server.free
    nobody = not crowded and rng.random() < 0.3
    for _ in range(0 if nobody else rng.randint(2 if crowded else 0, server.max_running)):
        stored = rng.randint(1, 4 * size)
        if server.pages_for(stored) > server.free:
            break
        request = Request(len(server.running), stored + 1, rng.randint(1, 9), stored)
        server.give(request, stored)
        server.running.append(request)
        if not crowded and server.free < total // 2:
            break
    if not server.running:
        # One so large that it fits only because nobody runs; or two, and for the second one somebody runs already.
        pages = [rng.randint(1, total // 2)] if rng.random() < 0.5 else []
        pages.append(total - sum(pages) - rng.randint(0, 2))
        server.waiting += [Request(n, count * size, rng.randint(1, 9)) for n, count in enumerate(pages)]
    first = len(server.running) + len(server.waiting)
    for number in range(first, first + rng.randint(1, 5)):
        server.waiting.append(Request(number, rng.randint(1, 5 * size), rng.randint(1, 9)))
    return server


def _pair(answer: Callable[..., Any], rng: random.Random, crowded: bool) -> tuple[Any, Judge]:
    settings, seed = _settings(rng), rng.randrange(1 << 30)
    yours, right = answer(**settings), Judge(**settings)
    _fill(yours, seed, crowded)
    _fill(right, seed, crowded)
    return yours, right


def _about(server: Server) -> str:
    running = ", ".join(f"{r.number} ({r.pages} pages)" for r in server.running) or "nobody"
    head = server.waiting[0]
    return (
        f"{server.free} pages of {server.block_size} are free, {server.reserve} in reserve, at most "
        f"{server.max_running} run. Running: {running}. First of those that wait: {head.number} ({head.known} tokens)"
    )


def grade_admit(answer: Callable[..., Any], seed: int) -> Verdict:
    """`admit` on random states: pages, places, reserve and budget are short in turn."""
    rng = random.Random(1000 + seed)
    for _ in range(25):
        yours, right = _pair(answer, rng, crowded=False)
        # With 1,000 tokens several come in: the reserve counts from the second one on.
        budget = rng.choice((right.budget, 1000, rng.randint(0, 9)))
        about = f"{_about(right)}. `admit({budget})`"
        plan, expected = yours.admit(budget), right.admit(budget)
        wrong = _broken(yours, plan, budget)
        if not wrong and plan != expected:
            wrong = _why_admission(yours, right)
        wrong = wrong or _difference(_show(yours), _show(right))
        if wrong:
            mine = plan if isinstance(plan, dict) else {}
            first = next((n for n in [*expected, *mine] if mine.get(n) != expected.get(n)), None)
            place = f"request {first}" if first is not None else wrong.split(":")[0]
            return Verdict(False, f"{about}: {wrong}.", plan, expected, place)
    return Verdict(True, "25 states, the same requests let in.")


def _why_admission(yours: Server, right: Server) -> str:
    mine, others = [r.number for r in yours.running], [r.number for r in right.running]
    if mine == others:
        return "the right requests come in, but with other numbers of tokens"
    if len(mine) > len(others):
        extra = next(n for n in mine if n not in others)
        if yours.free < right.reserve and extra != mine[0]:
            return f"request {extra} is let in, and the free pages are then {yours.free}: less than the reserve"
        return f"request {extra} must wait"
    missing = next(n for n in others if n not in mine)
    alone = "" if missing != others[0] or right.reserve == 0 else " (if nobody runs, the reserve does not count)"
    return f"request {missing} can be let in{alone}"


def grade_make_room(answer: Callable[..., Any], seed: int) -> Verdict:
    """`make_room` on random states in which few pages are free."""
    rng = random.Random(2000 + seed)
    for _ in range(25):
        yours, right = _pair(answer, rng, crowded=True)
        spare = rng.randint(0, 2)
        for server in (yours, right):
            server.free = min(server.free, spare)
        if not right.running:
            continue
        index = rng.randrange(len(right.running))
        request = right.running[index]
        # Five pages more need several victims.
        tokens = request.stored + rng.choice((1, 1, *(pages * right.block_size for pages in (1, 2, 5))))
        if index == 0:  # alone it fits, or it would have been rejected
            tokens = min(tokens, right.block_size * (right.free + sum(r.pages for r in right.running)))
        about = f"{_about(right)}. `make_room({index}, {tokens})`"
        pages = right.free + sum(r.pages for r in right.running)
        result, expected = yours.make_room(index, tokens), right.make_room(index, tokens)
        wrong = ""
        if yours.free < 0:
            wrong = f"free pages: there are {yours.free} now, less than none"
        elif yours.free + sum(r.pages for r in [*yours.running, *yours.waiting]) != pages:
            wrong = "pages: some got lost, or some are in two places"
        wrong = wrong or _why_victims(yours, right) or _difference(_show(yours), _show(right))
        if not wrong and result is not expected:
            wrong = f"the result: it must be {expected}"
        if wrong:
            values: tuple[Any, Any] = _show(yours), _show(right)
            if values[0] == values[1]:
                values = result, expected
            return Verdict(False, f"{about}. {wrong}.", *values, wrong.split(":")[0])
    return Verdict(True, "25 states, the same requests gave way.")


def _why_victims(yours: Server, right: Server) -> str:
    mine, others = [r.number for r in yours.running], [r.number for r in right.running]
    gone = [n for n in others if n not in mine]
    if gone:
        return f"request {gone[0]}: it gave way, but need not: who came last goes first, and no more than needed"
    stays = [n for n in mine if n not in others]
    if stays:
        return f"request {stays[-1]}: it had to give way"
    queue, right_queue = [r.number for r in yours.waiting], [r.number for r in right.waiting]
    if queue != right_queue:
        index = next((i for i, (a, b) in enumerate(zip(queue, right_queue, strict=False)) if a != b), len(queue))
        number = right_queue[min(index, len(right_queue) - 1)]
        return f"request {number}: it is at another place of the queue, which is in the order of arrival"
    return ""


def _difference(mine: dict[str, Any], others: dict[str, Any]) -> str:
    key = next((key for key in others if mine[key] != others[key]), None)
    return "" if key is None else f"{key}: {mine[key]}, but should be {others[key]}"


# -- 7.4: whole runs --------------------------------------------------------------------------------------------------


def _broken(server: Server, plan: Any, budget: int) -> str:
    """What must never be, in words; empty: nothing of that."""
    if not isinstance(plan, dict):
        return "the plan: it must be a dictionary from a request's number to its tokens"
    running = {request.number: request for request in server.running}
    for number, count in plan.items():
        if number not in running:
            return f"request {number}: it is in the plan, but does not run"
        if count < 1 or count > running[number].missing:
            return f"request {number}: it can't compute {count} of its {running[number].missing} missing tokens"
    if sum(plan.values()) > budget:
        return f"the budget: the plan has {sum(plan.values())} tokens, allowed are {budget}"
    if server.free < 0:
        return f"free pages: there are {server.free} now, less than none"
    if len(running) > server.max_running:
        return f"places: {len(running)} requests run, allowed are {server.max_running}"
    for number, count in plan.items():
        request = running[number]
        if server.pages_for(request.stored + count) > request.pages:
            return f"request {number}: it has {request.pages} pages, too few for {request.stored + count} tokens"
    order = [request.number for request in [*server.running, *server.waiting]]
    if order != sorted(order):
        late = next(b for a, b in itertools.pairwise(order) if a > b)
        return f"request {late}: a later one was served before it"
    return ""


def _run_invariants(server: Server, plan: Any, alive: set[int], pages: int) -> str:
    present = [request.number for request in [*server.running, *server.waiting]]
    lost = sorted(alive - set(present))
    if lost:
        return f"request {lost[0]}: it neither runs nor waits"
    held = sum(request.pages for request in [*server.running, *server.waiting])
    if held + server.free != pages:
        return f"pages: {held} are held and {server.free} free, but there are {pages}"
    if server.running and server.running[0].number not in plan:
        return f"request {server.running[0].number}: it is the oldest and computes nothing, so it may wait for ever"
    return ""


def grade_step(answer: Callable[..., Any], seed: int) -> Verdict:
    """A seeded workload from its first step to its last: first what must never be, then the engine's plans."""
    rng = random.Random(3000 + seed)
    settings = _settings(rng)
    most = settings["num_pages"] * settings["block_size"]
    coming = []
    for number in range(rng.randint(6, 10)):
        output = rng.randint(1, most // 3)
        prompt = most - output if rng.random() < 0.1 else rng.randint(1, most // 3)
        coming.append((rng.choice((1, 1, rng.randint(1, 20))), number, prompt, output))
    times = sorted(step for step, *_ in coming)
    coming = [(step, number, prompt, output) for step, (_, number, prompt, output) in zip(times, coming, strict=True)]
    yours, right = answer(**settings), Judge(**settings)
    preemptions, step = 0, 0
    while step < 2000 and (coming or right.running or right.waiting):
        step += 1
        while coming and coming[0][0] <= step:
            _, number, prompt, output = coming.pop(0)
            for server in (yours, right):
                server.waiting.append(Request(number, prompt, output))
        alive = {request.number for request in [*right.running, *right.waiting]}
        before = len(right.running)
        plan, expected = yours.step(), right.step()
        preemptions += max(0, before - len(right.running))
        wrong = _broken(yours, plan, settings["budget"]) or _run_invariants(yours, plan, alive, settings["num_pages"])
        if not wrong and plan != expected:
            number = next(n for n in [*expected, *plan] if plan.get(n) != expected.get(n))
            wrong = f"request {number}: it computes {plan.get(number, 0)} tokens, and should {expected.get(number, 0)}"
        if wrong:
            words = f"{settings_words(settings)}. Step {step}: {wrong}."
            return Verdict(False, words, plan, expected, f"step {step}, {wrong.split(':')[0]}")
        wrong = _difference(_show(yours), _show(right))
        if wrong:
            words = f"{settings_words(settings)}. After the plan of step {step}, {wrong}."
            return Verdict(False, words, _show(yours), _show(right), f"step {step}, {wrong.split(':')[0]}")
        advance(yours, plan)
        advance(right, expected)
    return Verdict(True, f"{step} steps with {preemptions} preemptions: the same plan in each.")
