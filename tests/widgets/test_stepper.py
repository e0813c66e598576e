"""Stepper: what it shows is what the history says, without any front end."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.events.engine_runs import make
from workbench import LLM, EngineConfig, SamplingParams
from workbench.events import Timeline
from workbench.events.jumps import KINDS, JumpIndex
from workbench.events.types import Tier
from workbench.models import LoadedModel
from workbench.views import block_table_view, page_map_view
from workbench.views.frames import event_words
from workbench.views.palette import request_label
from workbench.widgets import Selection, Stepper, render
from workbench.widgets.figures import FigureSlot
from workbench.widgets.panels import tokens_html
from workbench.widgets.rendered import PageTokens
from workbench.widgets.selection import page_under, place_of


@pytest.fixture(scope="module")
def history(llama: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    return make("swap and cache", llama)[0]


@pytest.fixture(scope="module")
def path(llama: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "run.kvtrace"
    make("swap", llama, target=place)
    return place


def visible(slot: FigureSlot) -> list[dict[str, Any]]:
    """The traces that the widget shows, in the order of its legend."""
    kept = [t for t in slot.widget.data if t.visible is not False]
    kept.sort(key=lambda trace: trace.legendrank)
    return [_without(trace.to_plotly_json()) for trace in kept]


def _without(trace: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in trace.items() if name not in ("uid", "visible", "legendrank")}


def same(left: Any, right: Any) -> bool:
    if isinstance(right, tuple | list) and len(right) == 1 and right[0] is None:
        right = [np.nan]  # how the widget has it
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return np.array_equal(np.asarray(left), np.asarray(right), equal_nan=np.asarray(left).dtype.kind == "f")
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def assert_shows(stepper: Stepper) -> None:
    """The widgets show the step of the slider, as the history knows it."""
    step = stepper.slider.value
    state = stepper.history.state_at(step)
    assert stepper.step == stepper.rendered.step == step
    expected = page_map_view(state, color_by=stepper.color_by.value)
    assert stepper._map is not None
    shown = visible(stepper._map)
    wanted = [trace.to_plotly_json() for trace in expected.figure.data]
    assert len(shown) == len(wanted)
    assert all(map(same, shown, wanted))
    assert stepper._map.widget.layout.title.text == expected.figure.layout.title.text
    assert expected.caption in stepper.rendered.caption
    assert stepper.rendered.events == tuple(event_words(e, state) for e in stepper.history.events(step))
    frames = [shape for shape in stepper._map.widget.layout.shapes if shape.name == "selected"]
    is_framed = stepper.selection is not None and stepper.selection.page is not None and state.run is not None
    assert len(frames) == is_framed


@pytest.mark.parametrize("name", ["swap and cache", "windows", "contiguous"])
def test_random_walks(name: str, llama: LoadedModel) -> None:
    history = make(name, llama)[0]
    stepper, rng = Stepper(history), random.Random(name)
    state = history.state_at(history.last_step)
    for _ in range(12):
        move = rng.choice(["slider", "key", "jump", "page", "color", "click"])
        if move == "slider":
            stepper.slider.value = rng.randint(history.first_step, history.last_step)
        elif move == "key":
            stepper.press(rng.choice(["ArrowLeft", "ArrowRight", "Home", "End"]), shift=rng.random() < 0.3)
        elif move == "jump":
            stepper.jump(rng.choice(list(KINDS)), back=rng.random() < 0.5)
        elif move == "page":
            stepper.page.value = rng.choice(["", str(rng.randrange(len(state.pages) or 8))])
        elif move == "color":
            stepper.color_by.value = rng.choice(["request", "fill", "refs", "age", "cause"])
        else:
            stepper._on_click(rng.random() * 8, rng.random() * 4)
        assert_shows(stepper)
    stepper.close()


def test_buttons_and_jumps(history: Timeline) -> None:
    stepper, jumps = Stepper(history, step=4), JumpIndex(history)
    controls = stepper.controls
    controls.forward.click()
    assert stepper.step == 5
    controls.back.click()
    controls.back.click()
    assert stepper.step == 3
    controls.last.click()
    assert stepper.step == history.last_step
    assert controls.last.disabled
    assert controls.forward.disabled
    controls.first.click()
    assert stepper.step == history.first_step
    assert controls.back.disabled
    for kind, button in controls.jumps.items():
        stepper.go(history.first_step)
        for step in jumps.steps(kind):
            assert not button.disabled
            button.click()
            assert stepper.step == step
        assert button.disabled
        assert not stepper.jump(kind)
    controls.backwards.value = True
    stepper.go(history.last_step)
    controls.jumps["preemption"].click()
    assert stepper.step == jumps.steps("preemption")[-1]
    stepper.speed.value = 8.0
    assert stepper.play.interval == 62
    stepper.press(" ")
    assert stepper.play.playing
    with pytest.raises(ValueError, match="kind='nothing'"):
        stepper.jump("nothing")


def test_a_page_shows_its_table_tokens_and_life(history: Timeline) -> None:
    step = next(
        s for s in range(history.last_step) if any(p.ref_count == 1 and p.filled for p in history.state_at(s).pages)
    )
    state = history.state_at(step)
    block = next(number for number, page in enumerate(state.pages) if page.ref_count == 1 and page.filled)
    shown = render(history, step, selection=block)
    owner = state.pages[block].owner
    assert shown.sequence is not None
    assert shown.sequence.startswith(request_label(state.sequences[owner].request))
    assert shown.block_table is not None
    assert shown.block_table.table.rows == block_table_view(state, owner).table.rows
    (page,) = (page for page in shown.tokens if page.is_selected)
    assert page.index == state.pages[block].logical_index
    assert len(page.texts) == state.pages[block].filled
    assert f"Page {block} is selected" in shown.caption
    assert shown.life is not None
    assert any(row[0] == step for row in shown.life.rows)
    free = next(number for number, page in enumerate(state.pages) if not page.ref_count)
    assert render(history, step, selection=free).block_table is None


def test_selecting(history: Timeline) -> None:
    stepper = Stepper(history, step=6)
    meta = stepper.rendered.figure.layout.meta
    for selection in (Selection(0), Selection(39), Selection(0, Tier.HOST), Selection(29, Tier.HOST)):
        place = place_of(meta, selection)
        assert place is not None
        assert page_under(meta, place[0] + 0.5, place[1] + 0.5) == selection
    assert page_under(meta, 0.5, 1000) is None
    stepper._on_click(0.5, 0.5)
    assert stepper.selection == Selection(0)
    assert stepper.page.value == "0"
    stepper._on_click(0.5, 0.5)
    assert stepper.selection is None
    assert stepper.page.value == ""
    stepper.page.value = "host 3"
    assert stepper.selection == Selection(3, Tier.HOST)
    stepper.page.value = "nonsense"
    assert "must be a page (5)" in stepper._keys.said
    assert stepper.selection == Selection(3, Tier.HOST)
    first = next(iter(history.state_at(6).sequences))
    stepper.page.value = request_label(history.state_at(6).sequences[first].request).lower()
    assert stepper.selection == Selection(sequence=first)
    with pytest.raises(ValueError, match="page=40: must be from 0 to 39"):
        stepper.select(40)
    assert stepper.selection == Selection(sequence=first)


def test_live(llama: LoadedModel) -> None:
    llm = LLM(llama, EngineConfig(block_size=4, num_blocks=16, max_model_len=64))
    stepper = Stepper(llm)
    assert stepper.rendered.caption.startswith("After step 0: of 16 pages")
    assert not stepper.run_one_step()
    assert "add a request first" in stepper._keys.said
    llm.add_request([1, 2, 3, 4, 5], SamplingParams(max_tokens=6))
    for step in range(1, 4):
        stepper.controls.run.click()
        assert stepper.step == step == llm.step_number
        assert_shows(stepper)
    llm.step()  # by somebody else: the slider grows, what is shown stays
    assert stepper.step == 3
    assert stepper.slider.max == 4
    stepper.press("End")
    assert stepper.step == 4
    stepper.press("Home")
    stepper.controls.run.click()
    assert stepper.step == 5
    stepper.close()
    llm.step()
    assert stepper.history.last_step == 5


def test_a_recording_by_its_path(path: Path) -> None:
    stepper = Stepper(path, views=("page_map", "events"), selection=2, color_by="fill")
    assert stepper.rendered.block_table is None
    assert stepper.rendered.tokens == ()
    assert stepper.step == stepper.history.first_step + 1, "the recording begins before the run"
    stepper.press("End")
    assert_shows(stepper)
    with pytest.raises(ValueError, match="no engine to run"):
        stepper.run_one_step()
    with pytest.raises(OSError, match="nowhere"):
        Stepper(path.parent / "nowhere.kvtrace")
    with pytest.raises(TypeError, match="source=3: must be a History, an LLM, or a path"):
        Stepper(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="views='pages': must be a sequence of page_map"):
        Stepper(path, views=("pages",))
    with pytest.raises(ValueError, match="color_by='red': must be one of request"):
        Stepper(path, color_by="red")
    with pytest.raises(IndexError, match="step=1000"):
        Stepper(path, step=1000)


def test_without_a_front_end_it_is_a_figure_with_words(history: Timeline) -> None:
    stepper = Stepper(history, step=5)
    bundle = stepper._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" not in bundle
    assert bundle["text/plain"].startswith("Step 5. After step 5: of 40 pages")
    assert "  step 5 begins" in bundle["text/plain"]
    assert stepper.figure(3).to_json() == page_map_view(history.state_at(3)).figure.to_json()
    assert len(json.dumps(stepper.rendered.page_map.to_json())) < 60_000


def test_what_comes_from_a_run_is_escaped() -> None:
    shown = tokens_html("A", [PageTokens(0, "page 1", ("<img src=x onerror=alert(1)>", "\n"), True)], "")
    assert "<img" not in shown
    assert "↵" in shown
