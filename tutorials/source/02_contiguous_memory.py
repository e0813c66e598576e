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
# # 2. Contiguous memory and its waste
#
# **Question.** When a request starts, nobody knows how long its output will be. How much memory should a server set aside for
# its keys and values, and how much of that will ever be used?
#
# Until 2023 servers kept the KV cache of a request in one unbroken piece. You will run three ways to do that on a real engine,
# judge every slot of memory at every step, and re-make the figure with which the PagedAttention paper begins. About 35
# minutes.
#
# You need from lesson 1: the *KV cache* keeps the keys and values of all tokens so far; every token takes the same number of
# bytes.

# %%
from workbench import views
from workbench.course import check, hint, predict, progress, quiz, reveal, show_source
from workbench.course.lessons import lesson02
from workbench.events.waste import measure_waste

# %% [markdown]
# ## Words
#
# - A **slot** is the room for one token's keys and values, in all layers. From here on we count memory in slots.
# - A **request** is a prompt that somebody sent. A server works in **steps**: in each step every request that runs gets one
#   more token. (In its first step, its whole prompt is computed.) A request that finds no memory **waits** in a queue.
# - A **region** is the unbroken run of slots that a request holds, from its first step to its last. A program that wants to
#   use plain tensors needs it: a tensor lies in one piece. It cannot grow, because what follows it belongs to somebody
#   else.
#
# So the size is decided at the start. The paper compares three rules (section 6.1):
#
# - **Max** reserves for the longest sequence that is allowed at all.
# - **Pow2** reserves the prompt, and the output's length rounded up to a power of two, as if it could be guessed to within
#   a factor of two.
# - **Oracle** reserves exactly what the request will store. No real server can know that.
#
# ## A burst of requests
#
# 24 requests come at once. The memory for all of them, the **pool**, has 512 slots. No sequence (prompt and output together)
# may be longer than 128 tokens. The lengths follow those of the paper's Alpaca requests (Fig. 11), with outputs a third as
# long so that you need not wait. The next cell shows those of the first eight: prompt, output.

# %%
jobs = lesson02.burst()
[(len(job.prompt), job.output) for job in jobs[:8]]

# %%
longest = max(len(job.prompt) + job.output for job in jobs)
mean = sum(len(job.prompt) + job.output for job in jobs) / len(jobs)
print(f"prompt and output: {mean:.0f} tokens on average, at most {longest}")

# %% [markdown]
# Two predictions, for rule Max, at the moments when at least one request waits for memory:
#
# - **2.a** How many requests run at once, at most?
# - **2.b** Of the slots that are taken, how many percent hold a token?

# %%
predict("2.a", None, unit="requests")

# %%
predict("2.b", None, unit="%")

# %% [markdown]
# The next cell runs the burst four times on the same model: with each rule, and on paged memory, which is the subject of
# lesson 3. It takes some seconds.

# %%
runs = {name: lesson02.run_burst(name) for name in ("max", "pow2", "oracle", "paged")}
for name, (llm, _) in runs.items():
    most = llm.page_map.totals.max_running
    print(f"{name:7} {llm.step_number:4} steps, at most {most} requests at once")

# %%
reveal("2.a", runs["max"][0].page_map.totals.max_running, "requests")

# %% [markdown]
# For 2.b the workbench judges every slot at every step, as you will do in exercise 2.3. `saturated_only` leaves out the steps
# in which nobody waits. `split` gives percents of the taken slots, those that hold a token first. (Free slots that nobody can
# get count as taken; under Max there are none.)

# %%
reports = {name: measure_waste(timeline, saturated_only=True) for name, (_, timeline) in runs.items()}
ours = {name: lesson02.split(report) for name, report in reports.items()}
reveal("2.b", ours["max"][0], "%")

# %% [markdown]
# All four runs wrote the same tokens, so what differs is memory and nothing else:

# %%
texts = {name: [llm.output(i).outputs[0].token_ids for i in range(24)] for name, (llm, _) in runs.items()}
all(tokens == texts["paged"] for tokens in texts.values())

# %% [markdown]
# ## Step through it
#
# Here is the memory under Max. Each letter is a request; the full part of its region holds tokens, the pale part is
# reserved. Go forward until a request ends, and see who takes its region.

# %%
from workbench.widgets import Stepper

Stepper(runs["max"][1], step=19)

# %% [markdown]
# And this is Oracle after step 20, where regions have different sizes. A number in a gap says how many slots are free there.
# 128 slots are free, and request L waits for a region of 128 (what it stores, rounded up: exercise 2.2 says how). But a region
# must be one piece, and each of the two gaps has 64.

# %%
views.contiguous_view(runs["oracle"][1].state_at(20)).figure

# %% [markdown]
# ## Exercise 2.1: how much does each rule ask for?
#
# One detail first. The last token of an output is never fed back into the model, so its keys and values are never stored. A
# request with a prompt of P tokens and an output of T tokens stores P + T - 1.
#
# - `"max"`: `longest`.
# - `"oracle"`: what is stored.
# - `"pow2"`: round T up to a power of two (a power of two stays as it is) and add P. But ask for `longest` at most.

# %%
def asked(rule, prompt, output, longest):
    """Slots that a request asks for; `prompt` and `output` are its lengths in tokens."""
    ### BEGIN SOLUTION
    stored = prompt + output - 1
    if rule == "max":
        return longest
    if rule == "oracle":
        return stored
    return min(prompt + (1 << (output - 1).bit_length()), longest)
    ### END SOLUTION


check("2.1", asked)

# %% [markdown]
# ## Exercise 2.2: and what does it get?
#
# Someone has to find a place for each region. The paper's baselines use a **buddy allocator** (section 6.1): it halves a
# large region again and again until it is just large enough, and when both halves of a region are free, it merges them. That
# is fast and simple, but all sizes are a power of two times the smallest region.
#
# How large is the region for `asked` slots, if the smallest region has `unit` slots?

# %%
def region_size(asked, unit):
    """Slots of the region that a buddy allocator gives for `asked` slots."""
    ### BEGIN SOLUTION
    units = -(-asked // unit)
    return unit * (1 << (units - 1).bit_length())
    ### END SOLUTION


check("2.2", region_size)

# %%
from workbench.memory.buddy import BuddyAllocator

show_source(BuddyAllocator.allocate)

# %% [markdown]
# ## Exercise 2.3: judge every slot
#
# While a request runs, nobody can say whether an empty slot of its region will be used. When it has ended, we know. Looking
# back, each slot of a region was at that moment one of four things:
#
# 1. **token states**: it held a token.
# 2. **reservation**: it was empty, and filled later by the same request. Nobody else could use it meanwhile.
# 3. **internal fragmentation**: the request asked for it and never filled it.
# 4. **rounding**: the allocator added it. Nobody could use it. It counts as **external fragmentation**, because the
#    allocator causes it and not the request.
#
# Write a function that counts the four for one region: its `size`, what was `asked` for, how many slots `stored` a token at
# that moment, and how many did in the end (`final`).

# %%
def judge(size, asked, stored, final):
    """Slots: (token states, reservation, internal fragmentation, rounding)."""
    ### BEGIN SOLUTION
    return stored, final - stored, asked - final, size - asked
    ### END SOLUTION


check("2.3", judge)

# %% [markdown]
# The check uses your function on every region at every step of real runs, and compares the sums with the engine's own
# judgement.
#
# Outside all regions there is free memory. That is no waste as long as the next request can have it. But while a request
# waits because no free piece is large enough for it, the free slots are of use to nobody: they, too, are *external
# fragmentation*.
#
# ## The paper's Fig. 2, re-made
#
# Now the whole picture: at every step in which a request waited, what were the taken slots good for? Of each pair
# of bars the upper one is what the paper reports, the lower one what you have just measured. (For paged memory the
# paper gives one number only. What it calls external fragmentation includes "others".)

# %%
lesson02.fig2(ours)

# %% [markdown]
# ## What the paper says, what we measured
#
# - The paper: "only 20.4% - 38.2% of the KV cache memory is used to store the actual token states in the existing systems"
#   (section 1, Fig. 2). Paged memory reaches 96.3 %.
# - Here the rules come in the same order, with the same pattern: Max loses most to internal fragmentation; Oracle has none of
#   that, but gaps and rounding, and slots that are filled only later; Pow2 has some of everything.
# - Our shares of tokens are higher. The paper's OPT model allows 2,048 tokens, and its ShareGPT requests have about 500 on
#   average (Fig. 11); ours allows 128, and a request has about 40. So Max reserves less in vain here. With Max we see no
#   external fragmentation: all regions are of the same size, and the pool is a multiple of it.
# - On paged memory our share is lower than 96.3 %, because our requests are short: half of a last page is empty on average, and
#   that is a larger part of 40 tokens than of 500.
#
# Change a number, and predict first: with twice the slots, how many requests run at once under Max? Then look:
# `lesson02.run_burst("max", slots=1024)[0].page_map.totals.max_running`. This is all that `run_burst` does:

# %%
show_source(lesson02.run_burst)

# %% [markdown]
# ## Questions without end
#
# Each is about another step of another real run. The number (the *seed*) makes the question: the same number, the same
# question. Without buttons, in a terminal for instance, use `quiz("2", seed=0).answer(...)` and `.solution()`.

# %%
from workbench.widgets import QuizBox

QuizBox(quiz("2", seed=0))

# %%
progress(2)

# %% [markdown]
# ## Links
#
# - Words: *region*, *reservation*, *buddy allocator*, *internal fragmentation*, *external fragmentation*, *waste* in the
#   glossary (`workbench.glossary.find("region")`).
# - Kwon et al., SOSP 2023, sections 3.1 and 6.1, Figs. 2 and 3.
# - The same comparison as a benchmark: `workbench bench memory`; live, side by side, in the app's tab Compare.
# - Next: lesson 3, memory in pages.
