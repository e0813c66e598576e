"""Launch configurations of the attention kernels, tried one by one: how the defaults in `paged_kernels` were found.

python kernels/bench/tune.py decode prefill --rows "64 x" --out tuning.tsv
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from attention import decode_call, prefill_call
from cases import DECODE, PREFILL, Case
from inputs import copies_for, make_inputs
from timing import graph_microseconds

from paged_kernels import reference
from paged_kernels.decode import DecodeConfig
from paged_kernels.prefill import PrefillConfig, PrefillPlan, paged_attention_prefill

DECODE_SHAPES = ((32, 2, 4), (64, 4, 4), (64, 2, 4))
DECODE_SHARES = ((2048, 2), (4096, 2), (2048, 3))
PREFILL_SHAPES = ((256, 64, 16, 3), (256, 64, 16, 2), (256, 128, 16, 2), (256, 32, 16, 4), (256, 64, 8, 3))


def decode_configs() -> Iterator[DecodeConfig]:
    for (tile, warps, stages), (share, least) in itertools.product(DECODE_SHAPES, DECODE_SHARES):
        yield DecodeConfig(tile, warps, stages, share, least)


def prefill_configs() -> Iterator[PrefillConfig]:
    for rows, tile, warps, stages in PREFILL_SHAPES:
        yield PrefillConfig(rows, tile, warps, stages)


def deviation(kind: str, case: Case, config: object) -> float:
    """Relative distance from the reference on short ragged sequences of the case's heads."""
    small = Case("", (1, 15, 16, 17, 63, 64, 65, 700), 0, 0, case.num_heads, case.num_kv_heads, case.head_dim)
    given = make_inputs(small, 1)[0]
    options = {"scale": case.head_dim**-0.5}
    tensors = (given.k_cache, given.v_cache, given.block_tables, given.context_lens)
    given.out.fill_(float("nan"))
    if kind == "decode":
        out = decode_call(small, given, config)[0]()
        expected = reference.paged_attention_decode(given.q, *tensors, **options)[0]
    else:
        counts = torch.tensor([1, 15, 3, 17, 1, 2, 65, 100])
        start = torch.cat([torch.zeros(1), counts.cumsum(0)]).to(torch.int32).cuda()
        q = torch.randn(int(counts.sum()), *given.q.shape[1:], dtype=given.q.dtype, device="cuda")
        plan = PrefillPlan(small.num_heads // small.num_kv_heads, "cuda", config).update(start, tensors[3], len(q))
        out = paged_attention_prefill(q, *tensors, start, **options, plan=plan)
        expected = reference.paged_attention_prefill(q, *tensors, start, **options)[0]
    return ((out.double() - expected).norm() / expected.norm()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=("decode", "prefill"))
    parser.add_argument("--rows", nargs="+", default=[""], help="only cases whose name contains one of these")
    parser.add_argument("--seconds", type=float, default=200, help="stop after this much time per kind [%(default)s]")
    parser.add_argument("--out", type=Path, default=Path("tuning.tsv"))
    args = parser.parse_args()
    torch.manual_seed(0)
    kinds = {"decode": (DECODE, decode_configs, decode_call), "prefill": (PREFILL, prefill_configs, prefill_call)}
    with args.out.open("w") as out:
        for kind in args.kinds:
            cases, configs, make_call = kinds[kind]
            stop = time.monotonic() + args.seconds
            best: dict[str, tuple[float, object]] = {}
            checked: dict[object, float] = {}
            for case in cases:
                if not any(part in case.name for part in args.rows):
                    continue
                sets = make_inputs(case, copies_for(case))
                for config in configs():
                    if time.monotonic() > stop:
                        break
                    key = (case.num_heads, case.num_kv_heads, case.head_dim, config)
                    try:
                        if key not in checked:
                            checked[key] = deviation(kind, case, config)
                        micros = graph_microseconds([make_call(case, given, config)[0] for given in sets])
                    except Exception as error:  # a configuration that does not fit the chip is a result, too
                        micros = float("inf")
                        checked[key] = float("nan")
                        print(kind, case.name, config, type(error).__name__, str(error)[:200], flush=True)
                    print(
                        kind, case.name, config, f"{micros:.2f}", f"{checked[key]:.1e}", sep="\t", file=out, flush=True
                    )
                    if micros < best.get(case.name, (float("inf"), None))[0]:
                        best[case.name] = (micros, config)
                del sets
                if case.name in best:
                    micros, config = best[case.name]
                    print(
                        f"{kind} {case.name}: {micros:.1f} us, floor {case.floor():.1f}, FA3 {case.fa3}, "
                        f"unified {case.triton_unified}: {config}", flush=True,
                    )  # fmt: skip
            print(kind, "largest deviation", max(checked.values(), default=0), flush=True)


if __name__ == "__main__":
    main()
