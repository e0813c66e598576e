# %% [markdown]
# # 9. Relevance
#
# A sequence's pages are all kept until it ends, and all read in every step. **Does every page matter equally? And if
# not, which could one leave out, and which should one keep longest?**
#
# You measure how much attention each page gets, read only the most promising pages and see what changes, and at the
# end write a policy of your own that decides which cached pages are given up, and beats the usual one.
#
# *You need:* lessons 1 (KV heads), 4 (attention over pages, log-sum-exp) and 6 (prefix caching). *Time:* about 40
# minutes.

# %%
import torch
from workbench.course import check, hint, predict, progress, quiz, reveal, show_source
from workbench.course.lessons import lesson09

torch.set_num_threads(1)

# %% [markdown]
# ## Attention mass
#
# Attention gives every earlier token a weight, and the weights add up to 1 (lesson 4). The weights of a page's tokens,
# added up, are the page's *attention mass*: the share of the attention that goes to this page.
#
# The engine can note it: with `EngineConfig(page_mass_every=1)` every decode step sends an event `PageMassSampled` for
# each sequence: what the newest token's attention gives to each page, as a mean over all layers and heads.
#
# A prompt of 240 tokens fills 15 pages of 16 tokens. The first token that is written begins a 16th page and looks back
# at all 241 tokens, itself included. If all were equally important, a full page would get 16/241, about 7 percent.
#
# **Predict:** How many percent does the *first* page get from this token?

# %%
predict("9.a", None, unit="%")

# %%
run = lesson09.long_run(seed=0)
position, mass = lesson09.masses(run)[0]
print([f"{100 * m:.0f} %" for m in mass])
reveal("9.a", 100 * mass[0], unit="%")

# %% [markdown]
# And here are all the tokens that were written, a row for each. Look for pages that many rows agree on.

# %%
lesson09.mass_figure(run)

# %% [markdown]
# Most of the mass is on the newest pages, and it moves along as new pages begin. Of the old pages some get more than
# others: their text resembles what is being written. The page map shows the same. Step through the run with the colour
# set to mass.

# %%
from workbench.widgets import Stepper

Stepper(run.history, step=run.history.last_step - 1, color_by="mass")

# %% [markdown]
# **Exercise 9.1.** Compute it yourself, for one head: the query `q` `[dim]`, the pool of keys `[num_pages, block_size,
# dim]`, the sequence's table and its length. Return a number for each page that holds tokens of the sequence. (The
# scale is 1 / the root of dim. As in lesson 4 the table may have entries too many, and slots without a token hold NaN.)

# %%
def page_mass(q, k_cache, table, length):
    """The share of the attention that each page of the sequence gets."""
    ### BEGIN SOLUTION
    block_size, dim = k_cache.shape[1:]
    pages = table[: -(-length // block_size)]
    keys = k_cache[pages].flatten(0, 1)[:length]
    weights = (keys @ q / dim**0.5).softmax(dim=0)
    return [part.sum().item() for part in weights.split(block_size)]
    ### END SOLUTION


check("9.1", page_mass)

# %% [markdown]
# The engine's kernel for it is a second, light pass over the keys: with the log-sum-exp that attention leaves (lesson
# 4), a page's mass is a plain sum of exp(score - lse). This is what it has to compute, in plain torch:

# %%
from paged_kernels import reference

show_source(reference.page_attention_mass)

# %% [markdown]
# ## Reading only some pages
#
# If a few pages get most of the mass, why read the others? A decode step's time is mostly reading the cache; and pages
# that are not read could lie elsewhere (lesson 8).
#
# **Exercise 9.2.** From the masses of the pages choose which ones to read, `count` in all: always the first and the
# last page, and of the others those with the most mass (of equal ones the earlier). Return their indices in the order
# of the text; if `count` is too large, all.

# %%
def choose_pages(mass, count):
    """Indices of the pages to read, in order; `count` is at least 2."""
    ### BEGIN SOLUTION
    between = sorted(range(1, len(mass) - 1), key=lambda page: -mass[page])  # sorted keeps the order of equals
    return sorted([0, len(mass) - 1, *between[: count - 2]]) if count < len(mass) else list(range(len(mass)))
    ### END SOLUTION


check("9.2", choose_pages)

# %% [markdown]
# There is a catch: to know the masses one must have read all pages. Quest (Tang et al., ICML 2024) estimates them
# instead: for each page the smallest and the largest value of every dimension of its keys are kept, and these bound
# how large a score in the page can be. The engine does that with `EngineConfig(attention_pages=k)`: every KV head of
# every layer reads k pages of its own choice, the first and the last one among them. The result is *not exact*. How
# much does it change?
#
# **Predict:** A prompt of 160 tokens, and a few that were written: 11 pages. Each head reads only 4 of them. Which
# share of the exact attention is in the pages read, in percent?

# %%
predict("9.b", None, unit="%")

# %%
rows = lesson09.selection_rows([2, 4, 8])
reveal("9.b", 100 * rows[1].covered, unit="%")

# %%
for row in rows:
    print(
        f"{row.top_k} of {row.pages:.0f} pages: {row.covered:.0%} of the mass, output off by {row.distance:.2f}, "
        f"{row.changed} of {row.decisions} next tokens changed, {row.equal_before:.0f} of {row.new_tokens} equal before"
    )

# %% [markdown]
# *Output off by* is the length of the difference from the exact output, relative to that output. *Next tokens
# changed*: after the exact text, does one step with the chosen pages pick another token? *Equal before*: the text was
# written with the chosen pages all along, and so many tokens were equal before the first difference; after it, it is
# another text.
#
# So few tokens and one prompt say little. With four prompts and 176 decisions per row (`docs/benchmarks.md`, measured
# on this model): with an eighth of the pages of 2,048 tokens 4 percent of the next tokens change, with half of them
# 1.1 percent. This model's attention is spread out; whether that of a large model is less so can't be said from here.
#
# This is the bound, as the engine computes it. `lo` and `hi` are the smallest and the largest value per page and
# dimension. Where the query is positive, the largest key makes the largest product, where it is negative, the
# smallest:

# %%
from paged_kernels import page_bounds

show_source(page_bounds.score_bounds, lines=(35, 38))

# %% [markdown]
# ## Which pages to keep
#
# The second question of this lesson is about pages that no running sequence needs: the pages that the prefix cache
# keeps (lesson 6), in case that another text begins alike. When no page is free, one of them must go. Which one? The
# *eviction policy* says.
#
# A policy is a class with a `name` and a method `key(self, page)`. The page with the smallest key goes first. The
# default is LRU, *least recently used*:

# %%
from workbench.memory import eviction

show_source(eviction.LRU)

# %% [markdown]
# What does a policy know of a page? The attributes of `CachedPage`. Times are counts, not seconds: each page that is
# cached, found again or given up counts one. A text of five pages takes five and gives up five, so it counts about 10.

# %%
show_source(eviction.CachedPage)

# %% [markdown]
# ## The leaderboard
#
# Three workloads, made from seeds. In each, texts come one after the other, and some of them begin alike. What counts
# is how many tokens are *found* in the cache, that is, need not be computed. The pool has 32 pages; it is the engine's
# own memory manager, without a model: which pages are found does not depend on what is written on them.

# %%
for kind, words in lesson09.KINDS.items():
    print(f"{kind}: {words}")

# %% [markdown]
# **Predict:** LFU, *least frequently used*, gives up what was hit least often. On the workload "shifting", how much
# does it find compared with LRU (1 = the same)?

# %%
predict("9.c", None, unit="times LRU")

# %%
shown = [0, 1, 2]  # seeds to try things on; your policy is graded on others
rows = lesson09.board([eviction.LRU(), eviction.LFU(), eviction.FIFO()], shown)
lfu = [row.ratio for row in rows if row.policy == "lfu" and row.kind == "shifting"]
reveal("9.c", sum(lfu) / len(lfu), unit="times LRU")

# %%
lesson09.board_table(rows)

# %% [markdown]
# LRU lets texts that come once push out beginnings that come again and again. LFU keeps those, but never forgets: when
# favourites change, the old ones stay, because they have so many hits.
#
# **Exercise 9.3.** Write a policy that beats LRU: over the three workloads it finds at least 1.10 times as much on
# average, and on none of them less than 0.90 times. It is graded on three seeds that are not shown here, and must do
# so on each. (The key may depend on nothing but `page`: it is asked for when a page falls idle, not at every
# eviction.) Stuck? `hint("9.3")`.

# %%
class MyPolicy:
    name = "mine"

    def key(self, page):
        """A tuple of numbers; the page with the smallest goes first."""
        ### BEGIN SOLUTION
        # A page that was hit counts as used later than it was, up to two hits: popular pages outlive
        # texts that come once, and yesterday's favourites still grow old.
        return (page.last_used + 100 * min(page.hits, 2),)
        ### END SOLUTION


check("9.3", MyPolicy)

# %% [markdown]
# Your policy on the board, beside the built-in ones (seeds that you have seen). Change it, run the cell again, watch
# the columns.

# %%
try:
    table = lesson09.board_table([*rows, *lesson09.board([MyPolicy()], shown)])
except NotImplementedError:
    table = "write MyPolicy first"
table

# %% [markdown]
# ## On the real engine
#
# The same class works there. A policy decides what is slow, never what is right: the tokens are the same with every
# policy.

# %%
from workbench import LLM, EngineConfig, SamplingParams


def found_by(policy, texts):
    """Tokens found in the cache of a real engine, and the tokens that it wrote."""
    config = EngineConfig(num_blocks=32, prefix_caching=True, eviction=policy, watermark=0.0, max_num_seqs=2)
    llm = LLM("tiny", config)
    outputs = llm.generate(texts, SamplingParams(max_tokens=1, temperature=0, ignore_eos=True))
    return llm.page_map.totals.prefix_hit_tokens, [output.outputs[0].token_ids for output in outputs]


# %%
texts = lesson09.prompts("one-off", seed=0)[:40]
lru_found, lru_tokens = found_by("lru", texts)
try:
    mine_found, mine_tokens = found_by(MyPolicy(), texts)
    print(f"LRU finds {lru_found} tokens, yours {mine_found}; same tokens written: {lru_tokens == mine_tokens}")
except NotImplementedError:
    print(f"LRU finds {lru_found} tokens; write MyPolicy first")

# %% [markdown]
# More ideas: `page.children` (a page that others continue is the way to them), `page.depth`, the time between
# `cached_at` and `last_used`. In a file your policy can also compete from the shell: `workbench bench policies
# --eviction mine.py:MyPolicy` (`docs/policies.md`, which also has policies for victims of preemption and for
# placement).
#
# ## What the paper says, what we measured
#
# Kwon et al. (SOSP 2023), section 4.5: because all pages of a sequence are used together, the paper evicts *all or
# nothing*: *"either evict all or none of the blocks of a sequence"*. For exact attention that is still so: all of a
# sequence's pages are read in every step. Choosing pages by relevance, as in exercise 9.2, gives up exactness; it came
# later (Quest, 2024; H2O, Zhang et al., 2023; StreamingLLM, Xiao et al., 2023, which always keeps the first tokens: in
# many large models they get much attention, whatever they say. In this small model they don't: 9.a).
# Cached prefixes are another matter: nobody runs on them, so evicting any of them costs time and never a token. The
# paper's prefixes were chosen by hand (section 4.4, Fig. 10); automatic prefix caches with eviction policies came with
# the servers after it.
#
# We measured (`docs/benchmarks.md`, "Reading only the most promising pages" and "Policies") how many tokens change if
# only some pages are read, as said above; and what policies find when 160 texts come to a pool of 48 pages and 70
# percent of them begin with one of 24 beginnings: of 10,624 tokens that could be found, LRU finds 5,408, LFU 7,136 and
# FIFO 3,936. No favourites change there; what LFU finds when they do, you measured in 9.c. All these are counts, not
# times.
#
# ## Questions without end
#
# The number (the *seed*) makes the question: the same number, the same question. Without buttons, in a terminal for
# instance, use `quiz("9", seed=0).answer(...)` and `.solution()`.

# %%
from workbench.widgets import QuizBox

QuizBox(quiz("9", seed=0))

# %%
progress("9")

# %% [markdown]
# **Links.** Words: *attention mass*, *prefix cache*, *cached page*, *eviction*, *placement* in the glossary
# (`workbench.glossary.find("attention mass")`). `docs/policies.md`, `workbench/experiments/selection.py`.
# Next: lesson 10, what changes on other hardware.
