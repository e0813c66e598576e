"""The options of `workbench bench NAME` for the experiments in `workbench.experiments`; imports none of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

_Options = Callable[[argparse.ArgumentParser], None]


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Sizes of a random model; the defaults are those of Qwen3-0.6B."""
    for name, default in (
        ("layers", 28), ("hidden", 1024), ("heads", 16), ("kv-heads", 8), ("head-dim", 128), ("mlp", 3072),
        ("vocab", 151_936),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default, help="of the random model [%(default)s]")


def _ints(parser: argparse.ArgumentParser, name: str, default: list[int], text: str) -> None:
    shown = " ".join(map(str, default)) or "none"
    parser.add_argument(name, type=int, nargs="+", default=default, metavar="N", help=f"{text} [{shown}]")


def _int(parser: argparse.ArgumentParser, name: str, default: int, text: str = "") -> None:
    parser.add_argument(name, type=int, default=default, metavar="N", help=f"{text} [%(default)s]".strip())


def _corpus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corpus",
        type=Path,
        metavar="DIR",
        help="folder of texts named like en-austen.txt: prompts are pieces that the bundled model has not seen in "
        "training [a few bundled sentences]",
    )


def _sharing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lengths",
        nargs="+",
        default=["alpaca", "sharegpt"],
        metavar="NAME",
        help="alpaca, sharegpt, or a trace *.csv with the columns TIMESTAMP,ContextTokens,GeneratedTokens [both]",
    )
    kinds = ["parallel", "beam"]
    parser.add_argument("--decodings", nargs="+", default=kinds, choices=kinds, help="[both]")
    _ints(parser, "--widths", [2, 4, 6], "sequences per request")
    _int(parser, "--requests", 96, "per row")
    _int(parser, "--at-once", 8, "requests that run at once")
    parser.add_argument(
        "--sharpen-by",
        type=float,
        nargs="+",
        default=[1.0],
        metavar="X",
        help="multiply the model's logits, for a more certain model; every value is a run of its own [1]",
    )
    _int(parser, "--block-size", 16, "tokens per page")
    _corpus(parser)


def _prefix(parser: argparse.ArgumentParser) -> None:
    _ints(parser, "--prefix-tokens", [80, 341], "length of the shared prefix")
    _int(parser, "--requests", 32)
    _int(parser, "--output", 32, "tokens per request")
    _int(parser, "--repetitions", 3)
    _ints(parser, "--pools", [48, 96], "pages, in the comparison of eviction policies")


def _swap(parser: argparse.ArgumentParser) -> None:
    _ints(parser, "--block-sizes", [1, 2, 4, 8, 16, 32, 64], "tokens per page")
    _int(parser, "--requests", 24)
    _int(parser, "--prompt-tokens", 96, "mean")
    _int(parser, "--output", 96, "tokens per request, mean")
    _int(parser, "--slots", 1536, "tokens that the pool holds")
    _int(parser, "--repetitions", 3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="[%(default)s]")


def _stream(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="tiny", help="'tiny', a directory, or 'random' (see --layers) [%(default)s]")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="[%(default)s]")
    parser.add_argument(
        "--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"), help="on a GPU [%(default)s]"
    )
    parser.add_argument("--attention", default="auto", choices=("auto", "triton", "torch"), help="[%(default)s]")
    _int(parser, "--context", 2048, "tokens of the sequence at its end")
    _int(parser, "--new-tokens", 128, "of them generated")
    parser.add_argument(
        "--shares",
        type=float,
        nargs="+",
        default=[1.0, 0.5, 0.25, 0.125],
        metavar="X",
        help="of the sequence's pages that the device's pool holds [1 0.5 0.25 0.125]",
    )
    _ints(parser, "--pool-tokens", [], "sizes of the device's pool in tokens, instead of --shares")
    _int(parser, "--block-size", 16, "tokens per page")
    _int(parser, "--staging-blocks", 64, "host pages brought to the device at a time")
    _int(parser, "--chunk", 512, "most prompt tokens of a step")
    placements = ("oldest", "keep_first", "least_attended")
    parser.add_argument("--placement", default="oldest", choices=placements, help="[%(default)s]")
    _ints(parser, "--top-k", [], "on the smallest pool also: pages read per step (not exact)")
    _corpus(parser)
    add_shape(parser)


def _selection(parser: argparse.ArgumentParser) -> None:
    _ints(parser, "--contexts", [512, 1024, 2048, 3072], "tokens of the prompt")
    _ints(parser, "--top-k", [4, 8, 16, 32, 64], "pages that are read")
    _int(parser, "--texts", 4, "prompts per length")
    _int(parser, "--new-tokens", 48, "per prompt")
    _int(parser, "--block-size", 16, "tokens per page")
    _corpus(parser)


def _policies(parser: argparse.ArgumentParser) -> None:
    for kind, example in (("victim", "last_come"), ("eviction", "lru")):
        parser.add_argument(
            f"--{kind}",
            nargs="+",
            default=[],
            metavar="NAME",
            help=f"{kind} policies: a name such as {example}, or FILE.py:Class for your own, which joins the built-in "
            "ones [all built-in ones]",
        )
    _int(parser, "--requests", 48)
    _int(parser, "--num-blocks", 96, "pages in the pool")


#: name: (summary, description, its own options)
EXPERIMENTS: dict[str, tuple[str, str, _Options]] = {
    "sharing": (
        "memory that parallel samples and beams save by sharing (the paper's Fig. 15)",
        "Parallel sampling and beam search on requests with lengths as in the paper: pages in all block tables against "
        "different pages, after every step. Does not depend on timing.",
        _sharing,
    ),
    "prefix": (
        "shared prefixes with and without prefix caching (Fig. 16), and eviction policies",
        "Requests that begin with the same few-shot prompt: throughput, tokens found, pages in use. Then a mix of "
        "prefixes on a pool that can't keep them all, with every eviction policy.",
        _prefix,
    ),
    "swap": (
        "swapping against recomputation by block size (Fig. 19)",
        "Requests that overflow the pool, with preemption by recomputation, by swapping, and adaptive.",
        _swap,
    ),
    "stream": (
        "a sequence larger than the device's pool",
        "One greedy sequence with ever less memory on the device, the rest in the host tier: the same tokens, tokens "
        "per second, bytes streamed. On a GPU: --device cuda --model random --context 32768 --pool-tokens 4096.",
        _stream,
    ),
    "selection": (
        "reading only the most promising pages: what is lost, and how much memory is saved",
        "Decoding with the top-k pages against exact greedy decoding: attention mass covered, distance of the output, "
        "tokens changed. Does not depend on timing.",
        _selection,
    ),
    "policies": (
        "a leaderboard of victim and eviction policies, yours among them",
        "One workload under memory pressure with every policy. Does not depend on timing. docs/policies.md shows how "
        "to write one.",
        _policies,
    ),
}


def add_experiments(benches: Any) -> list[argparse.ArgumentParser]:
    """Adds a parser per experiment to ``benches`` (of `add_subparsers`); returns them."""
    parsers = []
    for name, (summary, description, add) in EXPERIMENTS.items():
        parser: argparse.ArgumentParser = benches.add_parser(name, help=summary, description=description)
        add(parser)
        parser.add_argument("--seed", type=int, default=0, help="[%(default)s]")
        parser.add_argument("--quick", action="store_true", help="a rehearsal: everything small, some seconds")
        parsers.append(parser)
    return parsers
