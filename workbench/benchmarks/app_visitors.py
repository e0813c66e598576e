"""Visitors without a browser: they speak Gradio's protocol to the app, or watch a shared run, many at once."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from workbench.benchmarks.app_host import cpu_seconds
from workbench.views.delta import patch

_MARK = "Visitor {:02d}: "
_ENDINGS = (
    "the lighthouse keeper had one daughter, and every evening she",
    "a tailor who could not sleep went out, because",
    "on the last night of the fair the clockmaker saw a stranger who",
    "beyond the mill there stood a house that nobody",
    "when the snow had covered the village, the two brothers",
    "the captain looked at the map for a long time before he",
    "a little fox lived under the roots of an oak, and",
    "the road divided in the middle of the forest, and",
)


@dataclass
class Seen:
    """What one visitor saw.

    Attributes:
        first: seconds from asking to the first frame of a run, for each run.
        waits: seconds between two frames while a run went on, and ``work``: processor time of the server in each.
        characters: of all messages; ``frames``: new frames among them.
        foreign: frames that showed somebody else's prompts or pool; ``lost``: changes to a frame that was not there.
        errors: what the server refused.
    """

    first: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    frames: int = 0
    characters: int = 0
    foreign: int = 0
    lost: int = 0
    runs: int = 0
    steps: int = 0
    errors: list[str] = field(default_factory=list)


class Form:
    """The page's settings, as `/config` tells them, and the numbers of its functions."""

    def __init__(self, config: dict[str, Any]) -> None:
        components = {c["id"]: c["props"] for c in config["components"]}
        self._functions = {d["api_name"]: d for d in config["dependencies"] if d.get("api_name")}
        self._labels = [str(components[i].get("label") or "") for i in self._functions["run"]["inputs"]]
        self._values = [components[i].get("value") for i in self._functions["run"]["inputs"]]

    def number(self, name: str) -> int:
        """Gradio's number of a function."""
        return int(self._functions[name]["id"])

    def filled(self, **values: Any) -> list[Any]:
        """The inputs of "run", with some others: by the first word of a label, in lower case."""
        unknown = set(values)
        filled = []
        for label, value in zip(self._labels, self._values, strict=True):
            word = label.split()[0].lower() if label else ""
            unknown.discard(word)
            filled.append(values.get(word, value))
        if unknown:
            raise ValueError(f"the page has no setting {', '.join(sorted(unknown))}: its labels are {self._labels}")
        return filled


class Visitor:
    """One tab of a browser: a session of its own, and one stream on which all answers arrive."""

    def __init__(self, client: Any, url: str, form: Form, number: int, pid: int | None = None) -> None:
        self.seen = Seen()
        self.mark = _MARK.format(number)
        self.slots = 1024 + 256 * (number % 5)
        self.block_size = (8, 16, 32)[number % 3]
        self._client, self._url, self._form, self._number = client, f"{url}gradio_api/queue/", form, number
        self._pid = pid
        self._session = secrets.token_hex(6)
        self._name = ""
        self._frame: dict[str, Any] = {}
        self._last: float | None = None

    async def stay(self, until: float) -> None:
        """Runs, and runs again with another seed, until ``time.monotonic`` says so."""
        while time.monotonic() < until:
            lengths = random.Random(self._number * 1000 + self.seen.runs)
            prompts = "\n".join(f"{self.mark}{words} | {lengths.randint(60, 150)}" for words in _ENDINGS)
            values = {"seed": self._number * 1000 + self.seen.runs, "pool": self.slots, "block": self.block_size}
            inputs = self._form.filled(prompts=prompts, speed=15, **values)
            self._last = None
            asked, used = time.monotonic(), 0.0
            step = 0
            async for frame in self._call("run", inputs, until):
                now = time.monotonic()
                if frame is None:
                    continue
                if self._last is None:
                    self.seen.first.append(now - asked)
                elif frame["running"] or frame["step"] != step:
                    self.seen.waits.append(now - self._last)
                    self.seen.work.append(self._used() - used)
                self._last, used = now, self._used()
                step = frame["step"]
                self.seen.frames += 1
                self._check(frame)
            if self.seen.errors:
                return
            self.seen.runs += 1
            self.seen.steps += step
            if self._last is not None and time.monotonic() >= until:
                self.seen.waits.append(until - min(until, self._last))  # somebody who waits for ever waits, too
        async for _ in self._call("pause", [], time.monotonic() + 20):
            pass

    def _used(self) -> float:
        return (cpu_seconds(self._pid) or 0.0) if self._pid is not None else 0.0

    def _check(self, frame: dict[str, Any]) -> None:
        whose = all(row[1].startswith(self.mark) for row in frame["requests"])
        pool = [frame[side]["map"]["blocks"] * frame[side]["map"]["block_size"] for side in ("left", "right")]
        sizes = [frame["left"]["map"]["block_size"]]
        if not whose or pool != [self.slots] * 2 or sizes != [self.block_size]:
            self.seen.foreign += 1

    async def _call(self, name: str, inputs: list[Any], until: float) -> AsyncIterator[dict[str, Any] | None]:
        """Frames that a function sends."""
        body = {"data": inputs, "fn_index": self._form.number(name), "session_hash": self._session}
        answer = await self._client.post(f"{self._url}join", json=body)
        if answer.status_code != 200:
            self.seen.errors.append(f"{name}: {answer.status_code} {answer.text[:120]}")
            return
        generated: str | None = None
        async with self._client.stream("GET", f"{self._url}data", params={"session_hash": self._session}) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data:"):
                    self.seen.characters += len(line)
                    message = json.loads(line[5:])
                    kind = message["msg"]
                    data = (message.get("output") or {}).get("data") or []
                    if kind == "process_generating" and message.get("success", True) and data:
                        generated = data[0] if generated is None else _changed(generated, data[0])
                        yield self._receive(generated)
                    elif kind == "process_completed":
                        if not message.get("success", True):
                            self.seen.errors.append(f"{name}: {message['output'].get('error')}"[:200])
                        return
                if time.monotonic() > until:
                    return

    def _receive(self, text: Any) -> dict[str, Any] | None:
        """The frame that a message makes, if it is a new one."""
        if not isinstance(text, str):
            return None
        message = json.loads(text)
        if message["id"] == self._name:
            return None
        if "frame" in message:
            self._frame = message["frame"]
        elif message["base"] == self._name:
            self._frame = patch(self._frame, message["patch"])
        else:
            self.seen.lost += 1
            return None
        self._name = message["id"]
        return self._frame


def _changed(old: str, edits: Any) -> Any:
    """Gradio's own changes to one text."""
    for action, path, value in edits:
        if path:
            raise ValueError(f"a change at {path} to what should be one text")
        old = old + value if action == "append" else value
    return old


@dataclass
class Watched:
    """What one who watches a shared run got."""

    waits: list[float] = field(default_factory=list)
    messages: int = 0
    characters: int = 0
    status: int = 0


async def _watch(client: Any, url: str, seconds: float) -> Watched:
    watched = Watched()
    until = time.monotonic() + seconds
    async with client.stream("GET", url) as stream:
        watched.status = stream.status_code
        last = time.monotonic()
        async for line in stream.aiter_lines():
            now = time.monotonic()
            if line.startswith("data:"):
                watched.characters += len(line)
                watched.messages += 1
                watched.waits.append(now - last)
                last = now
            if now > until:
                break
    return watched


class Crowd:
    """Visitors or watchers on a thread of their own, so that a browser can be driven meanwhile."""

    def __init__(self, work: Any) -> None:
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Any) -> None:
        try:
            self._result = asyncio.run(work)
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        """Waits for the end, and returns what was seen."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result


def _client() -> Any:
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(timeout=httpx.Timeout(120.0), limits=limits)


def visitors(url: str, count: int, seconds: float, pid: int | None = None) -> Crowd:
    """So many visitors at once, each with a run; the result is a list of `Seen`.

    Args:
        pid: of the server, to see how much it worked while they waited.
    """

    async def come() -> list[Seen]:
        async with _client() as client:
            form = Form((await client.get(f"{url}config")).json())
            everybody = [Visitor(client, url, form, number, pid) for number in range(count)]
            until = time.monotonic() + seconds
            await asyncio.gather(*(visitor.stay(until) for visitor in everybody))
            return [visitor.seen for visitor in everybody]

    return Crowd(come())


def watchers(url: str, code: str, count: int, seconds: float) -> Crowd:
    """So many who watch a shared run; the result is a list of `Watched`."""

    async def come() -> list[Watched]:
        async with _client() as client:
            return list(
                await asyncio.gather(*(_watch(client, f"{url}kvw/watch/{code}", seconds) for _ in range(count)))
            )

    return Crowd(come())
