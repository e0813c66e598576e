"""The film that plays until somebody has a run: two recordings, step by step what they say."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from workbench.events import Recording
from workbench.views import map_payload
from workbench.views.delta import patch
from workbench_app.gallery import path_of
from workbench_app.recorded import RecordedDuel, make_film
from workbench_app.services import FILM, Film


@pytest.fixture(scope="module")
def film() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(gzip.decompress(Film().packed()))
    return made


def test_every_step_is_what_the_recordings_say(film: dict[str, Any]) -> None:
    with Recording.open(path_of(FILM[0])) as paged, Recording.open(path_of(FILM[1])) as contiguous:
        last = max(paged.last_step, contiguous.last_step)
        assert len(film["patches"]) == last
        frame = film["first"]
        for step in range(last + 1):
            if step:
                frame = patch(frame, film["patches"][step - 1])
            if step % 20 and step != last:
                continue
            assert (frame["step"], frame["state"], frame["film"], frame["run"]) == (step, "Recording", True, 0)
            for side, history in (("left", paged), ("right", contiguous)):
                state = history.state_at(min(step, history.last_step))
                assert frame[side]["map"] == json.loads(json.dumps(map_payload(state)))
        assert frame["badge"]["words"].startswith("Outputs equal: ")
        assert frame["badge"]["words"].endswith("(final)")
        assert frame["ahead"].startswith("Paged was done first")


def test_it_says_that_it_is_a_recording(film: dict[str, Any]) -> None:
    assert "A recording plays here until you press Run." in film["first"]["note"]


def test_recordings_that_do_not_belong_together_are_refused() -> None:
    with (
        Recording.open(path_of(FILM[0])) as paged,
        Recording.open(path_of("samples")) as other,
        pytest.raises(ValueError, match="not of the same requests"),
    ):
        RecordedDuel(paged, other)


def test_it_is_served_packed() -> None:
    with TestClient(Starlette(routes=[Film().route()])) as client:
        answer = client.get("/kvw/film")
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.json()["pace"] > 0


def test_once_it_is_made_no_thread_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    film = Film()
    packed = film.packed()
    monkeypatch.setattr(film, "packed", None)  # calling it would fail
    with TestClient(Starlette(routes=[film.route()])) as client:
        assert client.get("/kvw/film").content == gzip.decompress(packed)


def test_a_film_is_small() -> None:
    with Recording.open(path_of(FILM[0])) as paged, Recording.open(path_of(FILM[1])) as contiguous:
        film = make_film(RecordedDuel(paged, contiguous))
    assert len(film) < 1_500_000
    assert len(Film().packed()) < 250_000
