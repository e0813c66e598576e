# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11. Observability
#
# **Question.** A user says: "Yesterday at noon my answer stopped in the middle of a sentence for a while, and then went on." Can
# you find out afterwards what happened to the memory of this request, and why?
#
# You will read what an engine says about itself, rebuild its state from that alone, go back in time in a recording, look at a
# run in a trace viewer, and find out what a server's "memory usage" gauge does not say. About 35 minutes.
#
# You need lesson 3 (pages, block tables) and one thing from lesson 7: when a running request needs a page and none is free, one
# request is *preempted*. It gives all its pages back, waits, and later its tokens are computed again.

# %%
import tempfile
from collections import Counter
from pathlib import Path

from workbench import Recorder, Recording, views
from workbench.course import check, hint, predict, progress, quiz, reveal, show_source
from workbench.course.lessons import lesson11
from workbench.events import types as ev
from workbench.events.words import describe

# %% [markdown]
# ## Events
#
# Every change of KV memory in our engine is one **event**: a small record with a type, the step, and, wherever memory
# changes, a **cause**. Each step returns its events as one batch. Here are six requests in a pool that is too small for all.

# %%
llm = lesson11.busy_engine()
batch = llm.step()
print(len(batch.events), "events in step", batch.step)
next(event for event in batch.events if isinstance(event, ev.BlockAllocated))

# %% [markdown]
# `describe` says an event in words. Here are some of them. (Text writes numbers of requests; pictures write letters: A is request
# 0, B is request 1. Every request here has one sequence, with the same number.)

# %%
for event in batch.events[-12:]:
    print(describe(event, llm.page_map))

# %%
Counter(type(event).__name__ for event in batch.events).most_common()

# %% [markdown]
# Whoever wants to know subscribes to the engine's **event bus**, and gets each step's batch at its end. The engine does not
# know who listens, and a listener that fails does not disturb it.

# %%
seen = []
with llm.bus.subscribe(seen.append):
    llm.step()
    llm.step()
[(batch.step, len(batch.events)) for batch in seen]

# %% [markdown]
# ## Exercise 11.1: the state, from events alone
#
# If every change is an event, the state after step n can be rebuilt from the events up to step n. Do it for the block
# tables: go through the events in order and keep, for each sequence, its list of physical pages.
#
# Two types matter here: `ev.BlockAllocated` (a free page became the next page of a sequence) and `ev.BlockReleased` (a
# sequence gave a page up). Both have `.sequence` and `.block`. Preempted requests release their pages, too, and get others
# later. A sequence that has no page any more may keep an empty list or be left out.

# %%
def fold(events):
    """Block tables after these events: {sequence: [physical pages in logical order]}."""
    tables = {}
    ### BEGIN SOLUTION
    for event in events:
        if isinstance(event, ev.BlockAllocated):
            tables.setdefault(event.sequence, []).append(event.block)
        elif isinstance(event, ev.BlockReleased):
            tables[event.sequence].remove(event.block)
    ### END SOLUTION
    return tables


check("11.1", fold)

# %% [markdown]
# Computing a state from a list of events like this is called a *fold*; what does it is a *reducer*. The whole workbench is
# built on one: `PageMap`. All pictures of the course are drawn from a `PageMap`, and never from the engine. The project's
# tests compare it with the engine's own books after every step. This is how it takes an event. `_HANDLERS` has a function
# for each type; `seq` counts the events, so that none can get lost unnoticed:

# %%
from workbench.events import PageMap

show_source(PageMap.apply)

# %% [markdown]
# ## Recordings
#
# So a file with all events is as good as having been there. A `Recorder` writes one.
#
# - **11.a** The run has six requests and a few dozen steps. How large is the recording, in bytes *per event*?

# %%
predict("11.a", None, unit="bytes")

# %%
folder = Path(tempfile.mkdtemp())
llm = lesson11.busy_engine(seed=1)
with Recorder(llm.bus, folder / "run.kvtrace"):
    while llm.has_unfinished:
        llm.step()
recording = Recording.open(folder / "run.kvtrace")
recording.num_steps

# %%
count = sum(1 for event in recording.events())
size = (folder / "run.kvtrace").stat().st_size
print(f"{count} events, {size:,} bytes")
reveal("11.a", round(size / count), "bytes")

# %% [markdown]
# That includes a snapshot of the state at every 64th step. Thanks to these snapshots, going to any step takes only the events
# since the last snapshot, however long the recording is.

# %%
for step in (20, 3, 12):
    state = recording.state_at(step)
    print(f"step {step}: running {state.running}, waiting {state.waiting}, free pages {state.free_list()}")

# %% [markdown]
# Forwards or backwards makes no difference: nothing is run again. A recording that was cut off, by a crash for instance, opens
# up to its last whole step.
#
# ## Exercise 11.2: who had to give way?
#
# Back to the user whose answer stopped. Find all preemptions of a recording: `ev.RequestPreempted` has the fields `.step`,
# `.request` and `.tokens_lost` (stored tokens that have to be computed again).

# %%
def preemptions(recording):
    """A list of (step, request, tokens lost), in order."""
    ### BEGIN SOLUTION
    found = [event for event in recording.events() if isinstance(event, ev.RequestPreempted)]
    return [(event.step, event.request, event.tokens_lost) for event in found]
    ### END SOLUTION


check("11.2", preemptions)

# %% [markdown]
# An event says *why*, too. Here is the first preemption of our run in words, and then the life of the request that was hit.

# %%
first = next(event for event in recording.events() if isinstance(event, ev.RequestPreempted))
describe(first, recording.state_at(first.step))

# %%
views.request_life_view(recording, first.request).figure

# %% [markdown]
# And the other way round: everything that happened to one page.

# %%
views.page_life_view(recording, 3).figure

# %% [markdown]
# Now step through it. Click into the stepper; the key `p` jumps to the next preemption, Shift and `p` to the one before. What
# did the pages of the preempted request become?

# %%
from workbench.widgets import Stepper

Stepper(recording, step=max(1, first.step - 1))

# %% [markdown]
# For anything else, events are a table. Which causes made pages change hands?

# %%
table = recording.to_pandas()
table[table["type"] == "BlockAllocated"].groupby("cause").size()

# %% [markdown]
# ## A trace viewer
#
# Where did the *time* go? Engineers look at that in trace viewers: Perfetto (ui.perfetto.dev) or Chrome's about:tracing. Both
# open a file in the browser, without uploading it. In the file each request is a row with its phases, each step a bar with its
# parts, and counters run beside them.

# %%
import json

from workbench.events.perfetto import write_perfetto

with (folder / "run.json").open("w", encoding="utf-8") as file:
    write_perfetto(recording, file)
records = json.loads((folder / "run.json").read_text(encoding="utf-8"))["traceEvents"]
[(r["name"], r["dur"]) for r in records if r.get("cat") == "step"][:8]

# %% [markdown]
# The durations are measured, in microseconds. From the shell: `workbench export run.kvtrace --to perfetto`; also `html` (a file
# that steps both ways in any browser), `csv` and `parquet`.
#
# ## Metrics
#
# A recording answers questions about one run. A server that runs for months is watched by **metrics**: a few numbers that a
# program called Prometheus fetches every few seconds from the address `/metrics`. A *counter* only grows (tokens generated so
# far), a *gauge* goes up and down (requests that run now).
#
# vLLM, a server that many people use, exports the gauge `vllm:kv_cache_usage_perc`, the "fraction of used KV cache blocks
# (0-1)" (its `docs/design/metrics.md`). Ours has the same meaning under the same name, with another prefix. We run eight
# short prompts on 12 pages of 16 slots.

# %%
llm = lesson11.half_empty_engine()
registry = lesson11.watched(llm)
batch = llm.step()
samples = lesson11.exported(registry)
f"kv_cache_usage_perc = {samples['kv_cache_usage_perc']:.3f}"

# %% [markdown]
# Two thirds of the memory are "used".
#
# - **11.b** How many percent of the *slots* hold a token at this moment?

# %%
predict("11.b", None, unit="%")

# %%
tokens = samples["kv_slots{token_states}"]
total = sum(value for name, value in samples.items() if name.startswith("kv_slots{"))
reveal("11.b", round(100 * tokens / total, 1), "%")

# %%
views.page_map_view(llm.page_map, color_by="fill").figure

# %% [markdown]
# The gauge counts pages. A page with 8 tokens in its 16 slots counts as used, all of it: nobody else can have it. So the gauge
# says how much memory is *given out*, and nothing of how much *does its work*. While this workbench was planned, a vLLM server's
# gauge was seen to read 66.7 % at a moment when 36.5 % of its slots held a token. The eight prompts above re-make that moment.
# Both numbers are true. They answer different questions:
#
# - "Can another request come in?": pages, the gauge.
# - "Is the block size right, where does memory go?": slots. Our engine exports them as `kv_slots`.

# %%
{name: value for name, value in samples.items() if name.startswith(("kv_slots", "kv_pages{"))}

# %% [markdown]
# ## Exercise 11.3: two kinds of used
#
# Compute both shares from a `PageMap`: pages that requests hold, of all pages, and slots with a token, of all slots.
#
# A page of `page_map.pages` has a reference count, `.ref_count` (how many sequences use it; several can share a page, lesson
# 6), and `.filled` (slots with a token). A page that nobody uses (`ref_count` 0) may still hold tokens: the prefix cache keeps
# it, in case that another text begins alike (lesson 6). It counts for neither share, because anybody can have it. The pool
# has `page_map.num_slots` slots.

# %%
def usage(page_map):
    """(share of pages that requests hold, share of slots with a token of theirs)"""
    ### BEGIN SOLUTION
    held = [page for page in page_map.pages if page.ref_count > 0]
    return len(held) / len(page_map.pages), sum(page.filled for page in held) / page_map.num_slots
    ### END SOLUTION


check("11.3", usage)

# %% [markdown]
# These names are exported by vLLM, too, with the same meaning (there behind `vllm:`, here behind `kv_workbench:`; Prometheus
# writes `_total` behind the names of counters). The second list has names that only we export. For some of them vLLM has
# something similar: `request_prefill_kv_computed_tokens`, for instance, beside our `prefill_tokens_computed`.

# %%
print("as in vLLM:", ", ".join(lesson11.AS_IN_VLLM))
print("only here:", ", ".join(lesson11.our_names()))

# %% [markdown]
# One rule for metrics: nothing about a single request or a user becomes a label. Metrics are sums, and often seen by many. What
# happened to *one* request is in the events.
#
# ## What does watching cost?
#
# An observer that slows the engine down shows another engine. On the machine of `docs/benchmarks.md` ("The engine on a CPU")
# delivering and recording events takes 0.75 % of the time, measured directly; making them about 0.5 % more, estimated from
# their number.
#
# ## What the paper says, what we saw
#
# - Kwon et al. (SOSP 2023) say of every slot what became of it, after the fact: token states, reservation, internal and external
#   fragmentation (Fig. 2). A usage gauge can't be split like that; our events can, which is how lesson 2 re-made the figure.
# - The paper preempts whole requests, the last come first (section 4.5). You saw who, when, why, and what it cost.
#
# ## Questions without end
#
# Each is about a recording of a real run; `Recording.open(lesson11.recorded(0))` opens number 0. The number behind `seed=`
# makes the question: the same number, the same question. Without buttons, in a terminal for instance, use
# `quiz("11", seed=0).answer(...)` and `.solution()`.

# %%
from workbench.widgets import QuizBox

QuizBox(quiz("11", seed=0))

# %%
progress(11)

# %% [markdown]
# ## Links
#
# - Words: *event*, *cause*, *recording*, *page map*, *preemption* in the glossary (`workbench.glossary.find("event")`).
# - `docs/grafana/README.md`: all metrics, and a dashboard. `docs/design.md`: "Events and recordings", "Going back in time".
# - `workbench app --open run.kvtrace` shows a recording in the app's tab Explore.
