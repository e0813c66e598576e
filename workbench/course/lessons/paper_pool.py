"""The pool of the paper's Figs. 6 and 8, for lessons 3 and 6: its pages 7, 1 and 3 become free in this order."""

from __future__ import annotations

from workbench import LLM, EngineConfig, SamplingParams
from workbench.course.lessons.bundled import tiny
from workbench.events import Timeline

#: Seven tokens of the bundled model's tokenizer. The paper counts words, and begins with "Four".
PAPER_PROMPT = " score and seven years ago our"
#: Requests that hold one page each at first: page -> tokens that they write before they end.
_OCCUPANTS = {page: {7: 1, 1: 2, 3: 3}.get(page, 4) for page in range(8)}


def paper_pool() -> tuple[LLM, Timeline]:
    """An engine with 8 pages of 4 tokens and eight small requests in its queue, which will take one page each.

    Those on pages 7, 1 and 3 end first, one after the other, so the free list hands out these pages next.

    Returns:
        The engine before its first step, and its history.
    """
    config = EngineConfig(block_size=4, num_blocks=len(_OCCUPANTS), watermark=0.0, max_model_len=64)
    llm = LLM(tiny(), config)
    timeline = Timeline(llm.bus)
    word = tiny().tokenizer(" the", add_special_tokens=False)["input_ids"][:1]
    for output in _OCCUPANTS.values():
        llm.add_request(word, SamplingParams(max_tokens=output, temperature=0, ignore_eos=True))
    return llm, timeline
