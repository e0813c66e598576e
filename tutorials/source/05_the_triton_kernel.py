# %% [markdown]
# # 5. The Triton kernel
#
# Lesson 4 ended with attention page by page, in Python loops. A GPU can't run those. **How is the same thing written
# so that thousands of threads do it at once?**
#
# You write the kernel in six small puzzles, from "load one page" to attention over a block table with grouped heads. A
# *kernel* is a function that a GPU runs many times side by side. Triton is a language for kernels that looks like
# Python; the engine's own kernels are written in it.
#
# *You need:* lesson 4. No GPU: Triton has an interpreter, which runs kernels step by step on the CPU, slowly, and lets
# you use `print`. *Time:* about 40 minutes.

# %%
import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # must be set before triton is imported

from workbench.course import check, hint, predict, progress, quiz, reveal, show_source
from workbench.course.lessons import lesson05
from workbench.course.lessons.lesson05 import tl, triton

lesson05.where()

# %% [markdown]
# If the line above says that Triton is missing (on macOS and Windows it is), read on all the same: each puzzle has a
# *spec* in plain torch, which runs everywhere; only the checks need Triton.
#
# ## Four words
#
# - A *program* is one run of the kernel. All programs run the same code; `tl.program_id(0)` tells them apart.
# - A *pointer* is the place of a tensor's first number. `pointer + 7` is the place of its eighth number. A kernel gets
#   pointers, not tensors: it must know itself how many numbers a row has.
# - A *block* is a small array in the program's own fast memory (here the word has nothing to do with the paper's
#   blocks; we say *page* for those). `tl.arange(0, 4)` is the block 0, 1, 2, 3. Sizes of blocks are powers of two,
#   known beforehand: `tl.constexpr`.
# - `tl.load(pointers)` reads a block of numbers from a block of pointers, `tl.store(pointers, block)` writes one.
#
# Here is a whole kernel; `@triton.jit` makes one of a function. A tensor that is passed comes in as a pointer. Four
# programs each double four numbers.

# %%
@triton.jit
def double(x_ptr, out_ptr, SIZE: tl.constexpr):
    places = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(out_ptr + places, 2 * tl.load(x_ptr + places))


if lesson05.HAS_TRITON:
    x = torch.arange(16.0, device=lesson05.DEVICE)
    out = torch.empty_like(x)
    double[(4,)](x, out, SIZE=4)  # in the brackets: how many programs
    print(out)

# %% [markdown]
# ## Puzzle 1: load one page
#
# The keys of one layer and one head are `[num_pages, block_size, dim]`, row after row without gaps.
#
# **Predict:** `block_size` is 16 and `dim` 16. At which number of the tensor does slot 3 of page 5 begin?

# %%
predict("5.a", None)

# %%
cache = torch.zeros(8, 16, 16)
reveal("5.a", cache[5, 3].storage_offset(), how="computed")

# %% [markdown]
# So a place is (page x block_size + slot) x dim + the number within the row. With `slot[:, None]` (a column) and
# `dim[None, :]` (a row) one gets all places of a page as a block with `BLOCK_SIZE` rows and `DIM` columns: as in torch,
# a column and a row together, `column + row` or `column * row`, fill a block.
#
# The spec, for pages that are full. The kernel writes its result to `out`, row after row, too:

# %%
show_source(lesson05.spec_load_page)

# %%
@triton.jit
def load_page(cache_ptr, out_ptr, page, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    """Copy a page to out, `[BLOCK_SIZE, DIM]`."""
    slot = tl.arange(0, BLOCK_SIZE)
    dim = tl.arange(0, DIM)
    ### BEGIN SOLUTION
    places = slot[:, None] * DIM + dim[None, :]
    tl.store(out_ptr + places, tl.load(cache_ptr + page * BLOCK_SIZE * DIM + places))
    ### END SOLUTION


check("5.1", load_page)

# %% [markdown]
# In the interpreter a wrong address is harmless: the check sees every address before it is used. On a GPU the kernel
# crashes, or reads somebody else's memory.
#
# ## Puzzle 2: not all slots hold a token
#
# The last page of a sequence is rarely full. What lies in its other slots is left over from somebody else; in the
# checks it is NaN. `tl.load` has a *mask* for that: where it is false nothing is read, and `other` is put there.

# %%
show_source(lesson05.spec_load_tokens)

# %%
@triton.jit
def load_tokens(cache_ptr, out_ptr, page, count, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    """Copy the first `count` rows of a page to out, `[BLOCK_SIZE, DIM]`, and zeros below them."""
    slot = tl.arange(0, BLOCK_SIZE)
    dim = tl.arange(0, DIM)
    ### BEGIN SOLUTION
    places = slot[:, None] * DIM + dim[None, :]
    rows = tl.load(cache_ptr + page * BLOCK_SIZE * DIM + places, mask=(slot < count)[:, None], other=0.0)
    tl.store(out_ptr + places, rows)
    ### END SOLUTION


check("5.2", load_tokens)

# %% [markdown]
# ## Puzzle 3: products with a query
#
# `scale` is 1 / the root of dim. The score of a slot without a token is minus infinity: then it gets no weight in the
# softmax; it is written `float("-inf")`. `tl.sum(block, axis=1)` adds up each row; `tl.where(condition, a, b)` takes
# from `a` where the condition holds, else from `b`. In the interpreter you may `print` a block.

# %%
show_source(lesson05.spec_scores)

# %%
@triton.jit
def page_scores(q_ptr, k_ptr, out_ptr, page, count, scale, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    """The scores of a page's slots, `[BLOCK_SIZE]`."""
    slot = tl.arange(0, BLOCK_SIZE)
    dim = tl.arange(0, DIM)
    ### BEGIN SOLUTION
    q = tl.load(q_ptr + dim)
    places = page * BLOCK_SIZE * DIM + slot[:, None] * DIM + dim[None, :]
    keys = tl.load(k_ptr + places, mask=(slot < count)[:, None], other=0.0)
    scores = tl.sum(q[None, :] * keys, axis=1) * scale
    tl.store(out_ptr + slot, tl.where(slot < count, scores, float("-inf")))
    ### END SOLUTION


check("5.3", page_scores)

# %% [markdown]
# ## Puzzle 4: softmax over one page
#
# `tl.max(block, axis=0)` and `tl.exp(block)` are what you expect. Scores may be around 100, so subtract the largest
# one first (lesson 4).

# %%
show_source(lesson05.spec_attend_page)

# %%
@triton.jit
def attend_page(q_ptr, k_ptr, v_ptr, out_ptr, page, count, scale, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    """Attention over the tokens of one page, `[DIM]`."""
    slot, dim = tl.arange(0, BLOCK_SIZE), tl.arange(0, DIM)
    ### BEGIN SOLUTION
    inside = slot < count
    places = page * BLOCK_SIZE * DIM + slot[:, None] * DIM + dim[None, :]
    keys = tl.load(k_ptr + places, mask=inside[:, None], other=0.0)
    values = tl.load(v_ptr + places, mask=inside[:, None], other=0.0)
    scores = tl.sum(tl.load(q_ptr + dim)[None, :] * keys, axis=1) * scale
    scores = tl.where(inside, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, axis=0))
    out = tl.sum(weights[:, None] * values, axis=0) / tl.sum(weights, axis=0)
    tl.store(out_ptr + dim, out)
    ### END SOLUTION


# %%
check("5.4", attend_page)

# %% [markdown]
# ## Puzzle 5: over a block table
#
# Now several sequences, one program each. The block tables lie row after row, each row `max_pages` long; `lens` has
# the lengths.
#
# Here is the engine with three requests. In a step in which all of them write a token, program 0 takes the first row of
# the block tables, program 1 the second. Step forward, and say each time what program 0 reads: which pages, in which
# order, and how many slots of the last one.

# %%
from workbench.events import Timeline
from workbench.widgets import Stepper

llm = lesson05.short_run(seed=2, steps=0, block_size=8, num_blocks=24)
timeline = Timeline(llm.bus)
for _ in range(14):
    llm.step()
Stepper(timeline, step=2)

# %% [markdown]
# Now the pool of a puzzle, with a row per page. Move the slider: it shows what the block table of sequence 0 asks for,
# page by page.

# %%
scene = lesson05.make_scene(seed=2, num_seqs=2, block_size=8)
print("block table of sequence 0:", scene.block_tables[0].tolist(), " length:", scene.lengths[0])
lesson05.reads_figure(scene, lesson05.planned_reads(scene, 0), "sequence 0, as planned")

# %% [markdown]
# The kernel is in two parts, each in a cell. The first takes one page into the state of the online softmax, whose
# names are as in lesson 4, and returns the new `largest, total, acc`, in this order. A kernel may call another function
# under `@triton.jit`. `tl.maximum(a, b)` is the larger of two.

# %%
@triton.jit
def one_more_page(q, k_ptr, v_ptr, page, count, scale, largest, total, acc,
                  BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    """The state with one more page, of which the first `count` slots hold tokens; `q` is a block, `[DIM]`."""
    slot, dim = tl.arange(0, BLOCK_SIZE), tl.arange(0, DIM)
    places = page * BLOCK_SIZE * DIM + slot[:, None] * DIM + dim[None, :]
    ### BEGIN SOLUTION
    inside = slot < count
    keys = tl.load(k_ptr + places, mask=inside[:, None], other=0.0)
    values = tl.load(v_ptr + places, mask=inside[:, None], other=0.0)
    scores = tl.where(inside, tl.sum(q[None, :] * keys, axis=1) * scale, float("-inf"))
    new = tl.maximum(largest, tl.max(scores, axis=0))
    fade, weights = tl.exp(largest - new), tl.exp(scores - new)
    return new, total * fade + tl.sum(weights, axis=0), acc * fade + tl.sum(weights[:, None] * values, axis=0)
    ### END SOLUTION


# %% [markdown]
# The second is the kernel. Given are the query, the start of the state and the store. Write the loop over the pages:
# `for start in range(0, length, BLOCK_SIZE)`, the page's number from the block table, `one_more_page`. As `count` you
# may pass `length - start`, the tokens that are left: if these are more than a page holds, all of its slots count.

# %%
@triton.jit
def attend(q_ptr, k_ptr, v_ptr, out_ptr, tables_ptr, lens_ptr, max_pages, scale,
           BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    seq, dim = tl.program_id(0), tl.arange(0, DIM)
    length = tl.load(lens_ptr + seq)
    q = tl.load(q_ptr + seq * DIM + dim)
    largest, total, acc = float("-inf"), 0.0, tl.zeros([DIM], tl.float32)
    ### BEGIN SOLUTION
    for start in range(0, length, BLOCK_SIZE):
        page = tl.load(tables_ptr + seq * max_pages + start // BLOCK_SIZE)
        largest, total, acc = one_more_page(
            q, k_ptr, v_ptr, page, length - start, scale, largest, total, acc, BLOCK_SIZE, DIM)
    ### END SOLUTION
    tl.store(out_ptr + seq * DIM + dim, acc / total)


check("5.5", attend)

# %% [markdown]
# What did your kernel really read? In the interpreter every load of keys was on record. (Empty on a GPU, or as long as
# the kernel is not written.) It should look like the plan above.

# %%
read = lesson05.reads(attend, scene, sequence=0)
lesson05.reads_figure(scene, read, "sequence 0, as read by your kernel")

# %% [markdown]
# ## Puzzle 6: grouped heads
#
# So far there was one head. Real models have many query heads and fewer KV heads, heads with keys and values: in the
# bundled model 6 query heads share 2 KV heads, in groups of 3 (*grouped-query attention*, GQA). Query head h reads KV
# head h // 3.
#
# **Predict:** If each *query head* had a program of its own, how many times would the bundled model's keys be loaded
# in a step, compared with a program for each *KV head*?

# %%
predict("5.b", None, unit="times")

# %%
reveal("5.b", 6 / 2, unit="times", how="computed")

# %% [markdown]
# Attention in a decode step takes about as long as reading the keys and values takes (lesson 4). So one program does a
# whole group: it loads a page once and uses it for all query heads of the group. Blocks get one dimension more: scores
# are `[GROUP, BLOCK_SIZE]`, `largest` and `total` `[GROUP]`, `acc` `[GROUP, DIM]`. The cache is now `[num_pages,
# block_size, num_kv_heads, dim]`, so from one slot to the next it is `row = num_kv_heads * DIM` numbers. (The checks
# use groups of 1, 2 and 4, since a block's size is a power of two. The engine's kernel pads a group of 3 and masks.)

# %%
@triton.jit
def page_for_group(q, k_ptr, v_ptr, count, row, scale, largest, total, acc,
                   BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    """As `one_more_page` for q `[GROUP, DIM]`; the pointers are at our KV head's part of the page's first slot."""
    slot, dim = tl.arange(0, BLOCK_SIZE), tl.arange(0, DIM)
    inside, places = slot < count, slot[:, None] * row + dim[None, :]
    ### BEGIN SOLUTION
    keys = tl.load(k_ptr + places, mask=inside[:, None], other=0.0)
    values = tl.load(v_ptr + places, mask=inside[:, None], other=0.0)
    scores = tl.sum(q[:, None, :] * keys[None, :, :], axis=2) * scale
    scores = tl.where(inside[None, :], scores, float("-inf"))
    new = tl.maximum(largest, tl.max(scores, axis=1))
    fade, weights = tl.exp(largest - new), tl.exp(scores - new[:, None])
    acc = acc * fade[:, None] + tl.sum(weights[:, :, None] * values[None, :, :], axis=1)
    return new, total * fade + tl.sum(weights, axis=1), acc
    ### END SOLUTION


# %% [markdown]
# In the kernel, `mine` are the places of the group's numbers in `q` and in `out`: both are `[num_seqs, num_heads,
# dim]`. Write the loop again. Move both pointers to where our KV head's part of the page's first slot begins, and hand
# them to `page_for_group`.

# %%
@triton.jit
def attend_grouped(q_ptr, k_ptr, v_ptr, out_ptr, tables_ptr, lens_ptr, max_pages, scale, num_kv_heads,
                   GROUP: tl.constexpr, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    seq, kv_head, member, dim = tl.program_id(0), tl.program_id(1), tl.arange(0, GROUP), tl.arange(0, DIM)
    length, row = tl.load(lens_ptr + seq), num_kv_heads * DIM
    mine = (seq * num_kv_heads * GROUP + kv_head * GROUP + member)[:, None] * DIM + dim[None, :]
    largest, total = tl.full([GROUP], float("-inf"), tl.float32), tl.zeros([GROUP], tl.float32)
    q, acc = tl.load(q_ptr + mine), tl.zeros([GROUP, DIM], tl.float32)
    ### BEGIN SOLUTION
    for start in range(0, length, BLOCK_SIZE):
        page = tl.load(tables_ptr + seq * max_pages + start // BLOCK_SIZE)
        ours = page * BLOCK_SIZE * row + kv_head * DIM
        largest, total, acc = page_for_group(q, k_ptr + ours, v_ptr + ours, length - start, row, scale,
                                             largest, total, acc, BLOCK_SIZE, DIM)
    ### END SOLUTION
    tl.store(out_ptr + mine, acc / total[:, None])


# %%
check("5.6", attend_grouped)

# %% [markdown]
# This is a paged attention kernel. One thing is missing, the split of a long sequence over several programs (lesson 4,
# split and merge).
#
# ## The engine's kernel
#
# Below is the loop of the engine's own decode kernel. You will know most of it: `inside` is your mask, `new_largest`,
# `fade`, `total`, `acc` are the online softmax. It takes several small pages at a time (a *tile*); it uses `tl.dot`,
# the product of matrices for which GPUs have special units; `exp2` with a rescaled score (that is the `factor`) instead
# of `exp`, because the hardware has it; `bias_scores` scales, and adds what some models add to their scores; and it
# looks up the next page's number one tile ahead, so that no load has to wait for its own address.

# %%
if lesson05.HAS_TRITON:
    from paged_kernels import decode_kernel

    source = show_source(decode_kernel.decode_kernel, lines=(93, 117))
else:
    source = "needs triton: see kernels/paged_kernels/decode_kernel.py"
source

# %% [markdown]
# ## What the paper says, what we measured
#
# Kwon et al. (SOSP 2023), section 5.1: *"We adapt the attention kernel in FasterTransformer to read KV cache according
# to the block table and perform attention operations on the fly. To ensure coalesced memory access, we assign a GPU
# warp to read each block."* A warp is 32 threads that work in step; *coalesced* means that threads beside each other
# read numbers beside each other. In Triton you don't speak of threads: a `tl.load` of a block of neighbouring places
# is coalesced by the compiler. The price of paging: their kernel's attention is 20 to 26 percent slower than on
# contiguous memory (section 7.1, Fig. 18a). The size of a page: with ShareGPT lengths 16 to 128 tokens are best
# (section 7.2, Fig. 18b).
#
# We measured the engine's decode kernel on an H200, with 32 query heads and 8 KV heads of 128 numbers
# (`docs/benchmarks.md`, "Decode, microseconds"). The third column is what a plain copy of as many bytes would take;
# reading alone is faster than copying.
#
# | sequences x tokens | our kernel | a copy |
# |---|---|---|
# | 256 x 2,048 | 490 µs | 509 µs |
# | 1 x 32,768 | 42.5 µs | 31.8 µs |
# | 1 x 512 | 7.6 µs | 0.5 µs |
#
# So a full batch takes the time that its bytes take, and one short sequence far more than that.
#
# ## Questions without end
#
# Each is about another run of the engine. The number (the *seed*) makes the question: the same number, the same
# question. Without buttons, in a terminal for instance, use `quiz("5", seed=0).answer(...)` and `.solution()`.

# %%
from workbench.widgets import QuizBox

QuizBox(quiz("5", seed=0))

# %%
progress("5")

# %% [markdown]
# **Links.** Words: *page*, *block table*, *slot mapping* in the glossary (`workbench.glossary.find("block table")`).
# `kernels/paged_kernels/decode_kernel.py` (the whole kernel), `tests/kernels/` (how it is tested: with NaN in every
# slot that must not be read, as here). Triton's own tutorials; Sasha Rush's *Triton-Puzzles*, after which this lesson is
# made. Next: lesson 6, where several sequences use one page.
