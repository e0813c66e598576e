"""Trains the bundled model again: ``python -m workbench.models.train --corpus DIR --out DIR``.

Data is short and time is not: the model sees the corpus many times, so what matters is regularisation (dropout on
what every block adds to the residual stream, weight decay, an average of the weights), not speed.
The last part of the run uses windows of 4,096 tokens, so that the model keeps working up to that position.
"""

from __future__ import annotations

import argparse
import copy
import functools
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_utils import AttentionInterface

from workbench.models.corpus import END_OF_TEXT, Document, held_out, read_corpus, train_tokenizer
from workbench.models.model_card import PositionScores, write_model_card

_ATTENTION = "workbench_training"
SAMPLE_PROMPTS = {
    "en": "Once upon a time there was a king who",
    "de": "Es war einmal ein König, der",
    "fr": "Le lendemain matin, le capitaine",
}


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides the result, next to the corpus."""

    vocab_size: int = 6144
    hidden_size: int = 384
    num_layers: int = 6
    num_heads: int = 6
    num_kv_heads: int = 2
    intermediate_size: int = 1024
    max_positions: int = 4096
    steps: int = 9000
    batch_tokens: int = 32_768
    window: int = 1024
    long_window_share: float = 0.25
    learning_rate: float = 2e-3
    weight_decay: float = 1.5
    dropout: float = 0.25
    average_decay: float = 0.995
    language_power: float = 0.8
    seed: int = 0


def _causal_attention(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, **_: object
) -> tuple[Tensor, None]:
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2), None


def build_model(config: TrainingConfig, eos_token_id: int) -> LlamaForCausalLM:
    """A randomly initialised Llama with tied embeddings, causal attention and dropout on both residual branches."""
    AttentionInterface.register(_ATTENTION, _causal_attention)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.hidden_size // config.num_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=True,
            bos_token_id=eos_token_id,
            eos_token_id=eos_token_id,
            use_cache=False,
        )
    )
    model.set_attn_implementation(_ATTENTION)
    return model


def _add_dropout(model: LlamaForCausalLM, p: float) -> None:
    def drop_attention(module: nn.Module, _: object, out: tuple[Tensor, object]) -> tuple[Tensor, object]:
        return F.dropout(out[0], p, module.training), out[1]

    def drop_mlp(module: nn.Module, _: object, out: Tensor) -> Tensor:
        return F.dropout(out, p, module.training)

    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(drop_attention)
        layer.mlp.register_forward_hook(drop_mlp)


class WindowSampler:
    """Draws windows of training tokens: first a document, by ``size ** power`` within its language, then a place."""

    def __init__(self, documents: list[Document], encode: Callable[[str], list[int]], eos: int, power: float) -> None:
        self._streams = [
            torch.tensor([t for text in d.train for t in [*encode(text), eos]], dtype=torch.int32) for d in documents
        ]
        sizes: dict[str, int] = {}
        for document, stream in zip(documents, self._streams, strict=True):
            sizes[document.language] = sizes.get(document.language, 0) + len(stream)
        self._weights = torch.tensor(
            [
                len(stream) * sizes[document.language] ** (power - 1)
                for document, stream in zip(documents, self._streams, strict=True)
            ]
        )
        self.num_tokens = sum(sizes.values())

    def draw(self, batch: int, window: int, generator: torch.Generator) -> Tensor:
        """Token ids, int64 ``[batch, window + 1]``. A document shorter than the window is repeated to fill it."""
        rows = []
        for index in torch.multinomial(self._weights, batch, replacement=True, generator=generator).tolist():
            stream = self._streams[index]
            if len(stream) <= window + 1:
                stream = stream.repeat(math.ceil((window + 2) / len(stream)))
            start = int(torch.randint(len(stream) - window, (1,), generator=generator))
            rows.append(stream[start : start + window + 1])
        return torch.stack(rows).long()


@torch.inference_mode()
def bits_per_byte(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> float:
    """Held-out loss in bits per UTF-8 byte. Every text is read from its start, in windows of 2,048 tokens."""
    device = model.device
    nats = 0.0
    for text in texts:
        ids = torch.tensor([tokenizer.eos_token_id, *tokenizer.encode(text, verbose=False)], device=device)
        for start in range(0, len(ids) - 1, 2048):
            window = ids[start : start + 2049]
            logits = model(window[None, :-1]).logits[0].float()
            nats += F.cross_entropy(logits, window[1:], reduction="sum").item()
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


@torch.inference_mode()
def score_positions(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str], positions: int
) -> PositionScores:
    """Scores the quarters of a window of ``positions`` tokens that starts where a text starts.

    Texts with fewer tokens than that are left out.
    """
    device = model.device
    quarter = positions // 4
    nats = torch.zeros(5, dtype=torch.float64)
    sizes = torch.zeros(5, dtype=torch.float64)
    passages = 0

    def losses(inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(inputs[None]).logits[0].float(), targets, reduction="none").double().cpu()

    for text in texts:
        ids = tokenizer.encode(text, verbose=False)[:positions]
        if len(ids) < positions:
            continue
        passages += 1
        tokens = torch.tensor([tokenizer.eos_token_id, *ids], device=device)
        nats[:4] += losses(tokens[:-1], tokens[1:]).view(4, quarter).sum(1)
        nats[4] += losses(tokens[2 * quarter : -1], tokens[2 * quarter + 1 :])[quarter:].sum()
        # A byte-level token is written with one character for each of its bytes.
        counts = torch.tensor([len(token) for token in tokenizer.convert_ids_to_tokens(ids)])
        counts = counts.view(4, quarter).sum(1)
        sizes += torch.cat([counts, counts[3:]])
    *by_quarter, short = (nats / math.log(2) / sizes).tolist()
    return PositionScores(passages, quarter, by_quarter, short)


def _learning_rate(config: TrainingConfig, step: int) -> float:
    warm = min(1.0, (step + 1) / 100)
    return config.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))


def fit(
    config: TrainingConfig,
    model: LlamaForCausalLM,
    sampler: WindowSampler,
    report: Callable[[int, float, LlamaForCausalLM], None],
) -> LlamaForCausalLM:
    """Trains ``model`` in place and returns the average of its weights.

    ``report(step, loss, average)`` is called every tenth of the run.
    """
    device = model.device
    _add_dropout(model, config.dropout)
    average = build_model(config, model.config.eos_token_id).to(device)
    average.load_state_dict(model.state_dict())
    average.eval()
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        fused=device.type == "cuda",
    )

    def loss_of(tokens: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(tokens[:, :-1]).logits
        return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())

    compiled = torch.compile(loss_of, dynamic=False) if device.type == "cuda" else loss_of
    generator = torch.Generator().manual_seed(config.seed)
    long_from = int(config.steps * (1 - config.long_window_share))
    every = max(1, config.steps // 10)
    model.train()
    for step in range(config.steps):
        window = config.max_positions if step >= long_from else config.window
        tokens = sampler.draw(max(1, config.batch_tokens // window), window, generator).to(device, non_blocking=True)
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(config, step)
        loss = compiled(tokens)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(config.average_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        if (step + 1) % every == 0 or step + 1 == config.steps:
            report(step + 1, loss.item(), average)
    return average


@torch.inference_mode()
def sample(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str, seed: int = 0) -> str:
    """One continuation of 120 tokens at temperature 0.8."""
    torch.manual_seed(seed)
    ids = tokenizer.encode(prompt)
    for _ in range(120):
        logits = model(torch.tensor([ids], device=model.device)).logits[0, -1].float()
        ids.append(int(torch.multinomial((logits / 0.8).softmax(-1), 1)))
    return str(tokenizer.decode(ids))


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of xx-name.txt files, and udhr/*.txt")
    parser.add_argument("--out", type=Path, required=True, help="where the transformers directory is written")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    for name, value in asdict(TrainingConfig()).items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=type(value), default=value, help="default: %(default)s")
    return parser.parse_args()


def main() -> None:
    args = _parse_args()
    config = TrainingConfig(**{name: getattr(args, name) for name in asdict(TrainingConfig())})
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision("high")
    documents = read_corpus(args.corpus)
    tokenizer = train_tokenizer(documents, config.vocab_size)
    eos = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    encode = functools.partial(tokenizer.encode, verbose=False)
    sampler = WindowSampler(documents, encode, eos, config.language_power)
    model = build_model(config, eos).to(args.device)
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{parameters / 1e6:.1f} M parameters, {sampler.num_tokens / 1e6:.2f} M training tokens, {config}", flush=True
    )
    validation = held_out(documents, "validation")
    started = time.monotonic()
    evaluating = 0.0

    def report(step: int, loss: float, average: LlamaForCausalLM) -> None:
        nonlocal evaluating
        begun = time.monotonic()
        scores = {language: bits_per_byte(average, tokenizer, texts) for language, texts in validation.items()}
        listed = "  ".join(f"{language} {score:.3f}" for language, score in scores.items())
        seconds = begun - started - evaluating
        print(f"step {step:5d}  {seconds:6.1f} s of training  loss {loss:.3f}  bits/byte {listed}", flush=True)
        evaluating += time.monotonic() - begun

    average = fit(config, model, sampler, report)
    final = copy.deepcopy(average).to(torch.bfloat16)
    final.config.use_cache = True
    final.generation_config.use_cache = True
    # Saved before it is scored: scoring takes minutes, and training should not be lost to an interruption.
    final.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    test = held_out(documents, "test")
    scores = {language: bits_per_byte(final, tokenizer, texts) for language, texts in test.items()}
    print("test bits/byte", {language: round(score, 3) for language, score in scores.items()}, flush=True)
    passages = [text for texts in test.values() for text in texts]
    by_position = score_positions(final, tokenizer, passages, config.max_positions)
    print("test bits/byte", by_position, flush=True)
    samples = {language: sample(final, tokenizer, prompt) for language, prompt in SAMPLE_PROMPTS.items()}
    print("\n\n".join(samples.values()), flush=True)
    minutes = (time.monotonic() - started) / 60
    hardware = torch.cuda.get_device_name() if final.device.type == "cuda" else "CPU"
    run = f"This run took {minutes:.0f} minutes on one {hardware}"
    write_model_card(args.out / "README.md", documents, scores, by_position, samples, asdict(config), parameters, run)
    for path in args.out.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    main()
