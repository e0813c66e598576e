"""The bundled recordings: complete, small, showing what they say, and what their script makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from workbench.events import PageMap, Recording
from workbench.models import LoadedModel
from workbench_app.gallery import GALLERY, ITEMS, path_of, record

#: Fields that hold durations.
_TIMES = {"t_ns", "schedule_ns", "forward_ns", "sample_ns", "copy_ns", "swap_ns", "measured_ns", "estimated_ns"}
_TIMES |= {"recompute_ns"}


def without_times(recording: Recording) -> list[dict[str, Any]]:
    events = json.loads(msgspec.json.encode(list(recording.events())))
    return [_timeless(event) for event in events]


def _timeless(record: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in record.items() if name not in _TIMES}
    return {name: _timeless(value) if isinstance(value, dict) else value for name, value in kept.items()}


@pytest.mark.parametrize("name", ITEMS)
def test_a_recording_is_complete_and_small(name: str) -> None:
    assert path_of(name).stat().st_size <= 500_000
    with Recording.open(path_of(name)) as recording:
        assert recording.is_complete, recording.damage
        end = recording.state_at(recording.last_step)
        assert not end.running
        assert not end.waiting
        assert recording.num_steps > 20
        assert all(request.prompt for request in end.requests.values())


def test_all_together_are_small_and_nothing_else_is_there() -> None:
    files = list(GALLERY.iterdir())
    assert {path.name for path in files} == {f"{name}.kvtrace" for name in ITEMS}
    assert sum(path.stat().st_size for path in files) <= 2_500_000


def end_of(name: str) -> PageMap:
    with Recording.open(path_of(name)) as recording:
        return recording.state_at(recording.last_step)


def test_they_show_what_they_say() -> None:
    paged, contiguous = end_of("burst-paged"), end_of("burst-contiguous")
    assert [r.prompt for r in paged.requests.values()] == [r.prompt for r in contiguous.requests.values()]
    assert [r.text for r in paged.requests.values()] == [r.text for r in contiguous.requests.values()]
    assert contiguous.totals.max_running == 4
    assert paged.totals.max_running >= 3 * contiguous.totals.max_running
    assert paged.totals.preemptions > 0
    swap, recompute = end_of("preemption-swap"), end_of("preemption-recompute")
    assert swap.totals.preemptions > 0
    assert swap.totals.swapped_out_bytes == swap.totals.swapped_in_bytes > 0
    assert swap.totals.recomputed_tokens == 0
    assert recompute.totals.preemptions > 0
    assert recompute.totals.recomputed_tokens > 0
    assert [r.text for r in swap.requests.values()] == [r.text for r in recompute.requests.values()]
    assert end_of("samples").totals.blocks_copied > 0
    assert len(end_of("beams").requests[0].chosen) == 4
    prefixes = end_of("prefixes").totals
    assert prefixes.prefix_hit_tokens > 0
    assert prefixes.evictions > 0


@pytest.mark.parametrize("name", ["samples", "preemption-swap"])
def test_the_script_makes_them(name: str, tiny: LoadedModel, tmp_path: Path) -> None:
    record(name, tmp_path / "again.kvtrace", tiny)
    with Recording.open(tmp_path / "again.kvtrace") as again, Recording.open(path_of(name)) as bundled:
        assert without_times(again) == without_times(bundled)
