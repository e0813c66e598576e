"""Short runs of the engine on the bundled model, made from a seed, for the lessons' questions and pictures."""

from __future__ import annotations

import random
from typing import Any

from torch import Tensor

from workbench import LLM, EngineConfig, SamplingParams
from workbench.course.lessons.bundled import tiny
from workbench.workloads import BundledText


def short_run(seed: int, *, requests: int = 3, steps: int | None = None, **config: Any) -> LLM:
    """An engine stopped in the middle of a few requests of different lengths, so that their pages are mixed.

    Args:
        steps: None: 6 to 20, by the seed.
        config: settings of `EngineConfig` other than the defaults here.
    """
    rng = random.Random(f"short run {seed}")
    settings: dict[str, Any] = {"num_blocks": 40, "block_size": rng.choice((4, 8, 16)), "device": "cpu"}
    llm = LLM(tiny(), EngineConfig(**(settings | config)))
    text = BundledText(tiny().tokenizer)
    for _ in range(requests):
        prompt = text.draw(rng, rng.randint(5, 30))
        llm.add_request(prompt, SamplingParams(max_tokens=40, temperature=0, ignore_eos=True))
    for _ in range(rng.randint(6, 20) if steps is None else steps):
        llm.step()
    return llm


def engine_kv(llm: LLM, layer: int) -> tuple[Tensor, Tensor]:
    """The engine's own keys and values of a layer, ``[num_blocks, block_size, num_kv_heads, head_dim]``: read only.

    Raises:
        ValueError: the engine keeps them elsewhere (Triton attention).
    """
    caches = getattr(llm._runner, "_caches", None)
    if caches is None:
        raise ValueError("the keys and values of a layer can be looked at with attention='torch' only")
    k, v = caches[layer]
    return k, v
