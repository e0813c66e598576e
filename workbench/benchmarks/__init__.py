"""`workbench bench`: measurements of the engine on this machine, against what others offer for the same job."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path


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
    for bench in (cpu, memory):
        bench.add_argument("--out", type=Path, help="also write the report (Markdown) to this file")


def main(args: argparse.Namespace) -> int:
    sizes = {name: value for name, value in vars(args).items() if isinstance(value, int)}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    module = importlib.import_module(f"workbench.benchmarks.{args.bench}")
    report = module.run(**sizes)
    print(report)
    if args.out is not None:
        args.out.write_text(report + "\n", encoding="utf-8")
    return 0
