"""The bundled recordings: what each shows, and how it is made again from its seed (`workbench gallery`)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import EngineConfig, SamplingParams
from workbench.events import Recorder, Recording
from workbench.events.words import size
from workbench_app.presets import PRESETS
from workbench_app.settings import parse_prompts

if TYPE_CHECKING:
    from workbench.models.loading import LoadedModel

GALLERY = Path(__file__).with_name("gallery")
#: Rarer keyframes make smaller files; these runs are short.
_KEYFRAME_EVERY = 256


@dataclass(frozen=True)
class Ask:
    """One request of a recording. It arrives at the beginning of the step after ``step``."""

    prompt: str
    params: SamplingParams
    step: int = 0


@dataclass(frozen=True)
class Item:
    """A recording of the gallery.

    Attributes:
        words: what it shows.
        config: of the engine; see `EngineConfig`.
        asks: its requests, in the order of their arrival.
    """

    title: str
    words: str
    config: dict[str, Any]
    asks: tuple[Ask, ...] = field(repr=False)


def path_of(name: str, folder: Path | None = None) -> Path:
    """The file of an item of `ITEMS`."""
    return (folder or GALLERY) / f"{name}.kvtrace"


def _params(max_tokens: int, seed: int, **more: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": max_tokens, "temperature": 0.8, "seed": seed, "ignore_eos": True, **more})


def _stories(preset: str) -> list[str]:
    """The prompts of one of the app's presets."""
    chosen = PRESETS[preset]
    return [prompt.text for prompt in parse_prompts(chosen.prompts, chosen.output_tokens)]


_LONG = _stories("long")[:4]

# --- the burst: the app's preset of that name, with half the output, half the pool and its first requests ----------

#: Requests of the preset that fit into a file of the gallery's size.
BURST_REQUESTS = 16
_BURST = {"block_size": 16, "num_blocks": 64, "max_model_len": 256}


def _burst() -> tuple[Ask, ...]:
    preset = PRESETS["overflow"]
    prompts = parse_prompts(preset.prompts, preset.output_tokens)[:BURST_REQUESTS]
    return tuple(Ask(prompt.text, _params(prompt.max_tokens // 2, seed)) for seed, prompt in enumerate(prompts))


# --- one small pool, twice: what becomes of a request that has to give way ------------------------------------------

_TIGHT = {"block_size": 8, "num_blocks": 48, "max_model_len": 192}


def _tight() -> tuple[Ask, ...]:
    stories = _stories("languages")[:9]
    return tuple(Ask(story, _params(44 + 12 * (i % 3), i), step=3 * i) for i, story in enumerate(stories))


# --- sharing ----------------------------------------------------------------------------------------------------------

_SYSTEM = (
    "You are a story teller in a small harbour town. You answer in short sentences, you never repeat yourself, and "
    "every story that you tell has a lantern in it. "
)
_QUESTIONS = (
    "Tell the story of the lighthouse.",
    "Tell the story of the clockmaker.",
    "Tell the story of the two brothers.",
    "Tell the story of the lost boat.",
)


def _prefixes() -> tuple[Ask, ...]:
    """Two rounds of questions behind one beginning; in between, other requests fill the pool and drive pages out."""
    asks = [Ask(_SYSTEM + question, _params(20, i), step=6 * i) for i, question in enumerate(_QUESTIONS)]
    asks += [Ask(story, _params(28, 10 + i), step=60 + 12 * i) for i, story in enumerate(_LONG)]
    asks += [Ask(_SYSTEM + question, _params(20, 20 + i), step=150 + 6 * i) for i, question in enumerate(_QUESTIONS)]
    asks.append(Ask(_LONG[-1], _params(20, 30), step=180))
    return tuple(asks)


#: name, as in links -> item; in the order in which they are shown
ITEMS: dict[str, Item] = {
    "burst-paged": Item(
        "A burst on pages",
        f"{BURST_REQUESTS} requests at once on paged memory. All run nearly at once; when the pool is full, the newest "
        "give way and are computed again.",
        {"memory": "paged", **_BURST},
        _burst(),
    ),
    "burst-contiguous": Item(
        "The same burst on contiguous memory (Max)",
        f"The same {BURST_REQUESTS} requests, where each reserves a region for the longest sequence allowed. Four run "
        "at a time, and most of what they hold stays empty.",
        {"memory": "contiguous", "reservation": "max", **_BURST},
        _burst(),
    ),
    "preemption-swap": Item(
        "Preemption by swapping",
        "A pool that is too small, with a host tier: a request that has to give way takes its pages there, and brings "
        "them back later.",
        {"memory": "paged", "num_host_blocks": 48, "preemption": "swap", **_TIGHT},
        _tight(),
    ),
    "preemption-recompute": Item(
        "Preemption by recomputation",
        "The same requests without a host tier: a request that has to give way loses its pages, and its tokens are "
        "computed again.",
        {"memory": "paged", "preemption": "recompute", **_TIGHT},
        _tight(),
    ),
    "samples": Item(
        "Four samples and copy-on-write",
        "Two requests ask for four continuations each. The prompt's pages are stored once; the half-filled last one is "
        "copied when the texts part.",
        {"memory": "paged", "block_size": 16, "num_blocks": 64, "max_model_len": 256},
        (Ask(_LONG[0], _params(56, 0, n=4)), Ask(_LONG[2], _params(40, 4, n=4), step=8)),
    ),
    "beams": Item(
        "Beam search",
        "Four beams fork, share, copy, and drop each other's pages at almost every step.",
        {"memory": "paged", "block_size": 4, "num_blocks": 96, "max_model_len": 256},
        (Ask(_LONG[1], _params(28, 0, temperature=0.0, n=4, beam_width=4)),),
    ),
    "prefixes": Item(
        "Shared prefixes: hits and evictions",
        "Questions that begin alike find each other's pages in the prefix cache; long stories in between need the room "
        "and drive cached pages out.",
        {"memory": "paged", "block_size": 8, "num_blocks": 56, "max_model_len": 256, "prefix_caching": True},
        _prefixes(),
    ),
}


def record(name: str, path: str | os.PathLike[str], model: LoadedModel) -> None:
    """Makes a recording anew. The same model gives the same events, apart from times."""
    from workbench import LLM

    item = ITEMS[name]
    # As in the app's duel: memory is what limits how many requests run.
    config = EngineConfig(**item.config, max_num_seqs=64, max_num_batched_tokens=512, cuda_graphs=False, seed=0)
    with ExitStack() as stack:
        llm = stack.enter_context(LLM(model, config))
        stack.enter_context(Recorder(llm.bus, path, keyframe_every=_KEYFRAME_EVERY))
        stack.callback(llm.close)  # before the recorder: the end is on the record, too
        coming = sorted(item.asks, key=lambda ask: ask.step)
        while coming or llm.has_unfinished:
            while coming and (coming[0].step <= llm.page_map.step or not llm.has_unfinished):
                llm.add_request(coming[0].prompt, coming[0].params)
                coming.pop(0)
            llm.step()


def make(names: Sequence[str], folder: Path) -> list[str]:
    """Makes recordings, and says of each what it holds. Loads the bundled model."""
    import torch

    from workbench.models import load_model

    torch.set_num_threads(1)  # the same sums in the same order on every machine; and the model is small
    model = load_model("tiny", device="cpu", dtype="float32")
    folder.mkdir(parents=True, exist_ok=True)
    said = []
    for name in names:
        path = path_of(name, folder)
        record(name, path, model)
        with Recording.open(path) as recording:
            totals = recording.state_at(recording.last_step).totals
            said.append(
                f"{name}: {size(path.stat().st_size)}, {recording.last_step} steps, {totals.generated_tokens} tokens, "
                f"{totals.preemptions} preemptions, {totals.blocks_copied} copies, {totals.evictions} evictions, "
                f"{totals.prefix_hit_tokens} tokens found in the cache, {size(totals.swapped_out_bytes)} swapped out"
            )
    return said


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `workbench gallery`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(ITEMS)} [all]")
    parser.add_argument("--folder", type=Path, default=GALLERY, help="where to (default: the app's own)")


def main(args: argparse.Namespace) -> int:
    """Makes the recordings again.

    Raises:
        ValueError: there is none of that name.
    """
    if unknown := [name for name in args.names if name not in ITEMS]:
        raise ValueError(f"NAME={unknown[0]!r}: must be one of {', '.join(ITEMS)}")
    for name in args.names or ITEMS:
        print(*make([name], args.folder), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="python -m workbench_app.gallery", description=__doc__)
    add_arguments(_parser)
    raise SystemExit(main(_parser.parse_args()))
