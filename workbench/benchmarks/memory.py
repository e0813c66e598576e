"""One burst of requests on paged memory and on the three contiguous baselines: concurrency, and where slots go."""

from __future__ import annotations

import random
import statistics
import sys
from datetime import date

from workbench.commands.doctor import describe_machine
from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.events import Timeline
from workbench.events.waste import WasteReport, measure_waste
from workbench.models import LoadedModel, load_model

#: Output lengths in turn; prompts have 8 to 24 tokens.
_OUTPUT_TOKENS = (140, 100, 180, 120, 160)
_MEMORIES = {
    "paged": {"memory": "paged"},
    "contiguous, Oracle": {"memory": "contiguous", "reservation": "oracle"},
    "contiguous, Pow2": {"memory": "contiguous", "reservation": "pow2"},
    "contiguous, Max": {"memory": "contiguous", "reservation": "max"},
}
#: Kwon et al., SOSP 2023, Fig. 2: token states, reservation, internal, external and others, in percent.
_PAPER = {
    "paged": "96.3 used",
    "contiguous, Oracle": "38.2 / 25.2 / - / 36.6",
    "contiguous, Pow2": "26.8 / 17.9 / 13.6 / 41.6",
    "contiguous, Max": "20.4 / 13.3 / 57.3 / 8.9",
}


def _run(
    model: LoadedModel, memory: dict[str, str], requests: int, slots: int, block_size: int
) -> tuple[LLM, WasteReport]:
    config = EngineConfig(
        **memory,  # type: ignore[arg-type]
        block_size=block_size,
        num_blocks=slots // block_size,
        max_model_len=512,
        max_num_seqs=requests,
    )
    llm = LLM(model, config)
    history = Timeline(llm.bus)
    rng = random.Random(0)
    for number in range(requests):
        prompt = [rng.randrange(1, model.geometry.vocab_size) for _ in range(rng.randint(8, 24))]
        length = _OUTPUT_TOKENS[number % len(_OUTPUT_TOKENS)]
        llm.add_request(prompt, SamplingParams(max_tokens=length, seed=number, ignore_eos=True))
    while llm.has_unfinished:
        llm.step()
    return llm, measure_waste(history, saturated_only=True)


def run(requests: int, slots: int, block_size: int) -> str:
    """Runs the burst on every memory and returns the report as Markdown."""
    model = load_model("tiny", device="cpu")
    lines = [
        f"`workbench bench memory`, {date.today().isoformat()}. {describe_machine()}.",
        "",
        f"A burst of {requests} requests (prompts of 8 to 24 tokens, outputs of {min(_OUTPUT_TOKENS)} to "
        f"{max(_OUTPUT_TOKENS)}) on {slots:,} slots, pages of {block_size}, longest sequence 512. Shares are of all "
        "slots, averaged over the steps in which a request waited, in percent.",
        "",
        "| memory | most at once | mean at once | steps | preemptions | token states | reservation | internal "
        "| external | free | of held slots, hold tokens | the paper's Fig. 2, other models and traces |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    outputs = []
    for name, memory in _MEMORIES.items():
        print(f"running on {name} memory", file=sys.stderr, flush=True)
        llm, report = _run(model, memory, requests, slots, block_size)
        outputs.append([llm.output(request).outputs[0].token_ids for request in range(requests)])
        busy = [step.running for step in report.steps if step.waiting]
        shares = report.shares
        held = shares.token_states + shares.reservation + shares.internal + shares.reserved
        numbers = (shares.token_states, shares.reservation, shares.internal, shares.external, shares.free)
        lines.append(
            f"| {name} | {llm.page_map.totals.max_running} | {statistics.mean(busy or [0]):.1f} | {llm.step_number} | "
            f"{llm.page_map.totals.preemptions} | {' | '.join(f'{share:.1%}' for share in numbers)} | "
            f"{shares.token_states / held if held else 0:.1%} | {_PAPER[name]} |"
        )
    same = all(tokens == outputs[0] for tokens in outputs)
    lines += ["", f"All four wrote the same tokens: {'yes' if same else 'NO'}."]
    return "\n".join(lines)
