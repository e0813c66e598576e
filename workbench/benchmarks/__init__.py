"""`workbench bench`: measurements of the engine on this machine, against what others offer for the same job."""

from __future__ import annotations

import argparse
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
    cpu.add_argument("--event-repetitions", type=int, default=20, help="pairs for the event cost [%(default)s]")
    cpu.add_argument("--out", type=Path, help="also write the report (Markdown) to this file")


def main(args: argparse.Namespace) -> int:
    from workbench.benchmarks import cpu

    for name in ("requests", "prompt_tokens", "new_tokens", "repetitions", "event_repetitions"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least 1")
    report = cpu.run(args.requests, args.prompt_tokens, args.new_tokens, args.repetitions, args.event_repetitions)
    print(report)
    if args.out is not None:
        args.out.write_text(report + "\n", encoding="utf-8")
    return 0
