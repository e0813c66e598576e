"""What the handlers of all tabs share: whose browser tab asks, and errors that become messages on its page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import gradio as gr

from workbench_app.settings import SettingError
from workbench_app.words import message

#: Errors that a visitor can do something about: a title, and the words.
Explanations = Mapping[type[Exception], tuple[str, Callable[[Exception], str]]]

_SETTING: Explanations = {SettingError: ("Please check a setting", message)}


def tab_key(request: gr.Request | None) -> str:
    """Whose browser tab it is."""
    return (request.session_hash if request is not None else None) or ""


@contextmanager
def explained(explanations: Explanations) -> Iterator[None]:
    """Turns these errors, and those of a setting, into messages on the page. The first that fits counts."""
    known = {**_SETTING, **explanations}
    try:
        yield
    except tuple(known) as error:
        title, words = next(found for kind, found in known.items() if isinstance(error, kind))
        raise gr.Error(words(error), title=title, print_exception=False) from error
