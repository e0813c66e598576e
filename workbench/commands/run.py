"""`workbench run`: prompts in, text out, and a recording of everything that happened to KV memory."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from workbench.engine import LLM, EngineConfig, RequestOutput, SamplingParams
from workbench.engine.preemption import VICTIM_POLICIES, PreemptionPolicy
from workbench.events import EventBatch, PageMap, Recorder
from workbench.events.words import size

_EXAMPLES = """examples:
  workbench run "Once upon a time"
  workbench run --prompts-file prompts.txt --memory contiguous --reservation pow2
  workbench run "Es war einmal" --num-blocks 16 --record run.kvtrace && workbench replay run.kvtrace
  workbench run "The old king" --samples 4
  workbench run "The old king" --beams 4 --samples 2
  workbench run --prompts-file prompts.txt --num-blocks 32 --host-blocks 64 --preemption adaptive --prefix-caching
"""


_TEMPERATURE = 0.8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    config, sampling = EngineConfig(), SamplingParams()
    parser.add_argument("prompt", nargs="*", help="one or more prompts")
    parser.add_argument("--prompts-file", type=Path, help="a UTF-8 file with one prompt per line")
    parser.add_argument("--model", default="tiny", help="'tiny' (bundled), a directory, or a hub id (default: tiny)")
    parser.add_argument("--record", type=Path, metavar="FILE.kvtrace", help="write every event to this file")
    parser.add_argument("--quiet", action="store_true", help="print the generated text and nothing else")
    engine = parser.add_argument_group("engine (defaults in brackets)")
    engine.add_argument("--memory", default=config.memory, choices=("paged", "contiguous"), help="[%(default)s]")
    engine.add_argument(
        "--reservation",
        default=config.reservation,
        choices=("max", "pow2", "oracle"),
        help="contiguous memory: how much a request reserves [%(default)s]",
    )
    engine.add_argument("--block-size", type=int, default=config.block_size, help="tokens per page [%(default)s]")
    engine.add_argument("--num-blocks", type=int, default=config.num_blocks, help="pages in the pool [%(default)s]")
    engine.add_argument("--max-model-len", type=int, help="longest sequence in tokens [the model's]")
    engine.add_argument("--max-num-seqs", type=int, default=config.max_num_seqs, help="most at once [%(default)s]")
    engine.add_argument(
        "--max-num-batched-tokens",
        type=int,
        default=config.max_num_batched_tokens,
        help="token budget of a step [%(default)s]",
    )
    engine.add_argument("--device", default=config.device, help="auto, cpu, cuda or mps [%(default)s]")
    engine.add_argument(
        "--attention",
        default=config.attention,
        choices=("auto", "triton", "torch"),
        help="auto: Triton's kernels on a CUDA device if they serve the model [%(default)s]",
    )
    engine.add_argument("--compile", action="store_true", help="with Triton attention: torch.compile the model")
    tiers = parser.add_argument_group("sharing and swapping (paged memory)")
    tiers.add_argument(
        "--prefix-caching", action="store_true", help="keep full pages for requests that begin alike, or are preempted"
    )
    tiers.add_argument(
        "--host-blocks",
        type=int,
        default=config.num_host_blocks,
        metavar="PAGES",
        help="pages in the host tier, for swapping and for sequences larger than the pool [%(default)s]",
    )
    tiers.add_argument(
        "--preemption",
        default=config.preemption,
        choices=[mode.value for mode in PreemptionPolicy],
        help="what becomes of the pages of a request that gives way; swap needs --host-blocks, adaptive does what is "
        "expected to be quicker [%(default)s]",
    )
    tiers.add_argument(
        "--victim", default=config.victim, choices=list(VICTIM_POLICIES), help="which request gives way [%(default)s]"
    )
    chosen = parser.add_argument_group("sampling")
    chosen.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="outputs per prompt (n), which share the prompt's pages [1]; with --beams: how many of the best [all]",
    )
    chosen.add_argument(
        "--beams", type=int, default=0, metavar="N", help="beam search with N beams (beam_width); 0: none [%(default)s]"
    )
    chosen.add_argument("--max-tokens", type=int, default=sampling.max_tokens, help="new tokens each [%(default)s]")
    chosen.add_argument("--temperature", type=float, help=f"0 is greedy [{_TEMPERATURE}; with --beams: 0]")
    chosen.add_argument("--top-k", type=int, default=sampling.top_k, help="0: all tokens [%(default)s]")
    chosen.add_argument("--top-p", type=float, default=sampling.top_p, help="[%(default)s]")
    chosen.add_argument("--stop", action="append", default=[], help="string that ends the output; may be repeated")
    chosen.add_argument("--seed", type=int, default=config.seed, help="[%(default)s]")


def _read_prompts(args: argparse.Namespace) -> list[str]:
    prompts = list(args.prompt)
    if args.prompts_file is not None:
        lines = args.prompts_file.read_text(encoding="utf-8").splitlines()
        prompts += [line for line in lines if line.strip()]
    if not prompts:
        raise ValueError("prompt: give at least one, or --prompts-file with at least one line that is not empty")
    return prompts


def _progress(state: PageMap) -> str:
    waste = state.waste()
    used = 1 - (waste.free + waste.external) / state.num_slots
    return (
        f"step {state.step}: {len(state.running)} running, {len(state.waiting)} waiting, "
        f"{state.totals.generated_tokens} tokens, {used:.0%} of the pool in use"
    )


def _summary(state: PageMap) -> list[str]:
    totals = state.totals
    seconds = totals.busy_ns / 1e9
    lines = [
        f"{totals.generated_tokens} tokens in {state.step} steps and {seconds:.2f} s "
        f"({totals.generated_tokens / max(seconds, 1e-9):,.0f} tokens/s measured), "
        f"at most {totals.max_running} requests at once, {totals.preemptions} preemptions"
    ]
    more = [
        (totals.recomputed_tokens, f"{totals.recomputed_tokens} tokens computed again"),
        (totals.prefix_hit_tokens, f"{totals.prefix_hit_tokens} tokens found in the prefix cache"),
        (totals.blocks_copied, f"{totals.blocks_copied} pages copied on write"),
        (totals.swapped_out_bytes, f"{size(totals.swapped_out_bytes)} swapped out"),
        (totals.swapped_in_bytes, f"{size(totals.swapped_in_bytes)} swapped in"),
        (totals.streamed_bytes, f"{size(totals.streamed_bytes)} streamed from the host tier"),
        (totals.evictions, f"{totals.evictions} pages evicted from the prefix cache"),
    ]
    said = [words for count, words in more if count]
    return lines + ([", ".join(said)] if said else [])


def _print_output(output: RequestOutput, quiet: bool) -> None:
    if quiet:
        for completion in output.outputs:
            print(completion.text)
        return
    several = len(output.outputs) > 1
    for number, completion in enumerate(output.outputs, 1):
        name = f"{output.request_id}, {number} of {len(output.outputs)}" if several else f"{output.request_id}"
        print(f"\n[{name}] {output.prompt}{completion.text}")
        score = f", score {completion.score:.3f}" if completion.score is not None else ""
        print(f"    ({output.error or f'{completion.finish_reason}, {len(completion.token_ids)} tokens{score}'})")
        if output.error:  # the same for all
            return


def main(args: argparse.Namespace) -> int:
    prompts = _read_prompts(args)
    names = ("memory", "reservation", "block_size", "num_blocks", "max_model_len", "max_num_seqs")
    config = EngineConfig(
        **{name: getattr(args, name) for name in names},
        max_num_batched_tokens=args.max_num_batched_tokens,
        device=args.device,
        attention=args.attention,
        compile=args.compile,
        seed=args.seed,
        prefix_caching=args.prefix_caching,
        num_host_blocks=args.host_blocks,
        preemption=args.preemption,
        victim=args.victim,
    )
    params = SamplingParams(
        max_tokens=args.max_tokens,
        temperature=(0.0 if args.beams else _TEMPERATURE) if args.temperature is None else args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        stop=tuple(args.stop),
        n=(max(1, args.beams) if args.samples is None else args.samples),
        beam_width=args.beams,
    )
    with ExitStack() as stack:
        llm = stack.enter_context(LLM(args.model, config))
        if args.record is not None:
            stack.enter_context(Recorder(llm.bus, args.record))
            # Contexts are left in reverse order: the engine ends first, so that its end is on the record, too.
            stack.callback(llm.close)
        shows_progress = not args.quiet and sys.stderr.isatty()

        def show(_: EventBatch) -> None:
            if shows_progress:
                print(f"\r{_progress(llm.page_map):<100}", end="", file=sys.stderr, flush=True)

        outputs = llm.generate(prompts, params, on_step=show)
        if shows_progress:
            print(file=sys.stderr)
        for output in outputs:
            _print_output(output, args.quiet)
        if not args.quiet:
            print("\n" + "\n".join(_summary(llm.page_map)))
    if args.record is not None and not args.quiet:
        size = args.record.stat().st_size
        print(f"recorded to {args.record} ({size / 1024:,.0f} KiB); step through it: workbench replay {args.record}")
    return 1 if all(output.error for output in outputs) else 0
