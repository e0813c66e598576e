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
# # 3. Pages
#
# **Question.** In lesson 2 every request reserved one unbroken region for its KV cache, and most of the memory held
# nothing. What if a request's keys and values need not lie side by side?
#
# You will see the example of the PagedAttention paper run on a real engine, write the part of an engine that hands out pages,
# and check it against the real one. About 40 minutes.
#
# You need from lessons 1 and 2: a *slot* is the room for one token's keys and values in all layers; a *region* is an
# unbroken run of slots.

# %%
from workbench import views
from workbench.course import check, hint, predict, progress, quiz, reveal, show_source
from workbench.course.lessons import lesson03
from workbench.course.lessons.lesson03 import Books, fig6_engine, table_of

# %% [markdown]
# ## Memory in pages
#
# An operating system has had this problem since the 1960s: programs want memory that looks unbroken, and unbroken pieces
# of the right size are hard to find. Its answer is *paging*, and the same answer works here.
#
# - All KV memory is cut into **pages** of the same size, for a few tokens each. The paper says *block*; here both words mean
#   the same. How many slots a page has is the **block size**.
# - A sequence (one line of tokens: a prompt and its continuation) counts its own pages 0, 1, 2, ...: these are its **logical
#   pages**. They are filled from the first slot to the last.
# - The memory counts its pages 0, 1, 2, ..., too: these are the **physical pages**.
# - The sequence's **block table** says for each logical page which physical page it is. It is a list:
#   `block_table[logical] == physical`.
# - Physical pages that nobody has are on the **free list**. Who needs a page takes the first of the list.
#
# Nothing is reserved for later: a sequence takes a page when it has a token to put there.

# %% [markdown]
# ## The paper's example
#
# Kwon et al. (SOSP 2023, section 4.3, Fig. 6) show one request with the prompt "Four score and seven years ago our". A page
# holds 4 tokens. The paper's model writes "fathers", then "brought".
#
# The paper counts seven words as seven tokens. The tokenizer of our small model cuts "Four" and "score" into two pieces each.
# So we leave out "Four": six words, seven tokens.

# %%
tokenize = lesson03.tiny().tokenizer.tokenize
[piece.replace("Ġ", " ") for piece in tokenize(lesson03.FIG6_PROMPT)]

# %% [markdown]
# In the paper's picture the request's logical pages 0, 1, 2 are the physical pages 7, 1, 3. To make that happen here, we give
# the engine 8 pages and let eight small requests come first. Each gets one page, so that all are taken. The requests on
# pages 7, 1 and 3 are the first to end, in this order. Then the free list is 7, 1, 3.
#
# Predict, before you run anything:
#
# - **3.a** How many pages does our request need to *begin*, that is for its 7 prompt tokens?
# - **3.b** Generated tokens are stored, too, each one step after it was written (only then is it fed to the model). When
#   the prompt is in memory, and then one generated token after the other is stored: which one is the first that needs a
#   third page? The 1st, the 2nd, the 3rd, ...?

# %%
predict("3.a", None, unit="pages")

# %%
predict("3.b", None)

# %%
llm, timeline, request = fig6_engine()
while llm.has_unfinished:
    llm.step()
    table = table_of(llm.page_map, request)
    print(f"step {llm.step_number}: free list {llm.page_map.free_list()}, block table {table}")

# %% [markdown]
# Read it line by line. In steps 1 and 2 our request waits: at first no page is free, after step 1 one, and it needs two. In
# step 3 it gets pages 7 and 1. In step 5 it needs one more and gets page 3. When it ends, in step 8, its pages are free
# again.

# %%
began = timeline.state_at(3)
reveal("3.a", len(table_of(began, request)), "pages")

# %%
growth = next(step for step in range(3, 9) if len(table_of(timeline.state_at(step), request)) == 3)
reveal("3.b", growth - 3)

# %% [markdown]
# The prompt fills logical page 0 and three of the four slots of logical page 1. The first generated token goes into the slot
# that is left. The second one finds both pages full, and gets a new page.
#
# Here is the block table after step 5. Each row is a logical page with the tokens in it; the line leads to the physical
# page.

# %%
state = timeline.state_at(5)
sequence = state.requests[request].sequence
views.block_table_view(state, sequence).figure

# %% [markdown]
# Now step through the run yourself. Go to step 3 and forward to step 5; then back. Look at page 3: who had it before? The
# letters name requests: ours came ninth, so it is I.

# %%
from workbench.widgets import Stepper

Stepper(timeline, step=3)

# %% [markdown]
# ## Exercise 3.1: where is a token?
#
# Slots are counted through the whole memory: physical page 0 has slots 0 to B-1, page 1 has B to 2B-1, where B is the block
# size. Write a function that says in which slot the token at `position` (counted from 0) of a sequence lies.
#
# Try it on the example: token 5 is the second one of logical page 1, which is physical page 1. So it lies in slot 5. And
# token 0?

# %%
def slot(block_table, position, block_size):
    """The number of the slot of the token at `position`."""
    ### BEGIN SOLUTION
    logical, offset = divmod(position, block_size)
    return block_table[logical] * block_size + offset
    ### END SOLUTION


check("3.1", slot)

# %% [markdown]
# If you are stuck, each call of `hint("3.1")` says a little more. A check that fails names the first token that is wrong.
#
# The engine computes this number for every token of a step. The list is called the *slot mapping*, and it is all that the
# code which writes keys and values has to know about pages.

# %% [markdown]
# ## Exercise 3.2: a page when it is needed
#
# Now the other side: who fills the block tables? You write a *block manager*. It keeps its books in an object with three
# things:

# %%
show_source(Books)

# %% [markdown]
# `grow(sequence, num_tokens)` makes room for `num_tokens` tokens **in all**.
#
# - A sequence that has no table yet begins with an empty one.
# - Pages come from the front of the free list, only as many as are needed, and go to the end of the sequence's table.
# - It returns True. If too few pages are free, it returns False, **and nothing has changed**: no page is taken, no table is
#   made.

# %%
class Growing(Books):
    def grow(self, sequence, num_tokens):
        """Makes room for `num_tokens` tokens in all; False if too few pages are free."""
        ### BEGIN SOLUTION
        table = self.tables.get(sequence, [])
        missing = -(-num_tokens // self.block_size) - len(table)
        if missing > len(self.free):
            return False
        self.tables[sequence] = table + [self.free.popleft() for _ in range(missing)]
        return True
        ### END SOLUTION


check("3.2", Growing)

# %% [markdown]
# The check makes random pools and random sequences, calls your manager and the engine's own (`PagedMemory`), and compares
# all tables after every call.
#
# ## Exercise 3.3: and back
#
# `release(sequence)` takes all pages of a sequence back and forgets its table. The pages go to the **end** of the free list,
# **the last page of the table first**. Any order would be correct; this is the engine's. It has a reason that you will meet in
# lesson 6.

# %%
class BlockManager(Growing):
    def release(self, sequence):
        """Gives all pages of the sequence back, its last page first."""
        ### BEGIN SOLUTION
        self.free.extend(reversed(self.tables.pop(sequence)))
        ### END SOLUTION


check("3.3", BlockManager)

# %% [markdown]
# ## Exercise 3.4: foretell a real run
#
# Nothing to write. The check runs the real engine with the real model on a few random requests, in a pool that is too small
# for all of them. Then your manager gets the same calls, in the same order: which sequence needs room for how many
# tokens, which sequence is taken out. If your books are right, it names every page that the engine used.

# %%
check("3.4", BlockManager)

# %% [markdown]
# Compare your code with the engine's. `PagedMemory` does the same and more (lesson 6). For now look at the loop in `_grow`:
# its first three lines are yours; the last one reports the page as an *event*, from which all pictures are made. `_take_block`
# takes a page of the free list, with `allocate`.

# %%
from workbench.memory.block_pool import BlockPool
from workbench.memory.paged import PagedMemory

show_source(PagedMemory._grow)

# %%
show_source(BlockPool.allocate)

# %% [markdown]
# ## What is still wasted?
#
# - **3.c** At any moment, how many of a sequence's slots can be empty at most, if a page has 16 slots?

# %%
predict("3.c", None, unit="slots")

# %%
run = lesson03.small_run()
most = 0
for step in range(1, run.last_step + 1):
    for s in run.state_at(step).sequences.values():
        most = max(most, len(s.block_table) * 16 - s.num_computed_tokens)
reveal("3.c", most, "slots")

# %% [markdown]
# Only the last page of a sequence can have empty slots, and at least one of its slots is filled, or it would not have been
# taken. So at most 15 of 16 are empty: less than one page per sequence, however long the sequence gets. (As long as a
# prompt is computed in one step, as here. Lesson 7 has an exception.) And no free page is too small for anybody: *external
# fragmentation*, the free memory of lesson 2 that nobody could use, is gone.
#
# ## What the paper says, what we saw
#
# - vLLM, the server that the paper presents, "limits all the memory wastes for a request within one block" (section 4.3):
#   that is 3.c.
# - Fig. 2: in vLLM 96.3 % of the KV memory that is used holds tokens, against 20.4 % to 38.2 % in earlier systems. For our
#   own figures see lesson 2.
# - Section 7.2: small pages waste less; large ones are read faster. The paper chose 16 tokens.
# - Reading pages that lie anywhere costs something: their attention kernel took 20 to 26 % longer than one on contiguous
#   memory (section 7.1, Fig. 18a). Lessons 4 and 5 are about that kernel.
#
# ## Questions without end
#
# Each is about another step of another real run. The number (the *seed*) makes the question: the same number, the same
# question. Without buttons, in a terminal for instance, use `quiz("3", seed=0).answer(...)` and `.solution()`.

# %%
from workbench.widgets import QuizBox

QuizBox(quiz("3", seed=0))

# %%
progress(3)

# %% [markdown]
# ## Links
#
# - Words: *page*, *block table*, *logical block*, *physical block*, *slot mapping* in the glossary (`workbench.glossary.find("page")`).
# - Kwon et al., SOSP 2023, sections 4.1 to 4.3. The analogy to an operating system is theirs.
# - `docs/design.md`, "One step": where in a step of the engine pages are handed out.
# - Next: lesson 4, how attention reads keys and values that lie in pages. Lesson 6: pages that several sequences share.
