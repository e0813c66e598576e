"""What happens in the Lab when somebody presses or changes something. The request comes first: it tells whose run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from workbench_app.lab.desk import LabDesk, LabError, LabRun, Ticket
from workbench_app.lab.experiments import EXPERIMENTS, Experiment
from workbench_app.lab.findings import findings_json
from workbench_app.lab.measure import make_plan
from workbench_app.lab.settings import parse_lab
from workbench_app.settings import SettingError
from workbench_app.store import SessionStore
from workbench_app.tabs import Explanations, explained, tab_key
from workbench_app.words import message

_POLL_SECONDS = 0.25
#: Fields that are shown only where they matter, in the order of the page.
OPTIONAL = ("lengths", "pool_tokens", "block_size", "max_model_len", "link_mb")
#: Fields that an experiment brings its own first values for, in the order of the page.
FILLED = ("requests", *OPTIONAL)
NONE_BESIDE = 0
#: Errors that a visitor can do something about, beside those of a setting.
_EXPLANATIONS: Explanations = {LabError: ("Not now", str)}


def progress_json(ticket: Ticket | None, before: int = 0) -> str:
    """The line of progress: its state, the share done, words, and what is read aloud."""
    if ticket is None:
        return json.dumps({"state": "idle", "share": 0, "words": "", "live": ""})
    variants, requests = ticket.plan.variants, ticket.plan.settings.requests
    count = len(variants)
    share = min(1.0, (ticket.variant + ticket.requests_done / requests) / count)
    match ticket.state:
        case "waiting":
            words = live = f"Waiting: {before} before you." if before else "Starting."
        case "running":
            variant = variants[min(ticket.variant, count - 1)]
            live = f"Running {min(ticket.variant + 1, count)} of {count}: {variant.label}."
            words = f"{live} Step {ticket.step:,}, {ticket.requests_done} of {requests} requests done."
        case "done":
            share, live = 1.0, f"Done: {count} of {count} variants. The charts are below."
            words = live
        case _:
            words = live = ticket.note
    return json.dumps({"state": ticket.state, "share": round(share, 3), "words": words, "live": live})


def run_choices(runs: list[LabRun]) -> list[tuple[str, int]]:
    """Entries of the list of runs, newest first."""
    return [(run.title, run.number) for run in reversed(runs)]


def _experiment(name: Any) -> Experiment:
    if not isinstance(name, str) or name not in EXPERIMENTS:
        raise SettingError("Experiment", name, f"Allowed are {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]


class LabHandlers:
    """The tab's events."""

    def __init__(self, store: SessionStore, desk: LabDesk) -> None:
        self.store = store
        self.desk = desk

    async def run(self, request: gr.Request, *fields: Any) -> AsyncIterator[Any]:
        """Starts a run, and yields progress until it is over, then what it found. Waits without a thread."""
        key = tab_key(request)
        with explained(_EXPLANATIONS):
            settings = parse_lab(*fields)
            plan = await asyncio.to_thread(lambda: make_plan(self.store.model, settings))
            ticket = self.desk.submit(key, plan)
        told = ""
        while True:
            over = ticket.is_over
            line = progress_json(ticket, self.desk.look(ticket))
            if over:
                break
            if line != told:
                told = line
                yield line, gr.skip(), gr.skip(), gr.skip()
            await asyncio.sleep(_POLL_SECONDS)
        if ticket.run is None:
            yield line, gr.skip(), gr.skip(), gr.skip()
            return
        runs = self.desk.runs(key)
        beside = [("Nothing", NONE_BESIDE), *run_choices(runs)]
        yield (
            line,
            await asyncio.to_thread(findings_json, ticket.run),
            gr.update(choices=run_choices(runs), value=ticket.run.number, interactive=True),
            gr.update(choices=beside, value=NONE_BESIDE, interactive=len(runs) > 1),
        )

    def cancel(self, request: gr.Request) -> None:
        """Ends this visitor's run; what is finished is kept. `run` tells the page."""
        if not self.desk.cancel(tab_key(request)):
            gr.Info("Nothing of yours is running or waiting.", title="Lab")

    def show(self, request: gr.Request, number: Any, beside: Any) -> Any:
        """Another run was chosen, or one to be put beside it."""
        runs = {run.number: run for run in self.desk.runs(tab_key(request))}
        for field, value in (("Run shown", number), ("Beside it", beside or number)):
            if isinstance(value, bool) or value not in runs:
                allowed = f"Allowed are {', '.join(map(str, runs)) or 'none: nothing has been run in this tab'}."
                raise gr.Error(message(SettingError(field, value, allowed)), print_exception=False)
        other = runs[beside] if beside and beside != number else None
        return findings_json(runs[number], other)

    def choose(self, experiment: Any) -> Any:
        """Another experiment: its question, its values, and which of the fixed fields matter."""
        with explained(_EXPLANATIONS):
            chosen = _experiment(experiment)
        values = gr.update(
            choices=[(chosen.label(value), value) for value in chosen.values],
            value=list(chosen.start),
            label=f"{chosen.varied}: what is varied",
        )
        updates = []
        for name in FILLED:
            update: dict[str, Any] = {"visible": name == "requests" or name in chosen.uses}
            if name in chosen.defaults:
                update["value"] = chosen.defaults[name]
            updates.append(gr.update(**update))
        return (question_words(chosen), values, *updates)

    def drop(self, request: gr.Request) -> None:
        """The tab was closed or loaded again."""
        self.desk.drop(tab_key(request))


def question_words(experiment: Experiment) -> str:
    """The experiment's question, and what its requests are where they can't be chosen."""
    extra = f"\n\n*Requests:* {experiment.workload_words}" if experiment.workload_words else ""
    return experiment.question + extra
