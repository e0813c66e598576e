# %% [markdown]
# # 4. Attention over pages
#
# In lesson 3 a sequence's keys and values came to lie on pages that are anywhere in the pool. Attention needs all of
# them, in every step, for every layer. **Must we first copy them together?**
#
# In this lesson you write attention over pages in plain torch, four times, each time with less memory: with a copy,
# with a loop, with a sum that needs only one page at a time, and in parts that can be computed apart. Lesson 5 makes a
# GPU kernel of it.
#
# *You need:* lessons 1 to 3 (KV cache, page, block table), and softmax. *Time:* about 35 minutes.

# %%
import math

import torch
from workbench.course import check, hint, predict, progress, quiz, reveal, show_source
from workbench.course.lessons import lesson04

torch.manual_seed(0)
torch.set_num_threads(1)  # small tensors: more threads only get in each other's way

# %% [markdown]
# ## One query, keys side by side
#
# To have less in sight we look at one layer and one head. The newest token has a query `q`, a vector of `dim` numbers.
# Every token so far, itself included, has a key and a value, vectors of `dim` numbers too. Attention is three lines:
#
# 1. *scores*: the product of `q` with every key, divided by the root of `dim`;
# 2. *weights*: the softmax of the scores: they are positive and add up to 1;
# 3. *output*: the values, each times its weight, added up.

# %%
dim, length = 16, 10
q, keys, values = torch.randn(dim), torch.randn(length, dim), torch.randn(length, dim)

scores = keys @ q / math.sqrt(dim)
weights = scores.softmax(dim=0)
output = weights @ values
print("weights", [round(w, 2) for w in weights.tolist()], "sum", round(weights.sum().item(), 3))

# %% [markdown]
# ## Where the keys are in a real run
#
# Here is the engine with three requests, stopped after some steps. Look at the block tables: the pages of one sequence
# don't lie side by side. (Step back and forth, or click on a page.)

# %%
from workbench.events import Timeline

llm = lesson04.short_run(seed=1, steps=0, block_size=8, num_blocks=24)
timeline = Timeline(llm.bus)
for _ in range(16):
    llm.step()

# %%
from workbench.widgets import Stepper

Stepper(timeline, step=timeline.last_step)

# %%
sequence = sorted(llm.page_map.sequences)[0]
state = llm.page_map.sequences[sequence]
table, length = state.block_table, state.num_computed_tokens
print("sequence", sequence, "has", length, "tokens; block table", table)

# %% [markdown]
# ## Copy them together?
#
# The simplest way is to gather: copy the sequence's keys and values from their pages to one tensor, then do the three
# lines. It costs a copy of all keys and values, in every step.
#
# **Predict:** The bundled model has 6 layers, and in each of them 2 heads that have keys and values of 64 numbers, 4
# bytes each. A sequence has 1,000 tokens. How many MB are copied to write *one* more token? Type your guess instead of
# `None`.

# %%
predict("4.a", None, unit="MB")

# %%
k_cache, v_cache = lesson04.engine_kv(llm, layer=0)
print("keys of layer 0:", list(k_cache.shape), "= pages, slots per page, heads, numbers per key")
per_token = 2 * 6 * k_cache[0, 0].numel() * k_cache.element_size()
reveal("4.a", 1000 * per_token / 1e6, unit="MB", how="computed")

# %% [markdown]
# For each token we would read all keys and values once, write them, and read them again. Attention over one query is
# so little arithmetic that on a GPU its time is that of reading memory; with the copy, three times as much is moved.
# Still, the copy is a good beginning, because everything else can be compared with it.
#
# **Exercise 4.1.** `cache` is `[num_pages, block_size, dim]`, `table` a tensor with the numbers of the sequence's
# pages in order (perhaps with entries too many at its end). Return the sequence's first `length` keys, `[length,
# dim]`. The checks use random lengths and pages in random order; slots that hold no token of the sequence are full of
# NaN (*not a number*), so that taking one is noticed.
#
# What you need of torch: `cache[3]` is page 3, and `cache[table[0]]` the sequence's first page; `torch.cat(parts)` puts a
# list of tensors one behind the other; `x[:n]` are the first `n` rows.

# %%
def gather(cache, table, length):
    """The first `length` rows of a sequence, in order."""
    ### BEGIN SOLUTION
    block_size = cache.shape[1]
    num_pages = -(-length // block_size)  # rounded up
    return cache[table[:num_pages]].flatten(0, 1)[:length]
    ### END SOLUTION


check("4.1", gather)

# %% [markdown]
# Stuck? `hint("4.1")` gives a hint, and each further call one more.
#
# Does it work on the engine's own memory? We run the same requests in contiguous memory (lesson 2), where a sequence's
# keys do lie side by side, and compare.

# %%
twin = lesson04.short_run(seed=1, steps=16, block_size=8, num_blocks=24, memory="contiguous", reservation="oracle")
start = twin.page_map.sequences[sequence].region.start
side_by_side = lesson04.engine_kv(twin, layer=0)[0].flatten(0, 1)[start : start + length, 0]
try:
    print("equal:", torch.equal(gather(k_cache[:, :, 0], torch.tensor(table), length), side_by_side))
except NotImplementedError:
    print("write gather first")

# %% [markdown]
# ## A loop over pages
#
# To compute scores we don't need the keys together: a page at a time will do. The same holds for adding up the values.
# Only the softmax in between needs all scores at once; but a score is one number, and a key is `dim` of them.
#
# **Exercise 4.2.** Attention of one query over pages, without gathering keys or values: scores page by page, one
# softmax, values page by page. `k_cache` and `v_cache` are like `cache` in 4.1. Mind the last page: it need not be
# full.

# %%
def attend_pages(q, k_cache, v_cache, table, length):
    """Attention of the query `q` [dim] over the first `length` tokens of a sequence; returns [dim]."""
    ### BEGIN SOLUTION
    block_size, dim = k_cache.shape[1:]
    counts = [min(block_size, length - start) for start in range(0, length, block_size)]
    scores = torch.cat([k_cache[table[i]][:n] @ q for i, n in enumerate(counts)]) / math.sqrt(dim)
    weights = scores.softmax(dim=0).split(counts)
    return sum(weights[i] @ v_cache[table[i]][:n] for i, n in enumerate(counts))
    ### END SOLUTION


check("4.2", attend_pages)

# %% [markdown]
# If your output was NaN: a weight of 0 does not help against a slot that holds NaN, since 0 x NaN is NaN. In a real
# pool such slots hold what the page's last user left there. They must be left out, not multiplied by 0.
#
# ## A softmax that never sees everything
#
# With a million tokens even the scores are many, and a GPU's fast memory is small. Can the softmax itself go page by
# page? Its formula is exp(score) / (sum of all exp(score)). A sum can be built up page by page. But there is a catch.
#
# **Predict:** What is the largest whole number whose `exp` still fits in a float32?

# %%
predict("4.b", None)

# %%
whole = torch.arange(200, dtype=torch.float32)
reveal("4.b", int(whole[torch.exp(whole).isfinite()].max()))

# %% [markdown]
# Scores beyond that do occur. So softmax is always computed with the largest score subtracted: exp(score - largest) is
# at most 1, and the quotient is the same. But page by page we don't know the largest score of all, only the largest
# *so far*, m.
#
# The way out: keep sums with respect to m, and when a page brings a larger score m', repair them. Since exp(s - m') =
# exp(s - m) x exp(m - m'), one multiplication repairs the sum of everything before, whatever it was made of. This is
# the *online softmax* (Milakov and Gimelshein, 2018). Move the slider, page by page: the bars are shares of the
# weights seen so far, and the title says what the past was multiplied by.

# %%
pages = [scores for scores, _ in lesson04.score_pages(seed=3)]
lesson04.softmax_figure(pages)

# %% [markdown]
# **Exercise 4.3.** The state is `(largest, total, acc)`: the largest score so far, the sum of exp(score - largest),
# and the sum of the values, each times exp(score - largest). All three are tensors; at the start they are
# `torch.tensor(-math.inf)`, `torch.tensor(0.0)` and `torch.zeros(dim)`. Take in one page, `scores` `[n]` and `values`
# `[n, dim]`, and return the new state. `torch.maximum(a, b)` is the larger of two tensors. The checks look at `acc /
# total` after every page.

# %%
def add_page(state, scores, values):
    """The state after one more page."""
    largest, total, acc = state
    ### BEGIN SOLUTION
    new = torch.maximum(largest, scores.max())
    fade = torch.exp(largest - new)  # exp(-inf) is 0: at the first page nothing was there to keep
    weights = torch.exp(scores - new)
    return new, total * fade + weights.sum(), acc * fade + weights @ values
    ### END SOLUTION


check("4.3", add_page)

# %% [markdown]
# ## All of it, for a batch
#
# In a step of the engine many sequences have one query each, and every one has its own length and its own row of the
# block tables.
#
# **Exercise 4.4.** `q` is `[num_seqs, dim]`, `block_tables` `[num_seqs, max_pages]`, `context_lens` `[num_seqs]`. Use
# `add_page`: then at no time do you hold more than one page.

# %%
def paged_attention(q, k_cache, v_cache, block_tables, context_lens):
    """Attention of one query per sequence; returns [num_seqs, dim]."""
    block_size, dim = k_cache.shape[1:]
    out = torch.empty_like(q)
    ### BEGIN SOLUTION
    for s, length in enumerate(context_lens.tolist()):
        state = torch.tensor(-math.inf), torch.tensor(0.0), torch.zeros(dim)
        for start in range(0, length, block_size):
            n = min(block_size, length - start)
            page = block_tables[s, start // block_size]
            state = add_page(state, k_cache[page][:n] @ q[s] / math.sqrt(dim), v_cache[page][:n])
        out[s] = state[2] / state[1]
    ### END SOLUTION
    return out


check("4.4", paged_attention)

# %% [markdown]
# ## Split and merge
#
# The loop has one weakness: it takes one page after the other. A GPU has a hundred and more processors, and a single
# long sequence would keep one of them busy. So we cut the pages into parts, let each processor do the loop over one
# part, and merge the results. What has to be known of a part, besides its output? The weight that it has in the whole:
# the sum of its exponentials. To keep it in range one stores its logarithm, the *log-sum-exp*: lse = largest +
# log(total).
#
# **Predict:** One half of the keys has lse 3, the other lse 1. Which share of the whole does the first half get, in
# percent?

# %%
predict("4.c", None, unit="%")

# %%
share = math.exp(3) / (math.exp(3) + math.exp(1))
reveal("4.c", 100 * share, unit="%", how="computed")

# %% [markdown]
# **Exercise 4.5.** Merge two parts: from the output `[dim]` and the log-sum-exp of each, the output and the
# log-sum-exp of both together. All are tensors, an lse with a single number; `torch.logaddexp(a, b)` is log(exp(a) +
# exp(b)), without overflow. A part may be empty: then its output is zeros and its lse minus infinity. Two empty parts
# give an empty part.

# %%
def merge(out_a, lse_a, out_b, lse_b):
    """Attention over the keys of both parts: (out, lse)."""
    ### BEGIN SOLUTION
    lse = torch.logaddexp(lse_a, lse_b)
    if lse == -math.inf:
        return out_a, lse
    return torch.exp(lse_a - lse) * out_a + torch.exp(lse_b - lse) * out_b, lse
    ### END SOLUTION


check("4.5", merge)

# %% [markdown]
# Order and number of the parts do not matter, up to rounding. With `merge` a text can even be longer than the device's
# memory: attend to what is there, fetch the next pages, attend, merge.
#
# ## How the engine does it
#
# This is the engine's own merging. It is your formula: the weight of part b, exp(lse_b - lse), is the `sigmoid` of lse_b -
# lse_a, and `lerp` is a mean with two weights that add up to 1.

# %%
from paged_kernels import merge as engine_merge

show_source(engine_merge.merge_partial, lines=(28, 37))

# %% [markdown]
# And this is attention on the CPU. It gathers, in tiles of 64 keys, because on a CPU a few large products of matrices
# beat many small ones; the GPU kernel of lesson 5 does not. `index_select` is the gathering; `baddbmm` and `_product` are
# products of many matrices at once, `MOST_ROWS` rows of each at a time, and `_joined` puts the results together again.
# Pass over `softcap` and `sinks`, which a few models need, and the reshaping around
# them. *GQA* (grouped-query attention) is what lesson 1 said of KV heads: several query heads use the same keys.

# %%
from paged_kernels import torch_attention

show_source(torch_attention.paged_attention, lines=(27, 50))

# %% [markdown]
# ## Is it really the same?
#
# Sums in another order round differently. How far is one way from another? We compare with 64-bit arithmetic.

# %%
def worst(attend, seeds=range(20)):
    """The largest difference to float64 attention over several random scenes."""
    found = []
    for seed in seeds:
        scene = lesson04.make_scene(seed)
        k, v = scene.k_cache[:, :, 0], scene.v_cache[:, :, 0]
        for s, n in enumerate(scene.lengths):
            table = scene.block_tables[s]
            right, _ = lesson04.reference(scene.q[s, 0], lesson04.rows(k, table, n), lesson04.rows(v, table, n))
            found.append((attend(scene.q[s, 0], k, v, table, n).double() - right).abs().max().item())
    return max(found)


# %%
def online(q, k, v, table, n):
    return paged_attention(q[None], k, v, table[None], torch.tensor([n]))[0]


for name, attend in (("one softmax, page by page", attend_pages), ("online softmax", online)):
    try:
        print(f"{name}: differs by at most {worst(attend):.1e} (measured)")
    except NotImplementedError:
        print(f"{name}: not written yet")

# %% [markdown]
# Float32 has about seven digits, and that is what is left: paging changes *where* keys lie, not *what* is computed.
# (The engine goes further: on a CPU its tiles keep the order of all sums, so that the bits are the same whatever the
# page size. `docs/design.md` says how.)
#
# ## What the paper says, what we measured
#
# Kwon et al. (SOSP 2023), section 4.1: *"Unlike the traditional attention algorithms, PagedAttention allows storing
# continuous keys and values in non-contiguous memory space."* Equation 4 there is your exercise 4.2, block by block;
# Fig. 5 shows it on three blocks. What it costs: in Fig. 18a their attention kernel is 20 to 26 percent slower than
# one for contiguous memory, because of the block table, the branches, and the unequal lengths (section 7.1). The rest
# of the model is not affected. The paper's kernel takes a sequence as a whole; splitting came later (Flash-Decoding,
# Dao et al. 2023), and today's kernels, this project's too, do it.
#
# We measured our own kernel on an H200 (`docs/benchmarks.md`, "Paged against contiguous attention"). When it decodes
# on pages in random order, it takes 4 to 22 % longer than torch's attention on contiguous memory (for one short
# sequence it is 10 % faster). Most of that is not paging: on pages that lie in order it still takes up to 13 % longer.
#
# ## Questions without end
#
# Each is about another run of the engine. The number (the *seed*) makes the question: the same number, the same
# question. Without buttons, in a terminal for instance, use `quiz("4", seed=0).answer(...)` and `.solution()`.

# %%
from workbench.widgets import QuizBox

QuizBox(quiz("4", seed=0))

# %%
progress("4")

# %% [markdown]
# **Links.** Words: *PagedAttention*, *block table*, *slot* in the glossary (`workbench.glossary.find("PagedAttention")`).
# Next: lesson 5, where the loop over pages becomes a Triton kernel. Further: Milakov and Gimelshein, *Online normalizer
# calculation for softmax* (2018); `kernels/paged_kernels/torch_partial.py`.
