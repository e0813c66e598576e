"""The app as its visitors meet it: in a real Chromium, and with many at once. Nothing inside the app is touched."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from workbench.benchmarks.app_host import (
    Server,
    chromium,
    cpu_seconds,
    high,
    load_words,
    megabytes,
    middle,
    resident_mb,
    table,
    verdict,
)
from workbench.benchmarks.app_large_map import draw_times
from workbench.benchmarks.app_page import Page, opened
from workbench.benchmarks.app_visitors import Seen, Watched, visitors, watchers
from workbench.commands.doctor import describe_machine

#: The aims of the app.
_UPDATES, _BYTES, _MAP_MS, _WAIT, _GROWTH_MB, _FILM, _NEXT_MS = 10.0, 10_000, 500.0, 3.0, 50.0, 5.0, 100.0
_MAP_PAGES = 100_000


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _start(browser: Any, **_: Any) -> str:
    """From opening the page to something that moves, and to a run; the model is not loaded yet."""
    rows = []
    for _turn in range(3):
        with Server() as server, opened(browser) as page:
            film = page.open(server.url, "f && f.film && KVW.stats.frames >= 2")
            was_loaded = server.loaded_at is not None
            page.press("run")
            run = page.passed("f.run > 0 && f.step >= 1", 180)
            rows.append((film, run, was_loaded))
    worst = max(film for film, _, _ in rows)
    cells = [[f"{film:.1f}", "yes" if loaded else "no", f"{run:.1f}"] for film, run, loaded in rows]
    return "\n\n".join(
        [
            "**Opening the page** of an app that has just been started, so that its model is still being loaded; the "
            f"three times in a row. Aim: something moves within {_FILM:.0f} s: {verdict(worst < _FILM)}.",
            table(
                ["seconds until the film moves", "model loaded by then", "until a run shows its first step"],
                cells,
            ),
        ]
    )


def _updates(browser: Any, seconds: float, **_: Any) -> str:
    """Updates drawn and bytes sent, with two and with three engines."""
    cases = [
        ("two lanes", 128, "preset=overflow"),
        ("two lanes", 1024, "preset=overflow&pool=4096&block=4"),
        ("three lanes", 128, "preset=overflow&growing=1"),
        ("three lanes", 1024, "preset=overflow&pool=4096&block=4&growing=1"),
    ]
    rows = []
    with Server() as server:
        server.wait_for_model()
        for name, pages, query in cases:
            for pace in ("15 steps/s", "unlimited"):
                _say(f"updates: {name}, {pages} pages, {pace}")
                with opened(browser, listens=True) as page:
                    page.ready(f"{server.url}?{query}", pages)
                    page.rest(1)
                    if pace == "unlimited":
                        page.unlimited()
                    rows.append([name, f"{pages:,}", pace, *_drawn(server, page, seconds)])
                    _say(" | ".join(rows[-1]))
    return "\n\n".join(
        [
            f'**Updates** of the preset "A burst that overflows the pool", over {seconds:.0f} s from step 3 on, or as '
            f"long as both engines had work. Aims: at least {_UPDATES:.0f} updates a second, at most {_BYTES:,} "
            "characters each. *Painted* are screen refreshes that showed a new frame; *on the wire* is all that "
            "Gradio's stream brought, its own words included.",
            table(
                [
                    "",
                    "pages a side",
                    "speed",
                    "updates/s",
                    "painted/s",
                    "longest gap, s",
                    "ms to draw all",
                    "characters per update",
                    "bytes per update on the wire",
                    "resyncs",
                    "steps/s",
                    "server, cores busy",
                    "server's ms of processor time per step",
                ],
                rows,
            ),
        ]
    )


def _drawn(server: Server, page: Page, seconds: float) -> list[str]:
    page.press("run")
    page.passed("f.running && f.step > 3")
    page.rest(0.1)
    page.watch_paints()
    began, wire, step = page.counters(), page.wire, page.tab.evaluate("KVW.frame.step")
    used = cpu_seconds(server.pid)
    try:
        page.tab.wait_for_function(
            "() => KVW.frame.left.stats[0][1] === '0' || KVW.frame.right.stats[0][1] === '0'", timeout=1000 * seconds
        )
    except Exception as error:
        if "Timeout" not in type(error).__name__:
            raise  # otherwise both ran for all of the time
    ended, paints, last = page.counters(), page.paints(), page.tab.evaluate("KVW.frame.step")
    now = cpu_seconds(server.pid)
    busy = float("nan") if used is None or now is None else now - used
    wire = page.wire - wire
    page.press("pause")
    passed, frames = ended.at - began.at, max(1, ended.frames - began.frames)
    gaps = [b - a for a, b in pairwise(paints)]
    return [
        f"{frames / passed:.1f}",
        f"{len(paints) / passed:.1f}",
        f"{max(gaps, default=float('nan')):.2f}",
        f"{(ended.frame_ms - began.frame_ms) / frames:.1f}",
        f"{(ended.characters - began.characters) / frames:,.0f}",
        f"{wire / frames:,.0f}",
        str(ended.resyncs),
        f"{(last - step) / passed:.1f}",
        f"{busy / passed:.2f}",
        f"{1000 * busy / max(1, last - step):.0f}",
    ]


def _map(browser: Any, **_: Any) -> str:
    times = draw_times(browser, _MAP_PAGES)
    worst = max(max(values) for values in times.values())
    rows = [[what, f"{middle(values):.0f}", f"{max(values):.0f}"] for what, values in times.items()]
    return "\n\n".join(
        [
            f"**A page map of {_MAP_PAGES:,} pages**, from the call until it is painted, five times each. Aim: less "
            f"than {_MAP_MS:.0f} ms: {verdict(worst < _MAP_MS)}.",
            table(["what", "ms, median", "ms, most"], rows),
        ]
    )


def _watchers(browser: Any, count: int, seconds: float, **_: Any) -> str:
    """A shared run, with nobody and with many who watch."""
    with Server() as server, opened(browser) as page:
        server.wait_for_model()
        page.ready(f"{server.url}?preset=overflow", 128)
        page.rest(1)
        page.press("run")
        page.passed("f.running && f.step > 3")
        page.press("share")
        code = page.tab.locator("[data-role=shared] strong").first.inner_text(timeout=30_000)
        alone = _busy(server, page, seconds)
        crowd = watchers(server.url, code, count, seconds)
        together = _busy(server, page, seconds)
        seen: list[Watched] = crowd.result()
    waits = [wait for one in seen for wait in one.waits]
    messages = sum(one.messages for one in seen)
    size = sum(one.characters for one in seen) / max(1, messages)
    longest = max((max(one.waits, default=float("inf")) for one in seen), default=float("inf"))
    row = [
        f"{count}",
        f"{longest:.2f}",
        f"{middle(waits):.2f}",
        f"{messages / max(1, count) / seconds:.1f}",
        f"{size:,.0f}",
        alone[0],
        together[0],
        alone[1],
        together[1],
    ]
    return "\n\n".join(
        [
            f"**A class watches one run**, over the stream of its own, for {seconds:.0f} s; all were let in: "
            f"{'yes' if all(one.status == 200 for one in seen) else 'no'}. Aim: nobody waits more than {_WAIT:.0f} s "
            f"for an update: {verdict(longest <= _WAIT)}.",
            table(
                [
                    "watchers",
                    "longest wait, s",
                    "median wait, s",
                    "updates/s each",
                    "characters per update",
                    "server, cores busy, nobody watching",
                    "with them",
                    "teacher's updates/s, nobody watching",
                    "with them",
                ],
                [row],
            ),
        ]
    )


def _busy(server: Server, page: Page, seconds: float) -> tuple[str, str]:
    """Cores that the server keeps busy, and updates per second that the page draws."""
    began, used = page.counters(), cpu_seconds(server.pid)
    page.rest(seconds)
    ended, now = page.counters(), cpu_seconds(server.pid)
    passed = ended.at - began.at
    cores = "-" if used is None or now is None else f"{(now - used) / passed:.2f}"
    return cores, f"{(ended.frames - began.frames) / passed:.1f}"


def _visitors(browser: Any, count: int, seconds: float, **_: Any) -> str:
    """Many at once, each with engines of its own; one of them is the browser."""
    with Server() as server, opened(browser) as page:
        server.wait_for_model()
        page.ready(f"{server.url}?preset=overflow", 128)
        page.rest(1)
        before = resident_mb(server.pid)
        crowd = visitors(server.url, count - 1, seconds, server.pid)
        page.press("run")
        page.passed("f.running && f.run > 0", 120)
        page.watch_paints()
        began, used = page.counters(), cpu_seconds(server.pid)
        page.rest(seconds - 5)
        ended, now = page.counters(), cpu_seconds(server.pid)
        paints = [began.at, *page.paints(), ended.at]
        during = resident_mb(server.pid)
        seen: list[Seen] = crowd.result()
    gap = max(b - a for a, b in pairwise(paints))
    longest = [max([*one.waits, *one.first], default=float("inf")) for one in seen]
    waits = [wait for one in seen for wait in one.waits]
    foreign, lost = sum(one.foreign for one in seen), sum(one.lost for one in seen)
    errors = [error for one in seen for error in one.errors]
    frames = sum(one.frames for one in seen)
    cores = "-" if used is None or now is None else f"{(now - used) / (ended.at - began.at):.2f}"
    rows = [
        ["time to the first update, s, median and longest", *_pair([t for one in seen for t in one.first])],
        ["wait between two updates, s, median and longest", *_pair(waits)],
        [
            "processor time that the server used meanwhile, s, median and most",
            *_pair([work for one in seen for work in one.work]),
        ],
        ["each visitor's longest wait, s, median and longest", *_pair(longest)],
        [
            "the browser among them: updates/s, longest wait in s",
            f"{len(paints[1:-1]) / (ended.at - began.at):.1f}",
            f"{gap:.2f}",
        ],
        ["updates in all; of them with somebody else's prompts or pool", f"{frames:,}", str(foreign)],
        ["changes without their frame; errors", str(lost), str(len(errors))],
        ["steps/s of all HTTP visitors together; cores that the server keeps busy", f"{frames / seconds:.0f}", cores],
        ["server's memory before and during, MB", megabytes(before), megabytes(during)],
        ["characters per update, whole stream", f"{sum(one.characters for one in seen) / max(1, frames):,.0f}", ""],
    ]
    words = f" Errors: {'; '.join(sorted(set(errors))[:3])}." if errors else ""
    calm = [one for one in longest if one <= _WAIT]
    return "\n\n".join(
        [
            f"**{count} visitors at once**, each with a run of its own, for {seconds:.0f} s at 15 steps a second: "
            f"{count - 1} speak Gradio's protocol over HTTP from a process on the same machine, one is Chromium. Each "
            "has prompts, a pool, a block size and a seed of its own, and looks whether every update shows these. Who "
            f"is through begins again. Aim: nobody waits more than {_WAIT:.0f} s for an update: "
            f"{verdict(len(calm) == len(longest) and gap <= _WAIT)} ({len(calm)} of {len(longest)} HTTP visitors "
            f"never did). Nobody sees another's pages: {verdict(foreign == 0)}.{words}",
            table(["", "", ""], rows),
        ]
    )


def _pair(values: Sequence[float]) -> tuple[str, str]:
    return f"{middle(values):.2f}", f"{max(values, default=float('nan')):.2f}"


def _memory(browser: Any, minutes: float, **_: Any) -> str:
    """What a tab keeps after a long time of runs."""
    samples = []
    with Server() as server, opened(browser) as page:
        server.wait_for_model()
        page.ready(f"{server.url}?preset=overflow", 128)
        page.rest(1)
        page.unlimited()
        page.run_again_and_again()
        count = max(2, round(minutes * 2))
        for turn in range(count + 1):
            if turn:
                page.rest(60 * minutes / count)
            found = page.memory()
            samples.append((turn * minutes / count, found, resident_mb(server.pid), page.counters().frames))
            state = page.tab.evaluate("[KVW.frame.run, KVW.frame.running, KVW.frame.step, KVW.frame.state, again.runs]")
            _say(f"memory: {samples[-1]} {state}")
        runs = page.stop_running()
    after = [sample for sample in samples if sample[0] >= min(1.0, minutes / 2)]
    first, last = after[0], after[-1]
    growth = last[1].heap_mb - first[1].heap_mb
    private = [sample[1].private_mb for sample in after]
    of_process = None if None in private else private[-1] - private[0]  # type: ignore[operator]
    shown = samples if len(samples) <= 12 else [*samples[:: len(samples) // 10], samples[-1]]
    rows = [
        [
            f"{at:.1f}",
            f"{found.heap_mb:.1f}",
            megabytes(found.private_mb),
            f"{found.nodes:,}",
            f"{found.listeners:,}",
            megabytes(server_mb),
            f"{frames:,}",
        ]
        for at, found, server_mb, frames in shown
    ]
    grown = max(growth, of_process if of_process is not None else growth)
    return "\n\n".join(
        [
            f"**Memory of the tab**, {minutes:g} minutes of running the same preset again and again at full speed "
            f"({runs} runs), each after a forced garbage collection. From minute {first[0]:.1f} on the script heap "
            f"grew by {growth:+.1f} MB, the tab's process by {megabytes(of_process)} MB. Aim: at most "
            f"{_GROWTH_MB:.0f} MB: {verdict(grown <= _GROWTH_MB)}.",
            table(
                [
                    "minute",
                    "script heap, MB",
                    "private memory of the tab's process, MB",
                    "DOM nodes",
                    "listeners",
                    "server's memory, MB",
                    "frames so far",
                ],
                rows,
            ),
        ]
    )


def _explore(browser: Any, recording_steps: int, **_: Any) -> str:
    """Steps in the tab Explore, from asking until painted."""
    from workbench.benchmarks.long_run import drive, make_engine
    from workbench.events import Recorder

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.kvtrace"
        _say(f"explore: recording {recording_steps:,} steps")
        llm = make_engine(1024, 16)
        with Recorder(llm.bus, path) as recorder:
            drive(llm, recording_steps, 175, lambda step: None)
        del recorder
        size = path.stat().st_size / 1e6
        llm.close()
        with Server(["--open", str(path)]) as server:
            server.wait_for_model()
            address = next(line for line in server.lines if "source=" in line).rpartition(": ")[2]
            cases = [
                ("bundled (128 pages)", f"{server.url}?tab=explore&recording=burst-paged"),
                (f"{recording_steps:,} steps of 1,024 + 512 pages ({size:,.0f} MB)", address),
            ]
            for name, url in cases:
                _say(f"explore: {name}")
                with opened(browser) as page:
                    page.tab.goto(url, wait_until="commit")
                    page.tab.wait_for_function(
                        "() => window.KVW && KVW.explore && KVW.explore.viewer && KVW.explore.viewer.frame",
                        timeout=120_000,
                    )
                    page.rest(2)
                    rows += _walks(page, name)
    worst = max(float(row[4]) for row in rows if "jump" not in row[1])
    return "\n\n".join(
        [
            "**The tab Explore**, from asking for a step until it is painted with all linked views. *Played*: with 100 "
            "ms between steps, so that frames come ahead. Aim: the next frame, in either direction, in less than "
            f"{_NEXT_MS:.0f} ms (95 %): {verdict(worst < _NEXT_MS)}.",
            table(["recording", "how", "steps", "ms, median", "95 %", "most"], rows),
        ]
    )


def _walks(page: Page, name: str) -> list[list[str]]:
    last = int(page.tab.evaluate("KVW.explore.source.meta().last"))
    start, count = last // 2, min(60, last // 4)
    forward = list(range(start + 1, start + count + 1))
    rng = random.Random(0)
    walks: list[tuple[str, list[int], int]] = [
        ("forward, as fast as it goes", forward, 0),
        ("back, as fast as it goes", [step - 2 * count for step in reversed(forward)], 0),
        ("forward, played", [step + count for step in forward], 100),
        ("back, played", [step - 4 * count // 2 for step in reversed(forward)], 100),
        ("random jumps", [rng.randint(0, last) for _ in range(30)], 0),
    ]
    rows = []
    for how, steps, gap in walks:
        steps = [min(last, max(0, step)) for step in steps]
        page.explore_times([steps[0]])
        times = page.explore_times(steps[1:], gap)
        rows.append([name, how, str(len(times)), f"{middle(times):.0f}", f"{high(times):.0f}", f"{max(times):.0f}"])
    return rows


_PARTS: dict[str, Callable[..., str]] = {
    "start": _start,
    "updates": _updates,
    "map": _map,
    "watchers": _watchers,
    "visitors": _visitors,
    "memory": _memory,
    "explore": _explore,
}


def run(visitors: int, minutes: float, seconds: float, recording_steps: int, only: Sequence[str] | None) -> str:
    """Measures the parts that are wanted, each with an app of its own, and returns the report as Markdown.

    Args:
        seconds: of a measurement that is none of ``minutes``.

    Raises:
        ValueError: no time to measure in.
        RuntimeError: a browser or playwright is missing, or the app does not start.
    """
    for name, value in (("minutes", minutes), ("seconds", seconds)):
        if not value > 0:
            raise ValueError(f"--{name} {value}: must be above 0")
    parts = [part for part in _PARTS if not only or part in only]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "gradio", "plotly", "playwright"))
    with chromium() as browser:
        report = [
            f"`workbench bench app`, {date.today().isoformat()}. {describe_machine()}. {packages}, Chromium "
            f"{browser.version}. Browser, visitors and app share the machine. Load (1 / 5 / 15 minutes) is that of "
            "the whole machine, other work included."
        ]
        for part in parts:
            _say(part)
            before = load_words()
            options = {
                "count": visitors,
                "minutes": minutes,
                "seconds": seconds,
                "recording_steps": recording_steps,
            }
            for attempt in (1, 2):
                try:
                    text = _PARTS[part](browser, **options)
                    break
                except Exception as error:  # the other parts are worth having all the same
                    words = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                    text = f"**{part}**: not measured, twice: {words}"
                    _say(f"attempt {attempt}: {words}")
            report.append(f"{text}\n\nLoad: {before} before, {load_words()} after.")
            _say(report[-1])
    return "\n\n".join(report)
