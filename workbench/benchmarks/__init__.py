"""`workbench bench`: measurements of the engine on this machine, against what others offer for the same job."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable
from pathlib import Path

from workbench.benchmarks.experiments import EXPERIMENTS, add_experiments, add_shape

#: Options for which 0 is a value.
_MAY_BE_ZERO = {"profile", "seed"}
APP_PARTS = ("start", "updates", "map", "watchers", "visitors", "memory", "explore")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    benches = parser.add_subparsers(dest="bench", required=True, metavar="BENCH")
    cpu = benches.add_parser(
        "cpu",
        help="this engine against transformers' generate and continuous batching, on the CPU",
        description="16 requests of 64 + 64 tokens on the bundled model, greedy: this engine with events on, "
        "transformers' generate (one padded batch) and its continuous batching, in turn, in one run. Then the cost "
        "of events: bus and recorder against no bus.",
    )
    cpu.add_argument("--requests", type=int, default=16, help="[%(default)s]")
    cpu.add_argument("--prompt-tokens", type=int, default=64, help="[%(default)s]")
    cpu.add_argument("--new-tokens", type=int, default=64, help="[%(default)s]")
    cpu.add_argument("--repetitions", type=int, default=5, help="of the comparison [%(default)s]")
    cpu.add_argument("--event-repetitions", type=int, default=40, help="pairs for the event cost [%(default)s]")
    memory = benches.add_parser(
        "memory",
        help="one burst of requests on paged and contiguous memory: concurrency and waste",
        description="The same burst on paged memory and on the three contiguous baselines: how many requests run at "
        "once, and how the slots are used, in the categories of the PagedAttention paper's Fig. 2.",
    )
    memory.add_argument("--requests", type=int, default=32, help="[%(default)s]")
    memory.add_argument("--slots", type=int, default=2048, help="size of the pool in tokens [%(default)s]")
    memory.add_argument("--block-size", type=int, default=16, help="[%(default)s]")
    gpu = benches.add_parser(
        "gpu",
        help="this engine on a GPU: throughput, cost of events, and where a step's time goes",
        description="Random requests on a model of Qwen3-0.6B's shape with random weights, temperature 0.6, stop "
        "tokens ignored: output tokens per second, with and without torch.compile, with and without events; then a "
        "profile of decode steps. Small sizes on the CPU rehearse it.",
    )
    gpu.add_argument("--requests", type=int, default=256, help="[%(default)s]")
    gpu.add_argument("--shortest", type=int, default=100, help="prompt, and output, in tokens [%(default)s]")
    gpu.add_argument("--longest", type=int, default=1024, help="[%(default)s]")
    gpu.add_argument("--max-num-seqs", type=int, default=256, help="[%(default)s]")
    gpu.add_argument("--max-num-batched-tokens", type=int, default=16384, help="[%(default)s]")
    gpu.add_argument("--max-model-len", type=int, default=4096, help="[%(default)s]")
    gpu.add_argument("--num-blocks", type=int, help="pages in the pool [what fits]")
    gpu.add_argument("--compile", default="both", choices=("off", "on", "both"), help="[%(default)s]")
    gpu.add_argument("--events", default="both", choices=("off", "on", "both"), help="[%(default)s]")
    gpu.add_argument("--no-graphs", dest="graphs", action="store_false", help="without CUDA graphs")
    gpu.add_argument("--no-pack", dest="pack", action="store_false", help="keep the model's own linear layers")
    gpu.add_argument("--repetitions", type=int, default=2, help="of every kind of run [%(default)s]")
    gpu.add_argument("--profile", type=int, default=20, help="decode steps to look at; 0: none [%(default)s]")
    _add_device(gpu)
    add_shape(gpu)
    tiers = benches.add_parser(
        "tiers",
        help="swapping: bandwidth between the tiers, steps beside it, and when it pays",
        description="On a model of Qwen3-0.6B's shape with random weights: pages out and in against plain pinned "
        "copies; decode steps with pages moving beside them; and a pool that is too small, with every kind of "
        "preemption. Small sizes on the CPU rehearse it.",
    )
    tiers.add_argument("--requests", type=int, default=128, help="[%(default)s]")
    tiers.add_argument("--context", type=int, default=800, help="of the steps with pages beside them [%(default)s]")
    tiers.add_argument("--longest", type=int, default=1024, help="prompt, and output, on the small pool [%(default)s]")
    tiers.add_argument("--pages", type=int, default=64, help="that move beside a step [%(default)s]")
    tiers.add_argument("--steps", type=int, default=40, help="of each kind [%(default)s]")
    tiers.add_argument("--share", type=float, default=0.35, help="of all tokens, in the small pool [%(default)s]")
    tiers.add_argument("--blocks", type=int, default=1024, help="most pages moved at once [%(default)s]")
    _add_device(tiers)
    add_shape(tiers)
    travel = benches.add_parser(
        "travel",
        help="time travel: a state of a long recording, forwards, backwards and at random",
        description="Records a long run of the engine, with tokens that are drawn instead of computed, into a "
        "temporary folder. Then: how long it takes to open the file, and to read the state at a step.",
    )
    travel.add_argument("--steps", type=int, default=50_000, help="[%(default)s]")
    travel.add_argument("--num-blocks", type=int, default=1024, help="pages in the pool [%(default)s]")
    travel.add_argument("--max-num-seqs", type=int, default=16, help="[%(default)s]")
    travel.add_argument("--mean-tokens", type=int, default=175, help="of an ordinary output [%(default)s]")
    travel.add_argument("--reads", type=int, default=1000, help="of each kind [%(default)s]")
    app = benches.add_parser(
        "app",
        help="the app: in a real Chromium, and with thirty visitors at once",
        description="Starts the app and a Chromium, and measures what its visitors notice: updates per second and "
        "bytes per update, the longest wait with many visitors and with a class that watches, memory of the tab, "
        "large page maps, the first picture, and steps in the tab Explore. Needs playwright and a Chromium.",
    )
    app.add_argument("--visitors", type=int, default=30, help="at once, each with a run [%(default)s]")
    app.add_argument("--minutes", type=float, default=10.0, help="of running, for the tab's memory [%(default)s]")
    app.add_argument("--seconds", type=float, default=20.0, help="of every other measurement [%(default)s]")
    app.add_argument("--recording-steps", type=int, default=10_000, help="of the large recording [%(default)s]")
    app.add_argument("--only", nargs="+", choices=APP_PARTS, metavar="PART", help=f"of {', '.join(APP_PARTS)} [all]")
    added = add_experiments(benches)
    for bench in (cpu, memory, gpu, tiers, travel, app, *added):
        bench.add_argument("--out", type=Path, help="also write the report (Markdown) to this file")


def _add_device(parser: argparse.ArgumentParser) -> None:
    """On what a random model runs."""
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="[%(default)s]")
    dtypes = ("bfloat16", "float16", "float32")
    parser.add_argument("--dtype", default="bfloat16", choices=dtypes, help="[%(default)s]")
    parser.add_argument("--attention", default="triton", choices=("triton", "torch"), help="[%(default)s]")


def _check(options: dict[str, object]) -> None:
    """Numbers of things are at least 1, those in lists, too."""
    for name, value in options.items():
        values: Iterable[object] = value if isinstance(value, list) else [value]
        for number in values:
            if type(number) is int and number < (name not in _MAY_BE_ZERO):
                least = int(name not in _MAY_BE_ZERO)
                raise ValueError(f"--{name.replace('_', '-')} {number}: must be at least {least}")


def main(args: argparse.Namespace) -> int:
    options = {name: value for name, value in vars(args).items() if name not in ("command", "bench", "out")}
    _check(options)
    package = "experiments" if args.bench in EXPERIMENTS else "benchmarks"
    module = importlib.import_module(f"workbench.{package}.{args.bench}")
    report = module.run(**options)
    print(report)
    if args.out is not None:
        args.out.write_text(report + "\n", encoding="utf-8")
    return 0
