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
# # 7. Scheduling
#
# **Question.** Many requests want to be served, and there are not pages enough for all. Who computes in the next step,
# how many tokens, and who has to give pages back?
#
# You will see what a fixed batch costs, what a long prompt does to the others, and what happens when memory runs out.
# Then you write a scheduler, and it foretells every step of the real engine. About 40 minutes.
#
# You need from lesson 3: pages, and that a request takes one when it has a token to put there.

# %%
from workbench import views
from workbench.course import check, hint, predict, progress, quiz, reveal, show_source
from workbench.course.lessons import lesson07
from workbench.course.lessons.small_server import Request, Server
from workbench.widgets import QuizBox, Stepper

# %% [markdown]
# ## Who runs
#
# The engine works in **steps**. One step is one pass through the model, for several requests at a time: the **batch**.
# A request that writes computes one token in a step and so writes the next one. A new request computes its whole
# prompt.
#
# Early servers filled a batch, ran it until all of its requests had ended, and then filled the next one. But outputs
# have different lengths. Eight requests, at most 4 at a time; they write this many tokens:

# %%
jobs = lesson07.mixed_jobs()
[job.output for job in jobs]

# %% [markdown]
# - **7.a** How many steps do two fixed batches take, the first four requests and then the other four? (The step that
#   computes the prompt also writes the first token.)
# - **7.b** How many steps does it take if a waiting request gets a place as soon as one is free? This is **continuous
#   batching**: who runs is decided anew in every step.

# %%
predict("7.a", None, unit="steps")

# %%
predict("7.b", None, unit="steps")

# %%
reveal("7.a", lesson07.run_in_batches(jobs, 4), "steps")

# %%
llm, timeline = lesson07.run_continuously(jobs, 4)
reveal("7.b", llm.step_number, "steps")

# %% [markdown]
# A fixed batch takes as long as its longest output, and the places of those that have ended stay empty. Here is the
# continuous run. In the uppermost panel each lane is a request; see how the next one begins where another one ends.

# %%
views.timeline_view(views.RunSeries.of(timeline)).figure

# %% [markdown]
# ## A long prompt
#
# Now three requests are writing, and a prompt of 400 tokens comes. If one step computes all of it, this step takes
# long, and the three must wait for their next token. So a step has a **token budget**: at most so many tokens are
# computed, of all requests together, in the order of their arrival. Here those that write came first and take 1 each.
# The prompt gets what is left, and goes on in the next step. This is **chunked prefill**.
#
# - **7.c** With a budget of 32 tokens: in how many steps is the prompt of 400 computed, beside three that write?
# - **7.d** And how many times as long is the slowest step with a budget of 512, compared with 32?

# %%
predict("7.c", None, unit="steps")

# %%
predict("7.d", None)

# %%
_, chunked, long = lesson07.long_prompt_run(budget=32)
chunks = lesson07.chunks_of(chunked, long)
print(chunks)
reveal("7.c", len(chunks), "steps")

# %%
_, whole, long = lesson07.long_prompt_run(budget=512)
slow, quick = lesson07.slowest_ms(whole), lesson07.slowest_ms(chunked)
print(f"slowest step, measured on this machine: {slow:.0f} ms in one go, {quick:.0f} ms in chunks")
reveal("7.d", slow / quick)

# %% [markdown]
# The ratio changes from machine to machine and from run to run. The slowest step computed 403 tokens, against 32. The
# ratio is less than 403 / 32 because a step costs something however few tokens it computes. That is the price of
# chunks, too: the long request gets its first token later.
#
# The pages for the whole prompt are taken when the request is let in, not chunk by chunk. (This is the exception to
# lesson 3: until its prompt is computed, a request can have more than a page of empty slots.) So a request never has to
# wait for a page in the middle of its prompt. An older one that needs a page can still push it out: how, comes now.

# %% [markdown]
# ## When pages run out
#
# A request is let in with pages for its prompt. Then it grows, and nobody knows how far. One day a running request
# needs a page, and none is free. Somebody has to give way: this is **preemption**, and who gives way is the
# **victim**.
#
# The engine does as the paper (section 4.5):
#
# - *First come, first served*: the victim is the request that came **last**. So the oldest always goes on, ends one
#   day, and nobody waits for ever.
# - *All or nothing*: it gives back **all** its pages. Attention needs all tokens before; half of them are no use.
# - It goes back to the queue, to its place in the order of arrival: the front. It keeps its text, prompt and written
#   tokens. When it comes back, all these are computed again **as if they were one prompt**: *recomputation*. (The
#   other way, to move the pages elsewhere, is lesson 8.)
#
# Eight requests in a pool of 16 pages of 4:

# %%
llm, crowded = lesson07.crowded_run(watermark=0.0)
preemptions = [e for e in crowded.events() if type(e).__name__ == "RequestPreempted"]
for e in preemptions:
    name = views.request_label(e.request)
    print(f"step {e.step}: {name} gives way, {e.blocks_released} pages, {e.tokens_lost} tokens lost")

# %%
Stepper(crowded, step=preemptions[0].step - 1)

# %% [markdown]
# Step forward once: who needed a page, who lost all of theirs, and who has them now? (C took the last free page. Then D
# needed one. F, who came last, gave back three: D and E took one each, and one is free.) Press `p` to go to the next
# preemption: E and F give way twice.
#
# ## The watermark
#
# Letting somebody in with the last free pages is a poor idea: in one of the next steps a running request needs one,
# and the newcomer is the victim. Its prompt was computed for nothing. So admission leaves some pages free: a share of
# the pool that is called the **watermark**. It counts for admission only; running requests may take these pages.
#
# - **7.e** The run above has a watermark of 0. How many tokens had to be computed again, in all?
# - **7.f** And with a watermark of 0.2, that is 4 of the 16 pages?

# %%
predict("7.e", None, unit="tokens")

# %%
predict("7.f", None, unit="tokens")

# %%
reveal("7.e", llm.page_map.totals.recomputed_tokens, "tokens")

# %%
careful, _ = lesson07.crowded_run(watermark=0.2)
for name, engine in (("without", llm), ("with", careful)):
    t = engine.page_map.totals
    print(f"{name}: {t.preemptions} preemptions, at most {t.max_running} at a time, {engine.step_number} steps")
reveal("7.f", careful.page_map.totals.recomputed_tokens, "tokens")

# %% [markdown]
# Fewer preemptions, and fewer requests at a time. Too large a reserve makes requests wait although there is room. The
# engine's default is 1 % of the pool.
#
# ## Exercise 7.1: share a budget
#
# Now you. `missing` says for each running request, in order, how many tokens it could compute: 1 if it writes, more in
# a prompt. Return how many each of them computes in a step of `budget` tokens, as a list. First come, first served; who
# gets nothing has a 0.


# %%
def chunks(missing, budget):
    """How many tokens each request computes."""
    ### BEGIN SOLUTION
    counts = []
    for tokens in missing:
        counts.append(min(tokens, budget))
        budget -= counts[-1]
    return counts
    ### END SOLUTION


check("7.1", chunks)

# %% [markdown]
# ## Exercise 7.2: let requests in
#
# Your scheduler works on a small server. It only counts pages: lesson 3 has shown that it does not matter which ones.
# This is a request:

# %%
show_source(Request)

# %%
show_source(Server)

# %% [markdown]
# `admit(budget)` lets requests in, from the head of the queue on, and returns what they compute in this step: a
# dictionary from a request's number to its tokens (those that it misses, or what is left of the budget). Who is let in
# goes from `waiting` to the end of `running` and is given pages for **all** its known tokens. (`known`, `left` and
# `stored` change when the step has run: not your business.) The head must wait if
#
# - the budget is spent, or `max_running` requests run already;
# - the pages for **all** tokens that it knows are not free;
# - somebody runs, be it one just let in, and fewer than `reserve` pages would be left. (If nobody runs, waiting would
#   be for nothing.)
#
# If the head must wait, **all** wait: nobody overtakes, or a large request might never get its turn.


# %%
class Admitting(Server):
    def admit(self, budget):
        """Lets requests in; returns {number: tokens to compute}."""
        ### BEGIN SOLUTION
        plan = {}
        while self.waiting and budget > 0 and len(self.running) < self.max_running:
            head = self.waiting[0]
            reserve = self.reserve if self.running else 0
            if self.pages_for(head.known) > self.free - reserve:
                break
            self.running.append(self.waiting.pop(0))
            self.give(head, head.known)
            plan[head.number] = min(head.missing, budget)
            budget -= plan[head.number]
        return plan
        ### END SOLUTION


# %%
check("7.2", Admitting)

# %% [markdown]
# ## Exercise 7.3: who gives way
#
# `make_room(index, tokens)` sees to it that `self.running[index]` has pages for `tokens` tokens in all.
#
# - As long as too few pages are free, the request that came last gives all its pages back (`take_back`) and goes from
#   the end of `running` to the **front** of `waiting`.
# - If that is the request itself, stop: return False.
# - Otherwise give it its pages and return True.
#
# (A loop that never ends is stopped after 20 seconds, and the check says where it was. Look at what changes in it. On
# Windows nothing stops it: interrupt the kernel.)


# %%
class Preempting(Admitting):
    def make_room(self, index, tokens):
        """Pages for `tokens` tokens of running[index]; False if it had to give way itself."""
        ### BEGIN SOLUTION
        request = self.running[index]
        while self.pages_for(tokens) - request.pages > self.free:
            victim = self.running.pop()
            self.take_back(victim)
            self.waiting.insert(0, victim)
            if victim is request:
                return False
        self.give(request, tokens)
        return True
        ### END SOLUTION


check("7.3", Preempting)

# %% [markdown]
# ## Exercise 7.4: one step
#
# Put it together. `step()` returns the plan of one step, `{number: tokens}`:
#
# 1. Running requests, in their order, as long as the budget lasts: each computes what it misses or what is left of the
#    budget, and has room made for it. Who gave way is not in the plan.
# 2. If nobody gave way, waiting requests are let in with what is left of the budget. (If somebody did, it is the head
#    of the queue now. It needs at least the pages that it had, and one of those has just gone to another.)


# %%
class Scheduler(Preempting):
    def step(self):
        """The plan of one step."""
        ### BEGIN SOLUTION
        plan, budget, before = {}, self.budget, len(self.running)
        index = 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            count = min(request.missing, budget)
            if self.make_room(index, request.stored + count):
                plan[request.number] = count
                budget -= count
            index += 1
        return plan if len(self.running) < before else plan | self.admit(budget)
        ### END SOLUTION


# %%
check("7.4", Scheduler)

# %% [markdown]
# The check makes random workloads and runs each to its end. After every step it asks first what must always be true:
# no page is lost or handed out twice, the budget is kept, nobody is forgotten, nobody overtakes, the oldest goes on.
# Only then it compares with a reference.
#
# ## Exercise 7.5: foretell the engine
#
# Nothing to write. The engine runs random requests with the real model in a pool that is too small. Your scheduler
# gets the same requests and must name, for every step, who computes how many tokens.

# %%
check("7.5", Scheduler)

# %% [markdown]
# Compare your `step` with the engine's. It does more: requests with several samples or beams, other victims, swapping.

# %%
from workbench.engine.scheduler import Scheduler as EngineScheduler

show_source(EngineScheduler.schedule)

# %% [markdown]
# ## What the paper says, what we saw
#
# - First come first served, all or nothing, the last to come gives way, recomputation of prompt and output in one go:
#   section 4.5. You foretold a real engine with these rules.
# - More requests at a time is what paging is for. With ShareGPT lengths, 2 requests per second, the paper had 30.4 in
#   a batch on average, and 7.0 with Max, 9.8 with Pow2, 13.6 with Oracle (Fig. 13).
# - Continuous batching is older: Yu et al., Orca, OSDI 2022, call it iteration-level scheduling; the paper takes it up
#   in section 2.3. Chunked prefill came later: Agrawal et al., Sarathi-Serve, OSDI 2024.
# - When does recomputing cost less than moving pages? Section 7.3, Fig. 19, and lesson 8.
# - Here: 7.a and 7.b count steps, which do not depend on the machine; 7.d is a time, measured with a small model on a
#   CPU.

# %% [markdown]
# ## Questions without end
#
# Each is about another step of another real run. The number (the *seed*) makes the question: the same number, the same
# question. Without buttons, in a terminal for instance, use `quiz("7", seed=0).answer(...)` and `.solution()`.

# %%
QuizBox(quiz("7", seed=0))

# %%
progress(7)

# %% [markdown]
# ## Links
#
# - Words: *continuous batching*, *token budget*, *chunked prefill*, *admission*, *watermark*, *preemption*, *victim*,
#   *recomputation* in the glossary (`workbench.glossary.find("victim")`).
# - `docs/design.md`, "One step" and "Two tiers"; `docs/policies.md` for other victims.
# - Next: lesson 8, where a victim's pages go if they are not thrown away.
