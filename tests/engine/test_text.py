"""Streamed text: whole characters only, nothing of a stop string, and all of it in the end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import assert_page_map_matches
from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.engine.sequence import TextStream
from workbench.events import types as ev
from workbench.models import LoadedModel


@settings(deadline=None, max_examples=150)
@given(text=st.text(max_size=60), cut=st.integers(0, 3))
def test_pieces_are_whole_characters_and_add_up(text: str, cut: int) -> None:
    tokenizer = _tokenizer()
    ids = tokenizer.encode(text)
    ids = ids[: max(0, len(ids) - cut)]
    stream = TextStream(tokenizer)
    pieces = [stream.push(token)[0] for token in ids]
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)
    pieces.append(stream.finish(stopped=False))
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True) == stream.text


@settings(deadline=None, max_examples=150)
@given(
    text=st.text(alphabet="abcä💡 ", max_size=40),
    stops=st.lists(st.text(alphabet="abcä💡 ", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_stop_strings(text: str, stops: list[str]) -> None:
    """Against the plain rule: cut at the first place where any stop string is complete."""
    tokenizer = _tokenizer()
    ids = tokenizer.encode(text)
    stream = TextStream(tokenizer, tuple(stops))
    shown, stopped = "", False
    for token in ids:
        piece, stopped = stream.push(token)
        shown += piece
        assert not any(stop in shown for stop in stops)
        if stopped:
            break
    shown += stream.finish(stopped)
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    hits = [decoded.find(stop) for stop in stops if stop in decoded]
    assert stopped == bool(hits)
    if hits:
        # Tokens hold several characters: within one token the earliest stop wins.
        assert decoded.startswith(shown)
        assert any(decoded[len(shown) :].startswith(stop) for stop in stops)
        assert not any(stop in shown for stop in stops)
    else:
        assert shown == decoded


def _tokenizer() -> object:
    from transformers import AutoTokenizer

    from workbench.models.loading import BUNDLED_DIR

    if not hasattr(_tokenizer, "value"):
        _tokenizer.value = AutoTokenizer.from_pretrained(BUNDLED_DIR, local_files_only=True)  # type: ignore[attr-defined]
    return _tokenizer.value  # type: ignore[attr-defined,no-any-return]


def test_stop_string_ends_a_request_and_is_not_shown(tiny: LoadedModel) -> None:
    free = LLM(tiny, EngineConfig(num_blocks=32, max_model_len=256))
    prompt = "Once upon a time"
    params = {"max_tokens": 60, "temperature": 0.0, "ignore_eos": True}
    whole = free.generate(prompt, SamplingParams(**params))[0].outputs[0].text  # type: ignore[arg-type]
    stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
    llm = LLM(tiny, EngineConfig(num_blocks=32, max_model_len=256))
    shown: dict[int, str] = {}

    def follow(batch: object) -> None:
        for event in batch.events:  # type: ignore[attr-defined]
            if isinstance(event, ev.TokenGenerated | ev.RequestFinished):
                shown[event.request] = shown.get(event.request, "") + event.text

    llm.bus.subscribe(follow)
    output = llm.generate(prompt, SamplingParams(stop=stop, **params))[0].outputs[0]  # type: ignore[arg-type]
    assert output.finish_reason == "stop"
    assert output.text == whole[: whole.find(stop)]
    assert shown[0] == output.text == llm.page_map.requests[0].text
    assert_page_map_matches(llm)


def test_stop_token_ends_a_request(tiny: LoadedModel) -> None:
    llm = LLM(tiny, EngineConfig(num_blocks=64, max_model_len=256))
    params = {"max_tokens": 30, "temperature": 0.0, "ignore_eos": True}
    tokens = llm.generate("Es war einmal", SamplingParams(**params))[0].outputs[0].token_ids  # type: ignore[arg-type]
    stop = tokens[10]
    output = llm.generate("Es war einmal", SamplingParams(stop_token_ids=(stop,), **params))[0].outputs[0]  # type: ignore[arg-type]
    assert output.finish_reason == "stop"
    assert output.token_ids == tokens[: tokens.index(stop) + 1]
    assert output.text == tiny.tokenizer.decode(tokens[: tokens.index(stop)])


def test_logprobs_come_with_every_token(tiny: LoadedModel) -> None:
    llm = LLM(tiny, EngineConfig(num_blocks=16, max_model_len=128))
    output = llm.generate("The king", SamplingParams(max_tokens=5, temperature=0, logprobs=2))[0].outputs[0]
    assert output.logprobs is not None
    assert len(output.logprobs) == 5
    for token, found in zip(output.token_ids, output.logprobs, strict=True):
        assert token == max(found, key=lambda t: found[t])
        assert all(value <= 0 for value in found.values())
