"""Lesson 6's questions: about one step of a real run with samples, or about a prefix."""

from __future__ import annotations

import random

from workbench import LLM, EngineConfig, SamplingParams
from workbench.course.exercise import Question
from workbench.course.lessons.bundled import random_jobs, tiny
from workbench.events import PageMap, Timeline
from workbench.events import types as ev
from workbench.views.palette import request_label


def tables_of(page_map: PageMap, request: int) -> dict[int, list[int]]:
    """The block tables of all sequences of a request that hold pages."""
    held = page_map.sequences.items()
    return {number: list(state.block_table) for number, state in held if state.request == request}


def make_question(seed: int) -> Question:
    """About one step of a real run with samples or beams: counts, a copy, what is saved; or a prefix."""
    rng = random.Random(seed)
    block_size = rng.choice((4, 8))
    width = rng.randint(2, 4)
    kind = rng.choice(("refs", "pages", "copies", "prefix"))
    prompt = random_jobs(rng, 1, (block_size + 1, 5 * block_size), (1, 1))[0].prompt
    length = len(prompt)
    if kind == "prefix":
        return _prefix_question(rng, prompt, block_size)
    llm = LLM(tiny(), EngineConfig(block_size=block_size, num_blocks=64))
    params = SamplingParams(n=width, temperature=1.0, seed=seed, max_tokens=30, ignore_eos=True)
    request = llm.add_request(prompt, params)
    batch = [llm.step(), llm.step()][-1]
    facts = f"A request of {length} prompt tokens asks for {width} samples; pages have {block_size} tokens."
    if kind == "copies":
        copies = sum(isinstance(event, ev.BlockCopied) for event in batch.events)
        why = (
            "The prompt's last page is full, so every sample begins a page of its own."
            if length % block_size == 0
            else f"Its last page is not full, and {width} samples write into it: all but the last one need a copy."
        )
        return Question(f"{facts} How many pages are copied when each sample stores its first token?", copies, why)
    for _ in range(rng.randint(0, 2 * block_size)):
        llm.step()
    state = llm.page_map
    tables = tables_of(state, request)
    facts = f"{facts} Step {state.step}; the block tables are {', '.join(str(table) for table in tables.values())}."
    if kind == "refs":
        page = rng.choice(sorted({page for table in tables.values() for page in table}))
        return Question(
            f"{facts} What is the reference count of page {page}?",
            state.pages[page].ref_count,
            "It is the number of block tables in which the page is.",
        )
    named, different = state.sharing()
    return Question(
        f"{facts} How many pages does sharing save?",
        named - different,
        f"The tables name {named} pages, {different} of them are different.",
    )


def _prefix_question(rng: random.Random, prompt: list[int], block_size: int) -> Question:
    llm = LLM(tiny(), EngineConfig(block_size=block_size, num_blocks=64, prefix_caching=True))
    params = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)
    llm.generate(prompt, params)
    same = rng.choice((len(prompt), rng.randint(1, len(prompt))))
    asked = list(prompt)
    if same < len(prompt):
        another = prompt[same] + 1 if prompt[same] < 100 else prompt[same] - 1
        asked = prompt[:same] + [another] * rng.randint(1, block_size)
    timeline = Timeline(llm.bus)
    request = llm.add_request(asked, params)
    llm.step()
    hits = sum(isinstance(event, ev.PrefixHit) for event in timeline.events())
    computed = len(asked) - hits * block_size
    return Question(
        f"Prefixes are kept; pages have {block_size} tokens. A prompt of {len(prompt)} tokens was computed. Request "
        f"{request_label(request)} has {len(asked)} prompt tokens, the first {same} of them are the same"
        f"{' (it is the same prompt)' if asked == prompt else ''}. How many of its prompt tokens must be computed?",
        computed,
        f"{hits} full pages can be found, {hits * block_size} tokens; the rest, at least the last token, is computed.",
    )
