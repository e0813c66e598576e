"""What a visitor's file may cost: a small one that unfolds is refused before it does, in a process that is measured."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.app.hostile_files import HOSTILE, MB, batch, one_request, recording
from workbench.events import types as ev
from workbench.events.kvtrace import KEYFRAME, RecordingError
from workbench.events.page_map import encode_page_map
from workbench_app.explore import ExploreStore
from workbench_app.gallery import ITEMS, path_of
from workbench_app.limits import ExploreError, Limits
from workbench_app.strangers import StrangersRecording

ROOT = Path(__file__).parents[2]
WORDS = {
    "configuration": "Memory to read step 0: 'more than 16 MiB' is not possible. At most 16 MiB are allowed.",
    "versions": "bytes; at most 65536 are allowed",
    "frames": "frames or more; at most 20000 are allowed",
    "index": "",
    "a_claim": "truncated",
    "pool": "Pages: '1,000,000,000' is not possible. At most 16,384",
    "second_run": "another run began before",
    "forks": "100 forks and 0 shared pages after it could take 100 MiB; at most 16 MiB are allowed",
    "gap": "1 shared pages after it could take",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each file: by how many bytes the process grew, and words."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, make in HOSTILE.items():
        (folder / name).write_bytes(make())
    command = [sys.executable, "-m", "tests.app.hostile_files", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("name", HOSTILE)
def test_a_small_file_that_unfolds_is_refused_before_it_does(found: dict[str, Any], name: str) -> None:
    grown, words = found[name]
    assert WORDS.get(name, "Memory to read step ") in words, words
    assert grown < 40 * MB, f"{grown / MB:.0f} MiB"


def test_a_run_that_is_all_configuration_is_refused() -> None:
    state = one_request(config={f"{number:x}": 0 for number in range(20_000)})
    with pytest.raises(ExploreError, match=r"RunStarted, with .*: '\d+ KiB' is not possible. At most 64.* KiB are all"):
        ExploreStore().open_upload(io.BytesIO(recording((KEYFRAME, 0, encode_page_map(state)))), "a", "me")


def test_a_text_that_every_token_copies_has_an_end() -> None:
    state = one_request()
    tokens = [
        ev.TokenGenerated(seq=3 + index, step=1, request=0, sequence=0, index=index, token_id=1, text="x" * 50)
        for index in range(5)
    ]
    data = recording((KEYFRAME, 0, encode_page_map(state)), batch(1, *tokens))
    for most, is_possible in ((200, True), (199, False)):
        store = ExploreStore(Limits(text_chars=most))
        history = store.get(store.open_upload(io.BytesIO(data), "a", "me")).history
        if is_possible:
            assert len(history.state_at(1).requests[0].text) == 250
        else:
            with pytest.raises(RecordingError, match="text: sequence 0 has 200 characters; at most 199 are allowed"):
                history.state_at(1)
        store.close()


def test_only_behind_a_sliding_window_a_page_may_be_missing() -> None:
    def with_gap(*windows: int) -> ExploreStore:
        state = one_request(group_windows=list(windows))
        state.pages[0].filled, state.pages[0].hash, state.pages[0].logical_index = 16, "x", 3
        hit = ev.PrefixHit(
            seq=3, step=1, sequence=0, block=0, logical_index=3, ref_count=1, hash="x", cause=ev.Cause.PREFIX_HIT
        )
        store = ExploreStore()
        data = recording((KEYFRAME, 0, encode_page_map(state)), batch(1, hit))
        (source,) = [store.get(store.open_upload(io.BytesIO(data), "a", "me"))]
        source.history.state_at(1)
        return store

    with_gap(8).close()
    with pytest.raises(RecordingError, match="logical_index=3: sequence 0 has 0 pages"):
        with_gap(0)


@pytest.mark.parametrize("name", ITEMS)
def test_bundled_recordings_take_a_small_part_of_what_is_allowed(name: str) -> None:
    limits = Limits(memory_bytes=Limits.memory_bytes // 32, decoded_bytes=Limits.decoded_bytes // 32)
    store = ExploreStore(limits)
    history = store.get(store.open_upload(io.BytesIO(path_of(name).read_bytes()), name, "me")).history
    assert isinstance(history, StrangersRecording)
    assert history.state_at(history.last_step).step == history.last_step
    store.close()
