"""Measures the kernels on this machine's GPU and prints Markdown tables.

    python kernels/bench/run.py --out kernels.md

Times are medians of CUDA graph replays, inputs outgrow the L2 cache, and floors are computed from the copy bandwidth
and the matrix rate that are measured first, in the same run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import attention
import blocks
import torch
import triton
from cases import DECODE, PREFILL
from timing import copy_bandwidth, matmul_flops

PARTS = ("decode", "prefill", "blocks")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)} [all]")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    parser.add_argument("--json", type=Path, help="write the attention times to this file, for figure.py")
    args = parser.parse_args()
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"parts: {', '.join(sorted(unknown))} given; allowed: {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        print("kernels/bench: needs a CUDA device", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    bandwidth, flops = copy_bandwidth(), matmul_flops()
    report = [
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, "
        f"{datetime.date.today()}. Copy on the device {bandwidth / 1e9:,.0f} GB/s, bfloat16 matrix product "
        f"{flops / 1e12:,.0f} TFLOP/s."
    ]
    times: dict[str, dict[str, float | None]] = {}
    for part, cases in (("decode", DECODE), ("prefill", PREFILL)):
        if part not in args.parts:
            continue
        results = []
        for case in cases:
            results.append(attention.measure(case))
            last = results[-1]
            times[case.name] = {"paged": last.ours, "in_order": last.in_order, "sdpa": last.sdpa}
            print(f"{part} {case.name}: {last.ours:.1f} us", file=sys.stderr, flush=True)
        report.append(f"### {part.capitalize()}, microseconds\n\n{attention.table(results, bandwidth, flops)}")
    if "blocks" in args.parts:
        rows = [*blocks.cache_write_rows(bandwidth), *blocks.copy_rows(bandwidth), *blocks.swap_rows(bandwidth)]
        report.append(f"### Pages\n\n{blocks.table(rows)}")
    text = "\n\n".join(report)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    if args.json is not None:
        args.json.write_text(json.dumps(times), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
