"""The app's HTTP side, as a browser sees it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from workbench.events import Recording
from workbench.metrics import EngineCollector
from workbench.views.delta import patch
from workbench.views.frames import explore_frame
from workbench_app.explore import ExploreStore
from workbench_app.explore_views import VIEWS
from workbench_app.exports import KINDS
from workbench_app.gallery import ITEMS, path_of
from workbench_app.limits import Limits
from workbench_app.routes import make_routes

SAMPLES = path_of("samples").read_bytes()
FIRST, SECOND = {"X-KVW-Visitor": "first-visitor"}, {"X-KVW-Visitor": "second-visitor"}


@pytest.fixture
def store() -> Iterator[ExploreStore]:
    made = ExploreStore(Limits(upload_bytes=600_000, per_visitor=2))
    yield made
    made.close()


@pytest.fixture
def client(store: ExploreStore) -> Iterator[TestClient]:
    app = Starlette(routes=make_routes(None, store, EngineCollector()))
    with TestClient(app, base_url="http://127.0.0.1:7860") as made:
        yield made


def upload(client: TestClient, data: bytes = SAMPLES, name: str = "mine.kvtrace", **headers: str) -> Any:
    return client.post("/kvw/upload", params={"name": name}, content=data, headers={**FIRST, **headers})


def opened(client: TestClient, name: str = "samples") -> str:
    key: str = client.post(f"/kvw/gallery/{name}").json()["key"]
    return key


def test_an_upload_opens_and_says_what_it_is(client: TestClient) -> None:
    response = upload(client)
    assert response.status_code == 201
    key = response.json()["key"]
    assert len(key) >= 24
    meta = client.get(f"/kvw/{key}/meta").json()
    assert meta["title"] == "mine.kvtrace"
    assert meta["kind"] == "upload"
    assert not meta["running"]
    assert meta["run"]["memory"] == "paged"
    assert meta["jumps"]["copy"]
    assert meta["last"] > meta["first"] == 0
    assert "contiguous" not in meta["views"]
    assert set(meta["exports"]) == set(KINDS)
    assert client.delete(f"/kvw/{key}", headers=FIRST).status_code == 204
    assert client.get(f"/kvw/{key}/meta").status_code == 404


def test_nobody_reads_or_closes_what_is_not_theirs(client: TestClient) -> None:
    key = upload(client).json()["key"]
    for guess in ("a", key[:-1], key[:-1] + ("A" if key[-1] != "A" else "B"), "../" + key, "%2e%2e"):
        assert client.get(f"/kvw/{guess}/meta").status_code == 404
    assert client.delete(f"/kvw/{key}", headers=SECOND).status_code == 404
    assert client.get(f"/kvw/{key}/meta").status_code == 200


def test_frames_as_changes_equal_whole_frames_in_both_directions(client: TestClient) -> None:
    key = opened(client)
    with Recording.open(path_of("samples")) as recording:
        expected = [
            explore_frame(recording.state_at(step), recording.events(step)) for step in range(recording.last_step + 1)
        ]
    frame: Any = None
    base, base_seq = -1, -1
    sizes = {"frame": 0, "patch": 0}
    there_and_back = [*range(0, 31), *range(29, 9, -1), 50]
    for step in there_and_back:
        query = {"step": step} | ({"base": base, "base_seq": base_seq} if frame else {})
        response = client.get(f"/kvw/{key}/frame", params=query)
        answer = response.json()
        assert answer["step"] == step
        frame = answer["frame"] if "frame" in answer else patch(frame, answer["patch"])
        sizes["frame" if "frame" in answer else "patch"] += 1
        base, base_seq = step, answer["seq"]
        assert frame == json.loads(json.dumps(expected[step]))
    assert sizes["patch"] > 40
    wrong = client.get(f"/kvw/{key}/frame", params={"step": 9, "base": 8, "base_seq": 1}).json()
    assert wrong["frame"] == json.loads(json.dumps(expected[9]))


def test_changes_are_small_and_large_answers_are_packed(client: TestClient) -> None:
    key = opened(client, "burst-paged")
    whole = client.get(f"/kvw/{key}/frame", params={"step": 40})
    assert whole.headers["content-encoding"] == "gzip"
    assert int(whole.headers["content-length"]) < len(whole.content)
    seq = whole.json()["seq"]
    change = client.get(f"/kvw/{key}/frame", params={"step": 41, "base": 40, "base_seq": seq})
    assert "patch" in change.json()
    assert int(change.headers["content-length"]) < 5_000
    plain = client.get(f"/kvw/{key}/frame", params={"step": 40}, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.json() == whole.json()


@pytest.mark.parametrize("dark", ["0", "1"])
@pytest.mark.parametrize("name", [name for name in VIEWS if name != "contiguous"])
def test_every_picture_comes_as_data_words_and_table(client: TestClient, name: str, dark: str) -> None:
    key = opened(client)
    query = {"step": 20, "page": 3, "request": 0, "dark": dark}
    response = client.get(f"/kvw/{key}/view/{name}", params=query)
    assert response.status_code == 200, response.text
    view = response.json()
    assert view["data"]
    assert view["caption"]
    assert view["table"]["columns"]
    assert client.get(f"/kvw/{key}/view/{name}", params=query).json() == view


def test_contiguous_memory_has_its_own_picture(client: TestClient) -> None:
    key = opened(client, "burst-contiguous")
    meta = client.get(f"/kvw/{key}/meta").json()
    assert "contiguous" in meta["views"]
    assert "block_table" not in meta["views"]
    assert client.get(f"/kvw/{key}/view/contiguous", params={"step": 50}).json()["data"]


@pytest.mark.parametrize(
    ("path", "field", "status"),
    [
        ("frame?step=-1", "step", 400),
        ("frame?step=100000", "step", 400),
        ("frame?step=1.5", "step", 400),
        ("frame?step=٣", "step", 400),
        ("frame?step=1&base=x", "base", 400),
        ("frame?step=1&sequence=-4", "sequence", 400),
        ("view/nothing?step=1", "View", 404),
        ("view/page_map?step=1&color=red", "color", 400),
        ("view/page_map?step=1&dark=yes", "dark", 400),
        ("view/page_life?step=1", "page", 400),
        ("view/page_life?step=1&page=99999", "View", 400),
        ("view/request_life?step=1&request=77", "View", 400),
        ("view/block_table?step=10&sequence=77", "sequence", 400),
        ("view/contiguous?step=10", "View", 400),
        ("export/exe", "Format", 404),
    ],
)
def test_errors_name_field_value_and_what_is_allowed(client: TestClient, path: str, field: str, status: int) -> None:
    response = client.get(f"/kvw/{opened(client)}/{path}")
    assert response.status_code == status
    error = response.json()
    assert error["field"] == field
    assert error["value"]
    assert error["allowed"]
    assert error["error"].startswith(f"{field}: ")


@pytest.mark.parametrize("kind", KINDS)
def test_exports_have_a_good_name_and_read_back(client: TestClient, kind: str) -> None:
    key = upload(client, name="../../Größe & Test.kvtrace").json()["key"]
    response = client.get(f"/kvw/{key}/export/{kind}")
    assert response.status_code == 200
    name = response.headers["content-disposition"].split('"')[1]
    assert name == "gr-e-test" + KINDS[kind].ending
    assert int(response.headers["content-length"]) == len(response.content)
    with Recording.open(SAMPLES) as original:
        count = sum(1 for _ in original.events())
        if kind == "kvtrace":
            with Recording.open(response.content) as again:
                assert again.is_complete
                assert list(again.events()) == list(original.events())
                assert again.state_at(30) == original.state_at(30)
        elif kind == "html":
            assert response.text.startswith("<!DOCTYPE html>")
            assert len(response.content) < 8_000_000
        elif kind == "perfetto":
            assert len(response.json()["traceEvents"]) > original.num_steps
        elif kind == "csv":
            assert len(list(csv.reader(io.StringIO(response.text, newline="")))) == count + 1
        elif kind == "steps":
            assert len(list(csv.DictReader(io.StringIO(response.text)))) == original.num_steps
        else:
            import pandas as pd

            assert len(pd.read_parquet(io.BytesIO(response.content))) == count


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "too few"),
        (b"not a recording, but long enough to have a beginning", "Not a .kvtrace file"),
        (SAMPLES[:200], "ends within"),
        (b"\x89PNG\r\n" + bytes(500), "Not a .kvtrace file"),
        (SAMPLES[:40] + bytes([SAMPLES[40] ^ 1]) + SAMPLES[41:], "checksum"),
    ],
)
def test_files_that_are_no_recordings_are_refused_in_words(client: TestClient, data: bytes, words: str) -> None:
    response = upload(client, data)
    assert response.status_code == 422
    assert words in response.json()["error"]


def test_a_file_without_its_end_opens_up_to_there(client: TestClient) -> None:
    key = upload(client, SAMPLES[: len(SAMPLES) // 2]).json()["key"]
    meta = client.get(f"/kvw/{key}/meta").json()
    assert meta["damage"]
    assert 0 < meta["last"] < 56
    assert client.get(f"/kvw/{key}/frame", params={"step": meta["last"]}).status_code == 200


def test_a_step_that_is_damaged_is_an_error_and_others_are_not(client: TestClient) -> None:
    middle = len(SAMPLES) // 2
    key = upload(client, SAMPLES[:middle] + bytes([SAMPLES[middle] ^ 255]) + SAMPLES[middle + 1 :]).json().get("key")
    assert client.get(f"/kvw/{key}/frame", params={"step": 5}).status_code == 200
    late = client.get(f"/kvw/{key}/frame", params={"step": 55})
    assert late.status_code == 422
    assert "damaged" in late.json()["error"]


def test_too_large_a_file_is_refused_before_and_while_it_is_read(client: TestClient, store: ExploreStore) -> None:
    response = upload(client, bytes(700_000))
    assert response.status_code == 413
    assert "At most 586 KiB" in response.json()["error"]

    def pieces() -> Iterator[bytes]:  # without a length in the header
        for _ in range(100):
            yield bytes(10_000)

    assert client.post("/kvw/upload", content=pieces(), headers=FIRST).status_code == 413
    assert len(store) == 0


def test_a_file_that_does_not_arrive_gives_its_room_back() -> None:
    store = ExploreStore(Limits(upload_seconds=0.05, uploads_at_once=1))

    async def slow() -> AsyncIterator[bytes]:
        yield SAMPLES[:100]
        await asyncio.sleep(5)

    async def scenario() -> None:
        transport = httpx.ASGITransport(Starlette(routes=make_routes(None, store, EngineCollector())))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
            late = await client.post("/kvw/upload", content=slow(), headers=FIRST)
            assert late.status_code == 408
            assert "must have arrived after 0.05 s" in late.json()["error"]
            assert (await client.post("/kvw/upload", content=SAMPLES, headers=FIRST)).status_code == 201

    asyncio.run(scenario())
    store.close()


def test_other_sites_may_not_ask(client: TestClient) -> None:
    key = opened(client)
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        assert client.get(f"/kvw/{key}/meta", headers=headers).status_code == 403
        assert upload(client, **headers).status_code == 403
    own = {"Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "same-origin"}
    assert client.get(f"/kvw/{key}/meta", headers=own).status_code == 200
    assert upload(client, **{"X-KVW-Visitor": "no spaces!"}).status_code == 400


def test_the_gallery_lists_and_opens(client: TestClient) -> None:
    items = client.get("/kvw/gallery").json()["items"]
    assert [item["name"] for item in items] == list(ITEMS)
    assert all(item["steps"] > 20 and item["bytes"] <= 500_000 and item["words"] for item in items)
    assert opened(client) == opened(client)
    for name in ("../secret", "nothing"):
        assert client.post(f"/kvw/gallery/{name}").status_code in (404, 405)


def test_metrics_are_text_for_prometheus(client: TestClient) -> None:
    opened(client)
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "kv_workbench:app_explored_runs 1\n" in response.text


def test_no_path_of_a_client_is_opened(client: TestClient, tmp_path: Path) -> None:
    secret = tmp_path / "secret.kvtrace"
    secret.write_bytes(SAMPLES)
    for path in (f"/kvw/gallery/{secret}", f"/kvw/gallery/..%2f..%2f{secret.name}", f"/kvw/{secret}/meta"):
        assert client.post(path).status_code in (404, 405)
