"""What happens when somebody presses, drags or changes something. The request comes first: it tells whose session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from workbench_app.frame import preview_frame
from workbench_app.presets import PRESETS
from workbench_app.session import Session, SessionClosedError
from workbench_app.settings import SettingError, Settings, parse_settings, parse_speed, pool_words
from workbench_app.store import ServerFullError, SessionStore

_POLL_SECONDS = 0.02
_NO_RUN = "There is no run here: press Run or Step. (A run that nobody uses is closed after a while.)"
_CHANGED = "Settings have changed: Run or Step starts a new run with them."


def _key(request: gr.Request | None) -> str:
    return (request.session_hash if request is not None else None) or ""


@contextmanager
def _explained() -> Iterator[None]:
    """Turns the errors that a visitor can do something about into messages on the page."""
    try:
        yield
    except SettingError as error:
        raise gr.Error(str(error), title="Please check a setting", print_exception=False) from error
    except ServerFullError as error:
        raise gr.Error(str(error), title="All places are taken", print_exception=False) from error
    except SessionClosedError as error:
        raise gr.Error(_NO_RUN, title="The run was closed", print_exception=False) from error
    except MemoryError as error:
        raise gr.Error(f"Pool size: {error}", title="Not enough memory", print_exception=False) from error


class Handlers:
    """The page's events. Every method returns new values for the stage and for the line of hints."""

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self._watchers: dict[str, int] = {}
        self._pauses: dict[str, int] = {}

    def _prepare(self, request: gr.Request, settings: Settings) -> Session:
        with _explained():
            session = self.store.get(_key(request))
            session.prepare(settings)
        return session

    async def run(self, request: gr.Request, speed: Any, unlimited: Any, *fields: Any) -> AsyncIterator[Any]:
        """Starts a run or goes on with it, and yields frames until it pauses or ends.

        It waits without a thread, so that any number of visitors can watch at once. A newer call for the same tab
        takes over from an older one.
        """
        with _explained():
            settings = parse_settings(*fields)
            pace = parse_speed(speed, unlimited)
        key = _key(request)
        pauses = self._pauses.get(key, 0)

        def begin() -> Session:
            session = self._prepare(request, settings)
            if self._pauses.get(key, 0) == pauses:  # Pause may have been pressed while the engines were made
                with _explained():
                    session.start(pace)
            return session

        session = await asyncio.to_thread(begin)
        me = self._watchers[key] = self._watchers.get(key, 0) + 1
        shown = -1
        while self._watchers.get(key) == me:
            was_running = session.running
            number, frame = session.frame()
            if number != shown:
                shown = number
                yield frame, ""
            if not was_running:
                break
            await asyncio.sleep(_POLL_SECONDS)

    def step(self, request: gr.Request, *fields: Any) -> Any:
        """One step on; makes a run if there is none with these settings."""
        with _explained():
            settings = parse_settings(*fields)
        session = self._prepare(request, settings)
        with _explained():
            session.forward()
        return session.frame()[1], ""

    def pause(self, request: gr.Request) -> Any:
        """Stops after the present step."""
        self._pauses[_key(request)] = self._pauses.get(_key(request), 0) + 1
        return self._on_session(request, Session.pause)

    def back(self, request: gr.Request) -> Any:
        """One step back."""
        return self._on_session(request, Session.back)

    def scrub(self, request: gr.Request, event: gr.EventData) -> Any:
        """Shows the step that the bar was dragged to."""
        step = event._data.get("step") if isinstance(event._data, dict) else None
        if type(step) is not int:
            raise gr.Error(f"Step: {step!r} is not possible. Allowed are whole numbers.", print_exception=False)
        return self._on_session(request, lambda session: session.go_to(step))

    def _on_session(self, request: gr.Request, act: Callable[[Session], None]) -> Any:
        session = self.store.find(_key(request))
        if session is None or session.duel is None:
            return gr.skip(), _NO_RUN
        with _explained():
            act(session)
        return session.frame()[1], gr.skip()

    def reset(self, request: gr.Request, *fields: Any) -> Any:
        """Forgets the run and shows the settings as they are now."""
        with _explained():
            settings = parse_settings(*fields)
        key = _key(request)
        self._watchers[key] = self._watchers.get(key, 0) + 1  # whoever watches the old run shows nothing more of it
        self.store.drop(key)
        return preview_frame(settings, self.store.model.geometry), ""

    def set_speed(self, request: gr.Request, speed: Any, unlimited: Any) -> None:
        """Changes the speed of what runs."""
        with _explained():
            pace = parse_speed(speed, unlimited)
        if session := self.store.find(_key(request)):
            session.set_speed(pace)

    def changed(self, request: gr.Request, *fields: Any) -> Any:
        """A setting was changed. Says what the pool holds now, and what Run will do; nothing that runs is touched."""
        geometry = self.store.model.geometry
        try:
            settings = parse_settings(*fields)
        except SettingError as error:
            return gr.skip(), f"**{error}**", gr.skip()
        words = pool_words(settings.pool_tokens, settings.block_size, geometry.kv_bytes_per_token)
        session = self.store.find(_key(request))
        if session is None or session.duel is None:
            return preview_frame(settings, geometry), "", words
        return gr.skip(), "" if session.duel.settings == settings else _CHANGED, words

    def drop(self, request: gr.Request) -> None:
        """The tab was closed or loaded again."""
        self._watchers.pop(_key(request), None)
        self._pauses.pop(_key(request), None)
        self.store.drop(_key(request))


def choose_preset(name: Any) -> tuple[Any, ...]:
    """The settings of a preset, in the order in which the page fills them in."""
    preset = PRESETS.get(name) if isinstance(name, str) else None
    if preset is None:
        message = f"Preset: {name!r} is not possible. Allowed are {', '.join(PRESETS)}."
        raise gr.Error(message, print_exception=False)
    return (
        preset.point,
        preset.prompts,
        preset.output_tokens,
        preset.pool_tokens,
        preset.block_size,
        preset.max_model_len,
    )
