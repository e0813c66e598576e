"""`workbench bench app`: its visitors speak Gradio's protocol as a browser does, and notice what is not theirs."""

from __future__ import annotations

import pytest

from workbench.benchmarks.app_host import Server, cpu_seconds, resident_mb
from workbench.benchmarks.app_large_map import large_pool
from workbench.benchmarks.app_visitors import Form, Visitor, visitors
from workbench.cli import main


def test_two_visitors_see_their_own_runs() -> None:
    with Server() as server:
        server.wait_for_model()
        seen = visitors(server.url, 2, 3.0).result()
        assert (resident_mb(server.pid) or 1) > 0
        assert (cpu_seconds(server.pid) or 1) > 0
    for one in seen:
        assert one.errors == []
        assert one.frames > 2
        assert one.steps > 0
        assert (one.foreign, one.lost) == (0, 0)
        assert len(one.first) >= 1


def test_somebody_elses_frame_is_noticed() -> None:
    visitor = Visitor(None, "http://127.0.0.1/", Form(_CONFIG), 3)
    side = {"map": {"blocks": visitor.slots // visitor.block_size, "block_size": visitor.block_size}}
    frame = {"left": side, "right": side, "requests": [[0, f"{visitor.mark}the road"]]}
    visitor._check(frame)
    assert visitor.seen.foreign == 0
    visitor._check({**frame, "requests": [[0, "Visitor 04: the road"]]})
    other = {"map": {**side["map"], "blocks": 1}}
    visitor._check({**frame, "right": other})
    assert visitor.seen.foreign == 2


_CONFIG = {
    "components": [{"id": 7, "props": {"label": "Seed (0 to 9)", "value": 0}}, {"id": 8, "props": {"value": 1}}],
    "dependencies": [{"id": 2, "api_name": "run", "inputs": [7, 8]}],
}


def test_a_form_is_filled_in_by_labels() -> None:
    form = Form(_CONFIG)
    assert form.filled(seed=5) == [5, 1]
    assert form.number("run") == 2
    with pytest.raises(ValueError, match="no setting pool"):
        form.filled(pool=1)


def test_the_large_pool_is_as_large_as_it_says() -> None:
    pool = large_pool(400)
    assert len(pool.pages) == 400
    assert sum(page.filled > 0 for page in pool.pages) == 280


def test_impossible_times(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "app", "--minutes", "0"]) == 2
    assert "--minutes 0.0: must be above 0" in capsys.readouterr().err
