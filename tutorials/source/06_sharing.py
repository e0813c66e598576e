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
# # 6. Sharing
#
# **Question.** Somebody asks for four answers to one prompt. The prompt's keys and values are the same for all four.
# Must they be stored four times? And if a thousand people send prompts that begin alike?
#
# (Such an answer is a **sample**: the model's scores become probabilities, and each next token is drawn at random by
# them. So the answers differ.)
#
# You will see two samples share pages and part, write the reference counts and the copy-on-write that make it safe,
# and then find pages by what is in them. About 40 minutes.
#
# You need from lesson 3: pages, block tables, the free list, and what `grow` and `release` do.

# %%
from workbench import views
from workbench.course import check, hint, predict, progress, quiz, reveal, show_source
from workbench.course.lessons import lesson06
from workbench.course.lessons.lesson06 import SharedBooks, fig8_engine, tables_of
from workbench.widgets import QuizBox, Stepper

# %% [markdown]
# ## One page, two block tables
#
# A block table says where a sequence's pages are. Nothing forbids that two tables name the same page: attention only
# *reads* keys and values. So the second sample of a prompt needs a block table of its own, but no pages. To make a
# sequence that begins with all tokens of another is to **fork** it.
#
# Two things can go wrong.
#
# - One of the two ends and gives its pages back, although the other one still reads them. So we count: the **reference
#   count** of a page is the number of block tables in which it is. A page is free only at 0.
# - One of the two must *write* to a page that both have: the last page of the prompt, if it is not full. Their next
#   tokens differ. So whoever writes to a page with a count above 1 gets a copy first: **copy-on-write**.

# %% [markdown]
# ## The paper's example
#
# Fig. 8 of the paper (section 4.4) is the request of lesson 3 with two samples, A1 and A2: seven prompt tokens on
# pages 7 and 1, of 4 tokens each. Page 1 holds three tokens. Then each sample stores its first token. The next free
# page is 3.
#
# - **6.a** How many pages do the two samples use together after that? (Without sharing: 2 each, 4.)
# - **6.b** How many pages are copied?

# %%
predict("6.a", None, unit="pages")

# %%
predict("6.b", None, unit="pages")

# %%
llm, timeline, request = fig8_engine()
while llm.has_unfinished:
    llm.step()
for step in range(3, 7):
    state = timeline.state_at(step)
    counts = {page: state.pages[page].ref_count for page in (7, 1, 3)}
    print(f"step {step}: tables {tables_of(state, request)}, reference counts {counts}")

# %%
after = timeline.state_at(4)
reveal("6.a", len({page for table in tables_of(after, request).values() for page in table}), "pages")

# %%
reveal("6.b", after.totals.blocks_copied, "pages")

# %% [markdown]
# In step 3 the prompt is computed once, and both samples point to pages 7 and 1: each has a count of 2. In step 4 the
# first sample must write into page 1. Its count is 2, so the content is copied to page 3, the first sample's table
# names 3 instead, and the count of page 1 falls to 1. Then the second sample writes: the count is 1 now, the page is
# its own, and nothing is copied. This is what Fig. 8 shows, with the paper's page numbers.

# %%
views.block_tables_view(after, request).figure

# %%
Stepper(timeline, step=3, selection=1)

# %% [markdown]
# Step from 3 to 4 and read the list of events. Then go to step 7, in which both samples end. Page 7 is released twice,
# but it becomes free only once: when?
#
# ## Exercise 6.1: fork and release
#
# Your books are those of lesson 3 and two more things: a count per page, and a length per sequence. `take` and `begin`
# are given.

# %%
show_source(SharedBooks)

# %% [markdown]
# - `fork(parent, child)`: the child has the same pages and the same length, in a table of its own.
# - `release(sequence)`: the sequence is gone from `tables` and `lengths`. Each of its pages has one reference less,
#   **the last page of the table first**; a page that nobody has any more goes to the end of the free list.

# %%
class Forking(SharedBooks):
    def fork(self, parent, child):
        """A new sequence `child` with all that `parent` has."""
        ### BEGIN SOLUTION
        self.tables[child] = list(self.tables[parent])
        self.lengths[child] = self.lengths[parent]
        for page in self.tables[child]:
            self.refs[page] += 1
        ### END SOLUTION


# %%
class Counting(Forking):
    def release(self, sequence):
        """Takes the sequence out; pages that nobody has any more are free."""
        ### BEGIN SOLUTION
        del self.lengths[sequence]
        for page in reversed(self.tables.pop(sequence)):
            self.refs[page] -= 1
            if self.refs[page] == 0:
                self.free.append(page)
        ### END SOLUTION


check("6.1", Counting)

# %% [markdown]
# The check compares tables, counts, lengths and the free list with the engine's own books after every call.
#
# ## Exercise 6.2: copy on write
#
# `append(sequence)` makes room for **one more token** and counts it in `lengths`. (Take it that a page is free when
# you need one.) Where the token goes, its length says: `divmod(length, block_size)` is the logical page and the place
# in it.
#
# - If that page does not exist yet, the sequence takes one.
# - If it exists and is the sequence's own, there is nothing to do.
# - If others use it, too, the sequence takes a page in its place, and the old one loses a reference. Then return the
#   copy that must be made: `(old page, new page)`. In all other cases return `None`.

# %%
class Sharing(Counting):
    def append(self, sequence):
        """Room for one more token; the copy `(source, destination)` if there must be one."""
        ### BEGIN SOLUTION
        table, copy = self.tables[sequence], None
        index, offset = divmod(self.lengths[sequence], self.block_size)
        if offset == 0:
            table.append(self.take())
        elif self.refs[table[index]] > 1:
            copy = (table[index], self.take())
            self.refs[copy[0]] -= 1
            table[index] = copy[1]
        self.lengths[sequence] += 1
        return copy
        ### END SOLUTION


# %%
check("6.2", Sharing)

# %% [markdown]
# The engine's lines for the third case:

# %%
from workbench.memory.paged import PagedMemory

show_source(PagedMemory._copy_on_write)

# %% [markdown]
# ## Beams
#
# Samples part once and never meet again. **Beam search** is livelier. It keeps the k most probable texts so far, the
# *beams*. At every step each beam is tried with every next token, and the k best of all these stay. So one beam may go
# on in two or three ways, and another one may end. Going on in several ways is a fork; ending is a release. The paper
# compares it to the tree of processes that repeated forks make in an operating system (section 4.4).
#
# Fig. 9 of the paper shows it with four beams on 13 pages. Here they are in the engine's books, before the next step:

# %%
from workbench.events.types import Cause

books = lesson06.fig9_books()
for beam in range(4):
    print(f"beam {beam}: pages {books.block_table(beam)}")

# %% [markdown]
# All four best continuations come from beams 1 and 2, two from each. Beams 0 and 3 are dropped. Say first: which pages
# become free, and which pages do all four share after that?

# %%
before = set(books.tables().free_blocks)
books.fork(1, 4, [])
books.fork(2, 5, [])
for dropped in (0, 3):
    books.free(dropped, Cause.BEAM_DROPPED)
print("freed:", sorted(set(books.tables().free_blocks) - before))
for beam in (1, 4, 2, 5):
    lesson06.one_page_more(books, beam)
    print(f"beam {beam}: pages {books.block_table(beam)}")

# %% [markdown]
# These are the figure's numbers: pages 2, 4, 5 and 8 become free, the new tokens go to pages 9 to 12. All four share
# pages 0, 1 and 3; two of them share page 6, the other two page 7. Nothing was copied.
#
# Now real beams. We run one prompt of 22 tokens, 24 more tokens, pages of 4, first with 4 samples, then with 4 beams.
# *Saved* is the share of the entries in all block tables that need no page of their own, as in the paper's Fig. 15.
#
# - **6.c** How many percent do 4 samples save, mean over all steps?
# - **6.d** And 4 beams?

# %%
predict("6.c", None, unit="%")

# %%
predict("6.d", None, unit="%")

# %%
_, samples = lesson06.sharing_run(4)
_, beams = lesson06.sharing_run(4, beams=True)
reveal("6.c", lesson06.saved(samples), "%")

# %%
reveal("6.d", lesson06.saved(beams), "%")

# %% [markdown]
# At most 75 % can be saved with 4 sequences: one page instead of four. Samples share the full pages of the prompt, and
# with every token this is a smaller part. Beams descend from each other, so that they also share much of what was
# written.
#
# The tree of pages, in the last step before the end: a bar is a run of pages, the thicker the more beams use it.

# %%
views.sharing_tree_view(beams.state_at(beams.last_step - 1)).figure

# %% [markdown]
# Step through the beams. The map is coloured by reference counts ("refs"), and the number is in the cell. Look for a
# step in which a page is copied (key `c`), and one in which a beam is dropped.

# %%
Stepper(beams, step=12, color_by="refs")

# %% [markdown]
# ## Exercise 6.3: foretell them
#
# Nothing to write. The check runs samples and beams on the real engine and gives your class the same calls: which
# sequence is forked, which one stores a token, which one ends. If your counts are right, you name every page.

# %%
check("6.3", Sharing)

# %% [markdown]
# ## Prefix caching
#
# Forks share within one request. But many prompts begin alike: instructions that an operator puts before every
# question, or a conversation that comes back with one more message. When the second request arrives, the first may be
# long gone.
#
# So pages are kept, and found again **by what is in them**. A full page gets a *name*, made from its tokens. When its
# count falls to 0 and it has a name, it is neither free nor in use: it is **cached**. A request whose text begins with
# the same tokens takes it, and need not compute them. If a page is needed and none is free, a cached one gives its
# content up: it is **evicted**.
#
# Two requests here begin with the same instructions. Pages have 8 tokens.

# %%
llm, timeline = lesson06.prefix_engine()
tokenize = lesson06.tiny().tokenizer.encode
first, second = "Why is the sky blue?", "How tall is a house?"
common = len(tokenize(lesson06.SYSTEM_PROMPT))
total = len(tokenize(lesson06.SYSTEM_PROMPT + second))
print(f"instructions: {common} tokens; with the second question: {total}")

# %% [markdown]
# - **6.e** The first request has run and is gone. How many prompt tokens must be computed for the second one?

# %%
predict("6.e", None, unit="tokens")

# %%
lesson06.ask(llm, first)
before = llm.page_map.totals.prefill_tokens
lesson06.ask(llm, second)
reveal("6.e", llm.page_map.totals.prefill_tokens - before, "tokens")

# %% [markdown]
# Only *full* pages are found. The tokens of the instructions in the page where the questions begin are computed again,
# and then the question.
#
# ## Exercise 6.4: names
#
# What is the name of a page? Not just a hash of its own tokens. Keys and values of a token depend on **all tokens
# before it**: in every layer but the first they are computed from what attention has mixed in. The same words behind
# another beginning have other keys and values. So the name of the page before goes into the hash: the names form a
# chain.
#
# The engine's hash takes both:

# %%
from workbench.memory.prefix_cache import page_hash

show_source(page_hash)

# %%
def page_names(token_ids, block_size):
    """The names of all full pages of a text, in order; the first page has b"" before it."""
    ### BEGIN SOLUTION
    names, name = [], b""
    for start in range(0, len(token_ids) // block_size * block_size, block_size):
        name = page_hash(name, token_ids[start : start + block_size])
        names.append(name)
    return names
    ### END SOLUTION


check("6.4", page_names)

# %% [markdown]
# ## Exercise 6.5: find a prefix
#
# `pages` tells where the content with a name lies: a dictionary from names to physical pages. Return the pages that
# hold the beginning of a text, in order.
#
# - Stop at the first page that is not there. Pages behind a gap are of no use now.
# - Leave at least the **last token** over, even if its page is there: the next token is made from what the model
#   computes for the last one, and that is not stored, only keys and values are.

# %%
def find_prefix(pages, token_ids, block_size):
    """Physical pages with the beginning of a text; its last token is left over."""
    ### BEGIN SOLUTION
    found = []
    for name in page_names(token_ids[:-1], block_size):
        if name not in pages:
            break
        found.append(pages[name])
    return found
    ### END SOLUTION


check("6.5", find_prefix)

# %%
show_source(PagedMemory._find_prefix)

# %% [markdown]
# And now the reason that lesson 3 owed you. Cached pages are evicted in the order in which they fell idle, the longest
# idle first. A sequence gives its *last* page back first, so the end of a text goes before its beginning. The other
# way round, a text's first page would be the first to go, and all others, still in memory, could not be found any more.

# %% [markdown]
# ## What the paper says, what we saw
#
# - Parallel samples share the prompt's pages; at most one page per sample is copied, the last one (section 4.4, Fig.
#   8). We ran the figure: 7 and 1 shared, 1 copied to 3.
# - Beam search shares more, and the pattern changes all the time; earlier systems often copied large parts of the cache
#   between beams (section 4.4, Fig. 9). We ran the figure in the engine's books: 4 pages freed, none copied.
# - Saved with 2 to 6 sequences (section 6.3): samples 6.1 to 9.8 %, beams 37.6 to 55.2 % with Alpaca lengths (Fig. 15);
#   16.2 to 30.5 % and 44.3 to 66.3 % with ShareGPT. Your 6.c and 6.d are from one small request with pages of 4, not
#   16: more of its prompt is in full pages.
# - A shared prefix: with 80 tokens in common 1.67 times the throughput of Oracle, the rule of lesson 2, in the server
#   Orca; with 341 tokens 3.58 times (section 6.4, Fig. 16). There the operator says beforehand which prefixes to keep
#   (section 4.4). That pages are found by names came later; vLLM calls it automatic prefix caching.

# %% [markdown]
# ## Questions without end
#
# Each is about another step of another real run. The number (the *seed*) makes the question: the same number, the same
# question. Without buttons, in a terminal for instance, use `quiz("6", seed=0).answer(...)` and `.solution()`.

# %%
QuizBox(quiz("6", seed=0))

# %%
progress(6)

# %% [markdown]
# ## Links
#
# - Words: *reference count*, *fork*, *copy-on-write*, *beam search*, *prefix cache*, *cached page*, *eviction* in the
#   glossary (`workbench.glossary.find("fork")`).
# - `docs/design.md`, "Sharing"; `docs/policies.md` for other orders of eviction. You write one of your own in lesson
#   9.
# - Next: lesson 7, who gets pages when there are not enough for everybody.
