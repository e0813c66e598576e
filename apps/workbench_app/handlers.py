"""What happens when somebody presses, drags or changes something. The request comes first: it tells whose session."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr

from workbench_app.frame import preview_frame
from workbench_app.links import read_link
from workbench_app.presets import FIELDS, PRESETS
from workbench_app.services import Services
from workbench_app.session import Session, SessionClosedError
from workbench_app.settings import SettingError, Settings, parse_settings, parse_speed, pool_words
from workbench_app.store import ServerFullError, SessionStore
from workbench_app.tabs import Explanations, explained, tab_key
from workbench_app.updates import encode
from workbench_app.words import message

_POLL_SECONDS = 0.02
_LINE_SECONDS = 0.5
_NO_RUN = "There is no run here: press Run or Step. (A run that nobody uses is closed after a while.)"
_TABS_LOCK = threading.Lock()
#: What choosing a preset leaves as it is: these are the visitor's own.
KEPT = ("policy", "seed")
_CHANGED = "Settings have changed: Run or Step starts a new run with them."


#: Errors that a visitor can do something about, beside those of a setting.
_EXPLANATIONS: Explanations = {
    ServerFullError: ("All places are taken", str),
    SessionClosedError: ("The run was closed", lambda error: _NO_RUN),
    MemoryError: ("Not enough memory", lambda error: f"Pool size: {error}"),
}


class RecentTabs(OrderedDict[str, int]):
    """A number for each tab. Those that nothing was heard of for longest are forgotten: a tab need not say goodbye."""

    most = 10_000

    def __setitem__(self, key: str, value: int) -> None:
        with _TABS_LOCK:
            super().__setitem__(key, value)
            self.move_to_end(key)
            if len(self) > self.most:
                del self[next(iter(self))]


class Handlers:
    """The page's events. Every method returns new values for the stage and for the line of hints."""

    def __init__(self, services: Services) -> None:
        self.store = services.sessions
        self._classroom = services.classroom
        self._plays_film = services.film.exists
        self._watchers, self._pauses, self._targets = RecentTabs(), RecentTabs(), RecentTabs()

    def _parse(self, fields: tuple[Any, ...]) -> Settings:
        with explained(_EXPLANATIONS):
            return parse_settings(*fields, limits=self.store.limits)

    def _prepare(self, request: gr.Request, settings: Settings, preset: Any = "") -> Session:
        session = self.store.get(tab_key(request))
        session.prepare(settings, preset if isinstance(preset, str) else "")
        return session

    async def run(
        self, request: gr.Request, speed: Any, unlimited: Any, preset: Any, *fields: Any
    ) -> AsyncIterator[Any]:
        """Starts a run or goes on with it, and yields frames until it pauses or ends.

        It waits without a thread, so that any number of visitors can watch at once. A newer call for the same tab
        takes over from an older one. If all places are taken, it waits for one, and says how many are before.
        """
        settings = self._parse(fields)
        with explained(_EXPLANATIONS):
            pace = parse_speed(speed, unlimited)
        async for shown in self._run(request, settings, preset, lambda session: session.start(pace)):
            yield shown

    async def _run(
        self, request: gr.Request, settings: Settings, preset: Any, start: Callable[[Session], None]
    ) -> AsyncIterator[Any]:
        key = tab_key(request)
        pauses = self._pauses.get(key, 0)
        me = self._watchers[key] = self._watchers.get(key, 0) + 1

        def begin() -> Session | ServerFullError:
            with explained(_EXPLANATIONS):
                try:
                    session = self._prepare(request, settings, preset)
                except ServerFullError as error:
                    return error
                if self._pauses.get(key, 0) == pauses:  # Pause may have been pressed while the engines were made
                    start(session)
            return session

        session = await asyncio.to_thread(begin)
        while isinstance(session, ServerFullError):
            yield gr.skip(), f"**Waiting for a place.** {session}"
            await asyncio.sleep(_LINE_SECONDS)
            if self._watchers.get(key) != me or self._pauses.get(key, 0) != pauses:
                yield gr.skip(), "Not waiting any more: press Run to ask for a place again."
                return
            with self.store.asking(key):
                session = await asyncio.to_thread(begin)
        shown = -1
        while self._watchers.get(key) == me:
            was_running = session.running
            number, _ = session.frame()
            if number != shown or not was_running:
                shown = number
                # The last one comes whole, so that whoever calls this from a program gets a frame and no change.
                yield session.message(whole=not was_running), ""
            if not was_running:
                break
            await asyncio.sleep(_POLL_SECONDS)

    def step(self, request: gr.Request, preset: Any, *fields: Any) -> Any:
        """One step on; makes a run if there is none with these settings."""
        settings = self._parse(fields)
        with explained(_EXPLANATIONS):
            session = self._prepare(request, settings, preset)
            session.forward()
        return session.message(whole=True), ""

    def pause(self, request: gr.Request) -> Any:
        """Stops after the present step."""
        self._pauses[tab_key(request)] = self._pauses.get(tab_key(request), 0) + 1
        return self._on_session(request, Session.pause)

    def back(self, request: gr.Request) -> Any:
        """One step back."""
        return self._on_session(request, Session.back)

    def scrub(self, request: gr.Request, event: gr.EventData) -> Any:
        """Shows the step that the bar was dragged to."""
        step = _data(event).get("step")
        if type(step) is not int:
            words = message(f"Step: {step!r} is not possible. Allowed are whole numbers.")
            raise gr.Error(words, print_exception=False)
        return self._on_session(request, lambda session: session.go_to(step))

    def act(self, request: gr.Request, event: gr.EventData) -> Any:
        """What the stage's own buttons and keys ask for: ``{"what": "live" | "resync" | "jump", ...}``."""
        data = _data(event)
        what = data.get("what")
        if what == "live":
            return self._on_session(request, Session.live)
        if what == "resync":
            return self._on_session(request, lambda session: None, whole=True)
        if what == "jump":
            kind, direction = data.get("kind"), 1 if data.get("direction") != -1 else -1
            session = self.store.find(tab_key(request))
            if session is None or session.duel is None:
                return gr.skip(), _NO_RUN
            try:
                with explained(_EXPLANATIONS):
                    found = session.jump(str(kind), direction)
            except ValueError as error:
                raise gr.Error(message(f"{error}."), print_exception=False) from error
            where = "after" if direction > 0 else "before"
            return session.message(), "" if found else f"Nothing of that kind ({kind}) {where} step {session.step}."
        words = message(f"what: {what!r} is not possible. Allowed are live, resync, jump.")
        raise gr.Error(words, print_exception=False)

    def _on_session(self, request: gr.Request, act: Callable[[Session], None], whole: bool = False) -> Any:
        session = self.store.find(tab_key(request))
        if session is None or session.duel is None:
            return gr.skip(), _NO_RUN
        with explained(_EXPLANATIONS):
            act(session)
        return session.message(whole), gr.skip()

    def reset(self, request: gr.Request, *fields: Any) -> Any:
        """Forgets the run and shows the settings as they are now."""
        settings = self._parse(fields)
        key = tab_key(request)
        self._watchers[key] = self._watchers.get(key, 0) + 1  # whoever watches the old run shows nothing more of it
        self.store.drop(key)
        return _preview(settings, self.store, is_reset=True), ""

    def set_speed(self, request: gr.Request, speed: Any, unlimited: Any) -> None:
        """Changes the speed of what runs."""
        with explained(_EXPLANATIONS):
            pace = parse_speed(speed, unlimited)
        if session := self.store.find(tab_key(request)):
            session.set_speed(pace)

    def changed(self, request: gr.Request, *fields: Any) -> Any:
        """A setting was changed. Says what the pool holds now, and what Run will do; nothing that runs is touched."""
        try:
            settings = parse_settings(*fields, limits=self.store.limits)
        except SettingError as error:
            return gr.skip(), f"**{message(error)}**", gr.skip()
        per_token = self.store.model.geometry.kv_bytes_per_token
        words = pool_words(settings.pool_tokens, settings.block_size, per_token)
        session = self.store.find(tab_key(request))
        if session is None or session.duel is None:
            return _preview(settings, self.store), "", words
        return gr.skip(), "" if session.duel.settings == settings else _CHANGED, words

    def share(self, request: gr.Request) -> Any:
        """Lets others watch this tab's run. The page says how, and how many do (``static/share.js``)."""
        try:
            self._classroom.share(tab_key(request))
        except KeyError:
            return gr.skip(), "There is no run to share yet: press Run or Step first."
        return self._on_session(request, lambda session: None)

    # -- links -----------------------------------------------------------------------------------------------------

    def open_link(self, request: gr.Request) -> Any:
        """The page was opened: fills in what its address says. Returns preset, its point, and all fields."""
        key = tab_key(request)
        query = dict(getattr(request, "query_params", None) or {})
        try:
            found = read_link(query)
            if found is not None:
                parse_settings(*found[1].values(), limits=self.store.limits)
        except SettingError as error:
            gr.Warning(f"{message(error)} The page shows its usual beginning instead.", title="This link does not work")
            found = None
        if found is None:
            return tuple(gr.skip() for _ in range(2 + len(FIELDS)))
        preset, fields, step = found
        if "step" in query:
            self._targets[key] = step
        return (preset, PRESETS[preset].point, *(fields[name] for name in FIELDS))

    async def run_link(self, request: gr.Request, preset: Any, *fields: Any) -> AsyncIterator[Any]:
        """Runs to the step that the address named, if it did."""
        step = self._targets.pop(tab_key(request), None)
        if step is None:
            yield gr.skip(), gr.skip()
            return
        settings = self._parse(fields)

        def start(session: Session) -> None:
            if step:
                session.start(stop_at=step)

        async for shown in self._run(request, settings, preset, start):
            yield shown

    def opened(self, request: gr.Request, *fields: Any) -> Any:
        """The page is there: says what the pool holds. This waits until the model is loaded."""
        shown, hint, words = self.changed(request, *fields)
        return (shown if not self._plays_film else gr.skip()), hint, words

    def drop(self, request: gr.Request) -> None:
        """The tab was closed or loaded again."""
        for table in (self._watchers, self._pauses, self._targets):
            table.pop(tab_key(request), None)
        self.store.drop(tab_key(request))


def _data(event: gr.EventData) -> dict[str, Any]:
    return event._data if isinstance(event._data, dict) else {}


def _preview(settings: Settings, store: SessionStore, is_reset: bool = False) -> str:
    frame = preview_frame(settings, store.model.geometry, reset=is_reset)
    return encode({"id": "preview", "frame": frame})


def choose_preset(name: Any) -> tuple[Any, ...]:
    """The settings of a preset, in the order in which the page fills them in: its point, then all fields."""
    preset = PRESETS.get(name) if isinstance(name, str) else None
    if preset is None:
        words = message(f"Preset: {name!r} is not possible. Allowed are {', '.join(PRESETS)}.")
        raise gr.Error(words, print_exception=False)
    return (preset.point, *(preset.fields[field] for field in FIELDS if field not in KEPT))
