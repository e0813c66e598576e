"""Lesson 7: the runs, the graders, and the questions."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.course.solutions import solutions
from workbench.course.lessons import lesson07
from workbench.course.lessons.bundled import random_jobs, run
from workbench.course.lessons.scheduler_judge import Judge
from workbench.course.lessons.small_server import Request, advance
from workbench.course.verdict import Verdict
from workbench.events import types as ev

KEY = solutions("07_scheduling")
Scheduler: Any = KEY.Scheduler


def test_a_place_that_becomes_free_is_taken() -> None:
    jobs = lesson07.mixed_jobs()
    outputs = [job.output for job in jobs]
    assert lesson07.run_in_batches(jobs, 4) == max(outputs[:4]) + max(outputs[4:])
    assert sum(outputs) / 4 <= lesson07.run_continuously(jobs, 4)[0].step_number < 50


def test_a_long_prompt_comes_in_chunks() -> None:
    _, timeline, long = lesson07.long_prompt_run(budget=32)
    chunks = lesson07.chunks_of(timeline, long)
    assert sum(chunks) == 400
    assert max(chunks) == 32 - 3
    steps = [e for e in timeline.events() if isinstance(e, ev.StepFinished)]
    assert max(step.prefill_tokens + step.decode_tokens for step in steps) == 32


def test_pages_of_a_whole_prompt_are_taken_at_once() -> None:
    """What the lesson says of lesson 3's rule: far more than a page can be empty."""
    _, timeline, long = lesson07.long_prompt_run(budget=32)
    state = timeline.state_at(6)
    held = state.sequences[state.requests[long].sequence]
    assert (len(held.block_table) * 16, held.num_computed_tokens) == (400, 29)


def test_who_gives_way_and_when() -> None:
    """What the lesson says of the crowded run: E and F twice, D once."""
    _, timeline = lesson07.crowded_run()
    preempted = [(e.request, e.step) for e in timeline.events() if isinstance(e, ev.RequestPreempted)]
    assert preempted == [(5, 3), (4, 6), (3, 8), (4, 10), (5, 18)]


def test_a_request_can_lose_its_pages_in_the_middle_of_its_prompt() -> None:
    jobs = random_jobs(random.Random(1), 6, (2, 24), (4, 20))
    _, timeline = run(jobs, block_size=4, num_blocks=14, max_num_batched_tokens=6, watermark=0.0)
    missing = []
    for event in timeline.events():
        if isinstance(event, ev.RequestPreempted):
            request = timeline.state_at(event.step - 1).requests[event.request]
            missing.append(request.prompt_tokens + len(request.token_ids) - event.tokens_lost)
    assert max(missing) > 1


def test_the_watermark_saves_work() -> None:
    lost = [lesson07.crowded_run(watermark)[0].page_map.totals.recomputed_tokens for watermark in (0.0, 0.2)]
    assert lost[0] > lost[1] > 0


@pytest.mark.parametrize("budget", [1, 16])
def test_the_judge_in_small_states(budget: int) -> None:
    """Three requests by hand, so that the judge does not only agree with itself."""
    server = Judge(num_pages=6, block_size=4, budget=budget, max_running=3, reserve=1)
    server.waiting = [Request(0, 9, 3), Request(1, 4, 3), Request(2, 5, 3)]
    # Three pages, then one; the third would need two, and one of the two that are left is the reserve.
    expected = {0: 9, 1: 4} if budget == 16 else {0: 1}
    assert server.admit(budget) == expected
    assert [r.pages for r in server.running] == [3, 1][: len(expected)]
    assert server.free == 6 - sum(r.pages for r in server.running)
    if budget == 16:
        advance(server, expected)
        server.free = 0
        assert server.make_room(0, 10)  # there is a slot left on its page
        assert not server.make_room(1, 5)  # it came last
        assert [[r.number for r in queue] for queue in (server.running, server.waiting)] == [[0], [1, 2]]
        assert (server.free, server.waiting[0].stored) == (1, 0)


def test_reference_answers_pass_on_many_seeds() -> None:
    for seed in range(20):
        for verdict in (
            lesson07.grade_chunks(KEY.chunks, seed),
            lesson07.grade_admit(KEY.Admitting, seed),
            lesson07.grade_make_room(KEY.Preempting, seed),
            lesson07.grade_step(Scheduler, seed),
        ):
            assert verdict.passed, f"{seed}: {verdict}"


def test_the_judge_and_the_key_foretell_whole_runs() -> None:
    preempted = 0
    for seed in range(3):
        for kind in (Judge, Scheduler):
            verdict = lesson07.grade_replay(kind, seed)
            assert verdict.passed, f"{seed}: {verdict}"
        preempted += int(verdict.message.split(" with ")[1].split()[0])
    assert preempted > 2


class Overtaking(Scheduler):
    """Looks for anybody who fits."""

    def admit(self, budget: int) -> Any:
        self.waiting.sort(key=lambda request: request.known)
        return super().admit(budget)


class NoReserve(Scheduler):
    reserve: int

    def admit(self, budget: int) -> Any:
        reserve, self.reserve = self.reserve, 0
        plan = super().admit(budget)
        self.reserve = reserve
        return plan


class AlwaysReserve(Scheduler):
    """Keeps the reserve even if nobody runs."""

    def admit(self, budget: int) -> Any:
        if self.waiting and self.pages_for(self.waiting[0].known) > self.free - self.reserve:
            return {}
        return super().admit(budget)


class PagesForChunk(Scheduler):
    """Gives pages for the first chunk only."""

    def give(self, request: Request, tokens: int) -> None:
        super().give(request, min(tokens, request.stored + self.budget) if not request.pages else tokens)


class NoBudget(Scheduler):
    def admit(self, budget: int) -> Any:
        return super().admit(1000) if budget > 0 else {}


class OldestGivesWay(Scheduler):
    def make_room(self, index: int, tokens: int) -> Any:
        self.running.reverse()
        request = self.running[len(self.running) - 1 - index]
        done = super().make_room(len(self.running) - 1 - index, tokens)
        self.running.reverse()
        return done and request in self.running


class ToTheEnd(Scheduler):
    """Who gave way waits behind all others."""

    def make_room(self, index: int, tokens: int) -> Any:
        before = len(self.running)
        done = super().make_room(index, tokens)
        gone = before - len(self.running)
        self.waiting[:] = self.waiting[gone:] + self.waiting[:gone]
        return done


class KeepsPages(Scheduler):
    """Takes pages back, but the request still believes it has them."""

    def take_back(self, request: Request) -> None:
        self.free += request.pages


class KeepsStored(Scheduler):
    """The pages are gone, but what was in them seems to be there still."""

    def take_back(self, request: Request) -> None:
        stored = request.stored
        super().take_back(request)
        request.stored = stored


class OneMore(Scheduler):
    """Makes room by one victim too many."""

    def make_room(self, index: int, tokens: int) -> Any:
        before = len(self.running)
        done = super().make_room(index, tokens)
        if done and len(self.running) < before and len(self.running) > index + 1:
            victim = self.running.pop()
            self.take_back(victim)
            self.waiting.insert(0, victim)
        return done


class OneVictim(Scheduler):
    """`if` in place of `while`: one victim, however many pages are missing."""

    def make_room(self, index: int, tokens: int) -> Any:
        request = self.running[index]
        if self.pages_for(tokens) - request.pages > self.free:
            victim = self.running.pop()
            self.take_back(victim)
            self.waiting.insert(0, victim)
            if victim is request:
                return False
        self.give(request, tokens)
        return True


class ReserveOnceAsked(Scheduler):
    """Asks before the loop whether somebody runs, so who has just been let in does not count."""

    def admit(self, budget: int) -> Any:
        plan, reserve = {}, self.reserve if self.running else 0
        while self.waiting and budget > 0 and len(self.running) < self.max_running:
            head = self.waiting[0]
            if self.pages_for(head.known) > self.free - reserve:
                break
            self.running.append(self.waiting.pop(0))
            self.give(head, head.known)
            plan[head.number] = min(head.missing, budget)
            budget -= plan[head.number]
        return plan


class PromptsFirst(Scheduler):
    budget: int

    def step(self) -> Any:
        plan = self.admit(self.budget)
        budget, self.budget = self.budget, self.budget - sum(plan.values())
        plan |= super().step()
        self.budget = budget
        return plan


class WholePrompts(Scheduler):
    """A prompt that does not fit into what is left of the budget waits."""

    def step(self) -> Any:
        plan = super().step()
        return {n: count for n, count in plan.items() if self._missing(n) == count or count == self.budget}

    def _missing(self, number: int) -> int:
        return next(r.missing for r in self.running if r.number == number)


def _failures(grade: Callable[[Any, int], Verdict], answer: Any, seeds: int = 12) -> list[Verdict]:
    failed = [verdict for verdict in (grade(answer, seed) for seed in range(seeds)) if not verdict.passed]
    assert failed
    return failed


@pytest.mark.parametrize(
    ("grade", "answer", "words", "place"),
    [
        (lesson07.grade_admit, Overtaking, "", "request "),
        (lesson07.grade_admit, NoReserve, "less than the reserve", "request "),
        (lesson07.grade_admit, AlwaysReserve, "the reserve does not count", "request "),
        (lesson07.grade_admit, ReserveOnceAsked, "less than the reserve", "request "),
        (lesson07.grade_admit, PagesForChunk, "pages of the running", "pages of the running"),
        (lesson07.grade_admit, NoBudget, "the budget: the plan has", "request "),
        (lesson07.grade_make_room, OldestGivesWay, "who came last goes first", "request 0"),
        (lesson07.grade_make_room, ToTheEnd, "in the order of arrival", "request "),
        (lesson07.grade_make_room, KeepsPages, "some are in two places", "pages"),
        (lesson07.grade_make_room, OneVictim, "free pages: there are -", "free pages"),
        (lesson07.grade_make_room, OneMore, "no more than needed", "request "),
        (lesson07.grade_step, ToTheEnd, "a later one was served before it", "step "),
        (lesson07.grade_step, AlwaysReserve, "computes 0 tokens, and should", "step "),
        (lesson07.grade_step, PromptsFirst, "request", "step "),
        (lesson07.grade_step, WholePrompts, "it computes 0 tokens, and should", "step "),
        (lesson07.grade_step, KeepsStored, "request", "step "),
    ],
)
def test_wrong_schedulers(grade: Any, answer: Any, words: str, place: str) -> None:
    failed = _failures(grade, answer)
    found = [(v.message, v.first_wrong) for v in failed]
    assert any(words in message and str(first).startswith(place) for message, first in found), found


@pytest.mark.parametrize(
    ("number", "answer"), [("7.2", ReserveOnceAsked), ("7.3", OneVictim), ("7.2", AlwaysReserve), ("7.3", OneMore)]
)
def test_the_check_itself_finds_them(number: str, answer: Any) -> None:
    """On the seeds that students get."""
    exercise = lesson07.EXERCISES[number]
    assert any(not exercise.grade(answer, seed).passed for seed in exercise.seeds)


def test_the_first_wrong_step_is_named() -> None:
    """Up to that step the wrong scheduler's plans are the engine's."""
    verdict = _failures(lesson07.grade_step, WholePrompts)[0]
    step, request = (int(part.split()[1]) for part in str(verdict.first_wrong).split(", "))
    assert f"Step {step}: request {request}:" in verdict.message
    assert verdict.yours.get(request) != verdict.expected.get(request)
    earlier = [n for n in verdict.expected if n < request]
    assert all(verdict.yours[n] == verdict.expected[n] for n in earlier)


def test_a_wrong_scheduler_does_not_foretell_the_engine() -> None:
    assert any(not lesson07.grade_replay(OldestGivesWay, seed).passed for seed in range(2))


@pytest.mark.parametrize(
    "answer",
    [
        lambda missing, budget: [min(tokens, budget) for tokens in missing],
        lambda missing, budget: [tokens if sum(missing[: i + 1]) <= budget else 0 for i, tokens in enumerate(missing)],
        lambda missing, budget: [c for c in KEY.chunks(missing, budget) if c],
    ],
)
def test_wrong_chunks(answer: Any) -> None:
    verdict = _failures(lesson07.grade_chunks, answer)[0]
    first = int(str(verdict.first_wrong).split()[1])
    assert verdict.yours[:first] == verdict.expected[:first]


def test_questions_have_right_answers() -> None:
    questions = [lesson07.make_question(seed) for seed in range(8)]
    for question in questions:
        assert question.answer(question.expected).passed
        wrong = next((c for c in question.choices if c != question.expected), -1)
        assert not question.answer(wrong).passed
    assert lesson07.make_question(1) == questions[1]
    assert len({question.question for question in questions}) == len(questions)
