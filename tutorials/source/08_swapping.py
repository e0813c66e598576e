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
# # 8. Swapping and its limits
#
# **Question.** Memory has run out and a request has to give way. In lesson 7 its pages were dropped, and its tokens
# computed again later. Would it not be better to put the pages somewhere else, and fetch them back?
#
# You will run both, write the rule that decides between them, write a policy that picks who gives way, and see what
# happens when one text alone is larger than the memory. About 40 minutes.
#
# You need from lesson 7: *preemption* (a running request loses its pages and goes back to the queue) and *victim*
# (the one whom it hits); from lesson 6: the *prefix cache* (full pages that stay findable by what is in them).

# %%
from workbench.course import check, hint, predict, progress, quiz, reveal, show_source
from workbench.course.lessons import lesson08
from workbench.course.lessons.lesson08 import Victim, burst, cost_ms, totals, twice

# %% [markdown]
# ## Two ways to give way
#
# The memory in which the model computes is called the **device tier**: on a server the GPU's memory. Next to it there
# is a larger and slower one, the **host tier**: the main memory of the computer. Between them is a link, for a GPU
# mostly PCIe.
#
# - **Recomputation**: the victim's pages are freed. When there is room again, its prompt and all that it has written go
#   through the model as one prompt.
# - **Swapping**: its pages are copied to the host tier and freed. When there is room, they are copied back. The page
#   numbers may be others then; the block table is written anew, and nobody notices.
#
# Here is a burst: eight requests at once, about 250 tokens, on 24 pages of 4 tokens. That is room for 96.
#
# - **8.a** How many tokens go through the model for a second time, if victims are recomputed?

# %%
predict("8.a", None, unit="tokens")

# %%
recomputed, swapped = burst("recompute"), burst("swap")
reveal("8.a", totals(recomputed).recomputed_tokens, "tokens")

# %% [markdown]
# And when they are swapped?

# %%
for name, run in (("recompute", recomputed), ("swap", swapped)):
    t = totals(run)
    print(f"{name}: {t.preemptions} preemptions, {t.recomputed_tokens} tokens recomputed,")
    print(f"    {t.swapped_out_bytes:,} bytes moved out, {t.swapped_in_bytes:,} in, {run.last_step} steps")

# %% [markdown]
# Go through the run that swaps. The button `swap` (key `s`) leads to the next move. Look at the block table of a
# request that is out: its pages have host numbers. What does it have after it has come back?

# %%
from workbench.widgets import Stepper

Stepper(swapped, step=5)

# %% [markdown]
# ## What does either way cost?
#
# - **8.b** How many times as long does it take to recompute a victim as to swap it, out and in together, on your
#   machine?
#
# (One warning. A laptop has no GPU, so our host tier is a second pool in the same memory, and copying to it is very
# fast. On a GPU the link is the narrow part.)

# %%
predict("8.b", None)

# %%
for name, run in (("recompute", recomputed), ("swap", swapped)):
    expected, measured = cost_ms(run)
    print(f"{name}: expected {expected:.2f} ms, measured {measured:.2f} ms (medians per preemption)")
reveal("8.b", cost_ms(recomputed)[1] / cost_ms(swapped)[1])

# %% [markdown]
# *Expected* is what the engine thought when it had to decide, from how fast pages moved and prompts were computed so
# far. *Measured* is what the victim really cost. The first estimates come from a single measurement, and your machine
# does other things, too: expect a factor of 2 between them, and see whether it would have changed the decision.
#
# ## Exercise 8.1: two costs
#
# Now you estimate. A victim is described by four numbers:

# %%
show_source(Victim)

# %% [markdown]
# `bandwidth` is in bytes per second, one way; `prefill_speed` in tokens per second. Return the seconds that swapping
# takes (until the victim is back) and the seconds that recomputing takes.

# %%
def costs(victim, bandwidth, prefill_speed):
    """Seconds of swapping, and seconds of recomputing."""
    ### BEGIN SOLUTION
    swap = 2 * victim.num_bytes / bandwidth
    recompute = (victim.tokens - victim.kept) / prefill_speed
    return swap, recompute
    ### END SOLUTION


check("8.1", costs)

# %% [markdown]
# The check compares with the engine's own estimate.
#
# ## Exercise 8.2: decide
#
# The host tier is not endless: `host_free` pages are free in it. If the victim's pages do not all fit, it cannot be
# swapped. An early version of vLLM, the server of the paper's authors, stopped at this point: "Aborted due to the
# lack of CPU swap space" (its issues #588 and #787, 2023). A full host tier is no reason to stop, because recomputing
# is always possible.
#
# Return `"swap"` or `"recompute"`; if both cost the same, `"swap"`.

# %%
def decide(victim, bandwidth, prefill_speed, host_free):
    """Which way is better for this victim: "swap" or "recompute"?"""
    ### BEGIN SOLUTION
    if victim.pages > host_free:
        return "recompute"
    swap, recompute = costs(victim, bandwidth, prefill_speed)
    return "swap" if swap <= recompute else "recompute"
    ### END SOLUTION


check("8.2", decide)

# %% [markdown]
# ## Exercise 8.3: the decisions of a real run
#
# Nothing to write. With `preemption="adaptive"` the engine decides for each victim. The check runs it on requests of
# which some begin alike, with a host tier of a few pages, and asks your function at each preemption.

# %%
check("8.3", decide)

# %%
timeline, host_pages = lesson08.adaptive_run(1)
for d in lesson08.decisions(timeline, host_pages):
    print(f"step {d.step}: {d.mode:9} {d.victim}, {d.host_free} host pages free")

# %% [markdown]
# Here are the lines of the engine. It knows one case more: a speed of which nothing has been measured yet.

# %%
from workbench.engine import preemption

show_source(preemption.decide)

# %% [markdown]
# ## Exercise 8.4: who gives way?
#
# So far the victim was whoever came last, as in the paper. Others may be cheaper. The engine accepts a policy: a
# class with a `name` and a method `key(candidate)`; the candidate with the smallest key gives way (of equal ones, the
# last to come).
#
# `candidate.footprint` says what the candidate holds: `tokens` would have to be computed again, `lost` pages would
# become free (pages that others share do not).
#
# Write the policy that takes **the fewest tokens to compute again for each page that becomes free**. Who frees no
# page at all comes last; of several such, the one with the fewest tokens is first.

# %%
class CheapestPerPage:
    name = "cheapest_per_page"

    def key(self, candidate):
        """The smallest key gives way."""
        ### BEGIN SOLUTION
        held = candidate.footprint
        return (held.lost == 0, held.tokens / max(1, held.lost))
        ### END SOLUTION


check("8.4", CheapestPerPage)

# %% [markdown]
# Whatever you write, the oldest running request is never asked to give way. So somebody always gets on, and in the end
# everybody does. A bad policy makes a run slow, never wrong.
#
# ## Thrashing
#
# An operating system whose programs need much more memory than there is spends its time moving pages, and gets
# nothing done: it *thrashes*. Does an engine?
#
# With 40 pages, some of the tokens of our burst are computed twice. Now halve the pool.
#
# - **8.c** With 20 pages: what percentage of all tokens that go through the model are there for a second time?

# %%
print(f"40 pages: {twice(burst(num_blocks=40)):.0f} %")
predict("8.c", None, unit="%")

# %%
tight = burst(num_blocks=20)
reveal("8.c", twice(tight), "%")

# %% [markdown]
# More, but it does not collapse. Two rules keep it from that: the oldest request is never a victim, and nobody
# overtakes the head of the queue. With a smaller pool fewer requests run at once, and those get on.
#
# What is computed twice is still wasted. The cause is that requests are let in too eagerly: each takes the pages that
# its prompt needs, and a moment later all of them need more. The *watermark* of lesson 7 leaves them room to grow:

# %%
careful = burst(num_blocks=20, watermark=0.25)
for name, run in (("watermark 0", tight), ("watermark 0.25", careful)):
    t = totals(run)
    print(f"{name}: {t.preemptions} preemptions, {twice(run):.0f} % twice,", end=" ")
    print(f"{run.last_step} steps, at most {t.max_running} requests at once")

# %% [markdown]
# Fewer tokens are computed twice, but fewer requests run at once, so the run needs more steps. Which is faster
# depends on what a step costs: on a GPU a step with one request more costs almost nothing, on a CPU every token costs
# something.

# %% [markdown]
# Swapping is no cure either: the same requests are pushed out, only for another price. And the engine
# cannot do what an operating system does, run on with a part of a program's pages: attention reads **all** pages of a
# request in every step. That is why a victim loses all of them (the paper calls it *all-or-nothing*, section 4.5).
#
# ## One text that is larger than the memory
#
# Most engines refuse it. Ours runs it, slowly: most of the text's pages lie in the host tier, and in every step each
# layer reads them through a small window of the device, a few pages at a time. Here a text has 166 tokens, so 42
# pages; the pool has 10.
#
# - **8.d** A page of 4 tokens is 24,576 bytes. How many MB (10^6 bytes) are read from the host for each token that is
#   written?

# %%
predict("8.d", None, unit="MB")

# %%
_, whole, expected_tokens = lesson08.long_text(44)
_, parts, tokens = lesson08.long_text(10)
print("the same tokens:", tokens == expected_tokens)
reveal("8.d", lesson08.read_per_token(parts), "MB")

# %% [markdown]
# That is every page that is not on the device, 32 of 42, for each token. Now the same on a GPU. We measured a text of
# 32,768 tokens on an H200, in a pool that holds an eighth of it: 3,133 MiB (3,285 MB) are read for each token. The
# link moves 55 GB/s.
#
# - **8.e** How many tokens per second can it write at most?

# %%
predict("8.e", None, unit="tokens/s")

# %%
reveal("8.e", 55e9 / (3133 * 2**20), "tokens/s", how="computed")

# %% [markdown]
# Measured were 13.4 tokens per second, against 215 with the whole text on the device (`docs/benchmarks.md`, "Larger
# than the device, on a GPU"). So a text larger than the memory is possible at a sixteenth of the speed. If that is
# too slow, the remedy is to read less: lesson 9.

# %% [markdown]
# ## What the paper says, what we measured
#
# - Section 4.5: vLLM takes in no new request while others are swapped out. So the host tier never needs more pages
#   than the device has. All sequences of a request are preempted together.
# - The paper leaves open what happens when one text alone is larger than the memory, and when requests push each other
#   out again and again (it measures swapping at one request rate only, Fig. 19b). That is why this lesson has the
#   sections *Thrashing* and *One text that is larger than the memory*.
# - Section 7.3, Fig. 19: swapping is slow with small pages, because many small transfers make poor use of PCIe;
#   recomputing does not depend on the page size, and its overhead "is never higher than 20% of swapping's latency".
#   From 16 to 64 tokens a page both are about equal in the end.
# - We measured more in favour of swapping, on an H200 with a model of 0.6 billion parameters and pages of 16: 1.15
#   times the throughput of recomputing. In a run, 68 victims were swapped, which took 198 ms in all; 66 were
#   recomputed in the other one, which took 1,780 ms (`docs/benchmarks.md`, "The tiers, on a GPU"). There, a victim's
#   pages are collected on the device and cross the link as one piece, so that there are no small transfers. A token's
#   bytes go out and in in about 4 microseconds; computing it takes 30 to 60.
# - On a CPU, pages of 1, 4, 16 and 64 tokens: swapping 1.05 to 1.16 times as fast (`docs/benchmarks.md`). This says
#   little about servers, because both tiers are one memory.
# - vLLM has given up swapping all the same. Lesson 10 says how it explains that.
#
# ## Questions without end
#
# Each is about a victim of a real run. The number (the *seed*) makes the question: the same number, the same question.
# Without buttons, in a terminal for instance, use `quiz("8", seed=1).answer(...)` and `.solution()`.

# %%
from workbench.widgets import QuizBox

QuizBox(quiz("8", seed=1))

# %%
progress(8)

# %% [markdown]
# ## Links
#
# - Words: *preemption*, *recomputation*, *swapping*, *host tier*, *victim*, *watermark* in the glossary
#   (`workbench.glossary.find("swapping")`).
# - Kwon et al., SOSP 2023, sections 4.5 and 7.3.
# - `docs/policies.md`: victim, eviction and placement policies. `docs/design.md`, "Two tiers" and "Larger than the
#   device".
# - `workbench bench swap` makes the comparison of Fig. 19 on your machine, `workbench bench stream` the one with long
#   texts.
# - Next: lesson 9, which pages matter.
