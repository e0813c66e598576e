"""The words of the field, explained: plain data for the app's "Learn" tab, its help texts, and the notebooks.

"The paper" is Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention",
SOSP 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER = (
    "Kwon et al., Efficient Memory Management for Large Language Model Serving with PagedAttention, SOSP 2023 "
    "(arXiv 2309.06180)"
)
_PAPER = "Kwon et al. 2023, "
_ORCA = "Yu et al., Orca, OSDI 2022"


@dataclass(frozen=True)
class Term:
    """One entry.

    Attributes:
        name: the word.
        meaning: what it means, in one sentence.
        explanation: more, in two to four sentences.
        see: names of other entries.
        source: where it is defined or measured; empty if nowhere in particular.
        also: other names of the same thing, as they stand in code and in other texts.
    """

    name: str
    meaning: str
    explanation: str
    see: tuple[str, ...] = ()
    source: str = ""
    also: tuple[str, ...] = ()

    @property
    def anchor(self) -> str:
        """The ``id`` of the entry on a page: ``term-block-table``."""
        return anchor(self.name)


def anchor(name: str) -> str:
    """``term-`` and the name in lower case, words joined by ``-``."""
    return "term-" + "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def find(name: str) -> Term:
    """The entry with this name or other name, whatever its case.

    Raises:
        KeyError: there is none. The message lists the names that begin alike.
    """
    term = _BY_NAME.get(name.casefold())
    if term is None:
        near = [known.name for known in GLOSSARY if known.name[:1].casefold() == name[:1].casefold()]
        raise KeyError(f"name={name!r}: no such term; those with this letter: {', '.join(near) or 'none'}")
    return term


_TERMS = (
    Term(
        "Admission",
        "The decision to let a waiting request into the batch, and the memory that it gets then.",
        "Paged memory needs free pages for the prompt only; contiguous memory needs one free region for everything "
        "that the request may ever write. Requests are admitted in the order in which they came, so the one at the "
        "head of the queue holds up the others until its memory is there.",
        ("Watermark", "Queue", "Page", "Region"),
        _PAPER + "section 4.5",
    ),
    Term(
        "Allocated page",
        "A page that at least one sequence uses.",
        "It may be filled in part: the slots behind its last token are reserved for the next tokens of the same "
        "sequence. It becomes free or cached when the last of its users lets go of it.",
        ("Free page", "Cached page", "Reference count", "Page"),
        also=("allocated", "BlockAllocated"),
    ),
    Term(
        "Attention mass",
        "The share of the newest token's attention that a page gets, averaged over layers and heads.",
        "Attention weights of one query add up to 1, so the mass of a sequence's pages adds up to 1, or to less where "
        "a model's attention sinks take the rest. The engine samples it every few steps when it is asked to. A page "
        "with little mass hardly influenced the token that was written; that says nothing certain about later ones.",
        ("Page", "KV cache", "Placement"),
        also=("page mass", "PageMassSampled"),
    ),
    Term(
        "Beam search",
        "Decoding that keeps the k most probable continuations and drops the others after every token.",
        "Beams share the pages of what they have in common, the prompt and often much of the output. When a beam "
        "splits, the new one refers to the same pages; when it is dropped, its references go, and pages that nobody "
        "else uses become free. The pattern of sharing changes all the time, as processes do that are forked and "
        "killed.",
        ("Parallel samples", "Copy-on-write", "Reference count", "Sequence"),
        _PAPER + "section 4.4, Fig. 9",
        also=("beam_width",),
    ),
    Term(
        "Block size",
        "How many tokens fit into one page.",
        "Small pages waste little in the last page of a sequence and can be shared more often, but there are more of "
        "them to look up, and swapping them moves many small pieces. Large pages are the other way round. The paper "
        "found 16 tokens to be enough for a GPU's parallelism and small enough for most lengths.",
        ("Page", "Slot", "Internal fragmentation"),
        _PAPER + "section 7.2, Fig. 18b",
        also=("block_size", "page size"),
    ),
    Term(
        "Block table",
        "A sequence's list that says in which physical page each of its logical pages lies.",
        "The tokens of a sequence are in order, its physical pages need not be: entry i of the block table is the "
        "physical page that holds tokens i·B to (i+1)·B-1, where B is the block size. Attention reads the table to "
        "find the keys and values. It plays the part of an operating system's page table.",
        ("Logical block", "Physical block", "Slot mapping", "PagedAttention"),
        _PAPER + "section 4.3, Fig. 6",
        also=("block_table", "page table"),
    ),
    Term(
        "Buddy allocator",
        "An allocator that hands out regions whose sizes are powers of two, by halving larger ones.",
        "When both halves of a region are free again, they are merged. Every request is rounded up to a power of two, "
        "and what is free may lie in pieces too small to use. The paper's baselines, and the contiguous side here, "
        "allocate their regions in this way.",
        ("Region", "External fragmentation", "Contiguous memory", "Rounding"),
        _PAPER + "sections 3.1 and 6.1",
    ),
    Term(
        "Cached page",
        "A page that no sequence uses any more, kept because its content may be wanted again.",
        "Its reference count is 0, so it can be given to anybody at once; until then a request whose text begins "
        "alike can take it over without computing it again. It counts as available, not as waste.",
        ("Prefix cache", "Eviction", "Free page", "Reference count"),
        also=("cached", "cached block", "BlockCached"),
    ),
    Term(
        "Cause",
        'The answer to "why?" that every event about memory carries.',
        "Examples: the request was let in, the page before it was full, the page was shared and had to be written to, "
        "no free page was left. Views that colour pages by cause show the cause of the last change.",
        ("Event", "Preemption", "Copy-on-write"),
    ),
    Term(
        "Chunked prefill",
        "Computing a long prompt in several steps, a part in each, beside the decodes of other requests.",
        "A step has a budget of tokens. Without chunks a long prompt would fill whole steps, and everybody else would "
        "wait for their next token. The pages for the whole prompt are allocated at admission, and the result is the "
        "same as in one go.",
        ("Prefill", "Decode", "Token budget", "Continuous batching"),
        "Agrawal et al., Sarathi-Serve, OSDI 2024",
    ),
    Term(
        "Contiguous memory",
        "The KV cache of a request as one unbroken region, reserved when the request starts.",
        "This is what serving systems did before PagedAttention, because tensors are contiguous. As nobody knows how "
        "long an output gets, the region must be large enough for the longest case, and most of it may stay empty.",
        ("Region", "Reservation", "Max", "Pow2", "Oracle", "Buddy allocator"),
        _PAPER + "section 3.1, Fig. 3",
    ),
    Term(
        "Context length",
        "How many tokens of a sequence are in the KV cache and are read when its next token is computed.",
        "It grows by one with every decode step. Together with the block table it says which slots of the last page "
        "count.",
        ("Sequence", "Block table", "Computed tokens"),
        also=("context_lens",),
    ),
    Term(
        "Computed tokens",
        "How many tokens of a sequence have their keys and values in memory already.",
        "It starts at 0, or at the length of a prefix found in the cache, and reaches the length of the prompt when "
        "prefill ends. After a preemption with recomputation it is 0 again.",
        ("Prefill", "Recomputation", "Prefix cache"),
        also=("num_computed_tokens",),
    ),
    Term(
        "Continuous batching",
        "Deciding anew at every step which requests run, instead of once per batch.",
        "A request that has ended leaves at once, and a waiting one can take its place in the very next step. Short "
        "requests need not wait for long ones. How many fit is then a matter of memory.",
        ("Step", "Admission", "Decode", "Scheduler"),
        _ORCA + "; " + _PAPER + "section 2.3",
        also=("iteration-level scheduling",),
    ),
    Term(
        "Copy-on-write",
        "Copying a shared page at the moment when one of its users has to write to it.",
        "As long as sequences only read, one page serves them all. When one of them must put a token into a page "
        "whose reference count is above 1, it gets a copy of its own, and the count of the old page goes down by one. "
        "At most one page per sequence is copied at a split: the last one, if it is not full.",
        ("Reference count", "Shared page", "Parallel samples", "Beam search"),
        _PAPER + "section 4.4, Fig. 8",
        also=("copy_on_write", "CoW", "BlockCopied"),
    ),
    Term(
        "Cursor",
        "The step that is shown.",
        "It can be anywhere in the run, also while the run goes on. All views of the page follow the same cursor.",
        ("Step", "Recording", "Page map"),
    ),
    Term(
        "Decode",
        "The phase in which a request writes its output, one token per step.",
        "Each new token's keys and values are computed from all earlier ones, which are read from the KV cache. A "
        "step adds one slot per sequence, so now and then a sequence needs one more page. Reading the cache, not "
        "arithmetic, is what takes the time.",
        ("Prefill", "KV cache", "Continuous batching", "Slot"),
        _PAPER + "section 2.2",
        also=("autoregressive generation",),
    ),
    Term(
        "Device tier",
        "The pool of pages in the memory of the device that computes: on a GPU its own memory.",
        "Only pages here can be read by attention directly. On a CPU both tiers are ordinary memory: the second one "
        "stands for another memory, so that swapping can be seen without a GPU.",
        ("Host tier", "Pool", "Swapping"),
        also=("GPU block", "device page"),
    ),
    Term(
        "Event",
        "A record of one thing that happened: a page allocated, a token written, a request preempted.",
        "Every change of KV memory is one event, with its step, its order and its cause. What a page map shows at a "
        "step is computed from the events up to that step, which is why stepping back is exact and costs nothing.",
        ("Cause", "Step", "Recording", "Page map"),
    ),
    Term(
        "Eviction",
        "Taking a cached page from the prefix cache, so that it can hold something else.",
        "It happens when a page is needed and none is free. The policy says which goes first: the least recently used "
        "(LRU), the least often used (LFU), the oldest (FIFO), or those at the end of a prefix (leaf first). No "
        "running request loses anything by it.",
        ("Cached page", "Prefix cache", "Preemption"),
        also=("BlockEvicted",),
    ),
    Term(
        "External fragmentation",
        "Memory between regions that nobody can get, because the free pieces are too small or were lost to rounding.",
        "Enough slots may be free in total and still no piece is large enough for the next request. Pages of equal "
        "size can't have it: any free page fits anybody. One of the four parts of Fig. 2.",
        ("Internal fragmentation", "Reserved slots", "Token states", "Buddy allocator", "Waste"),
        _PAPER + "section 3.1, Figs. 2 and 3",
    ),
    Term(
        "Fork",
        "Splitting a sequence in two that have the same tokens so far.",
        "The new sequence gets a copy of the block table, not of the pages: every page that both use has its "
        "reference count raised by one. Parallel samples and beam search are made of forks.",
        ("Parallel samples", "Beam search", "Reference count", "Copy-on-write"),
        _PAPER + "section 5.2",
        also=("SequenceForked",),
    ),
    Term(
        "Free page",
        "A page that nobody uses and whose content is not wanted.",
        "Free pages wait in a list, from which the next allocation takes one.",
        ("Cached page", "Pool", "Page"),
        also=("free", "free block", "free list"),
    ),
    Term(
        "Host tier",
        "A second pool of pages, in the memory of the host computer, to which pages can be moved.",
        "It is larger and slower to reach. Swapped requests wait there, and sequences larger than the device's pool "
        "keep some of their pages there.",
        ("Device tier", "Swapping", "Placement"),
        _PAPER + "section 4.5",
        also=("CPU block", "host page"),
    ),
    Term(
        "Internal fragmentation",
        "Slots inside a request's own memory that it turned out never to need.",
        "In contiguous memory this is the part of the region beyond the final length. In paged memory it is at most "
        "the rest of the last page, fewer slots than a block size. It is known only when the request has ended, so a "
        "live view shows it as part of the reserved slots. One of the four parts of Fig. 2.",
        ("Reserved slots", "External fragmentation", "Token states", "Waste"),
        _PAPER + "section 3.1, Figs. 2 and 3",
    ),
    Term(
        "KV cache",
        "The keys and values of all tokens so far, kept so that they need not be computed again for each new token.",
        "Attention compares the new token's query with the keys of all earlier tokens and mixes their values. Both "
        "never change once they are computed. Per token it takes 2 x layers x KV heads x head size numbers: 800 KB "
        "for OPT-13B in half precision, so the cache, not the weights, decides how many requests run at once.",
        ("Token", "PagedAttention", "Slot", "Decode"),
        _PAPER + "sections 2.2 and 3",
    ),
    Term(
        "Logical block",
        "The i-th page of a sequence, counted from its beginning, wherever it lies in memory.",
        "Logical block 0 holds a sequence's first tokens, and logical blocks are filled from left to right. The block "
        "table translates each to a physical block, like virtual to physical addresses in an operating system.",
        ("Physical block", "Block table", "Page"),
        _PAPER + "section 4.2",
        also=("logical page",),
    ),
    Term(
        "Max",
        "Reserve for the longest sequence allowed.",
        "A server that knows nothing about the output has to do this. Most requests are far shorter, so most of what "
        "is reserved is never used. It is the paper's Orca (Max).",
        ("Pow2", "Oracle", "Reservation", "Contiguous memory"),
        _PAPER + "section 6.1",
        also=("Orca (Max)",),
    ),
    Term(
        "Oracle",
        "Reserve exactly what the request will need, as if its output length were known.",
        "No real server can know it, so this is the best that reserving can do. Even then slots stay empty until "
        "their token is written, and regions of unequal size leave gaps. It is the paper's Orca (Oracle).",
        ("Max", "Pow2", "Reservation", "Contiguous memory"),
        _PAPER + "section 6.1",
        also=("Orca (Oracle)",),
    ),
    Term(
        "Page",
        "A piece of KV memory of fixed size, for a fixed number of tokens; the paper calls it a block.",
        "Pages are handed out one at a time, when they are needed, and any free page will do. A page is free, cached "
        'or allocated; an allocated page may belong to several sequences. Here "page" and "block" mean the same.',
        ("Block size", "Slot", "Block table", "Reference count", "KV cache"),
        _PAPER + "sections 4.1 and 4.2",
        also=("block", "KV block"),
    ),
    Term(
        "Page map",
        "A picture of the pool: one cell per page, or one per slot, in the order of memory.",
        "Colour and letter say whose a page is, and hatching says what is in it. The same picture is drawn from a "
        "live run and from a recording.",
        ("Page", "Pool", "Cursor", "Event"),
        also=("PageMap",),
    ),
    Term(
        "PagedAttention",
        "Attention that reads keys and values from pages which need not lie side by side.",
        "For each page in the block table it computes the products of the query with the keys there, and combines the "
        "pages' results as one softmax. Apart from rounding, the result is the same as on contiguous memory.",
        ("KV cache", "Page", "Block table"),
        _PAPER + "section 4.1, Fig. 5",
    ),
    Term(
        "Parallel samples",
        "Several outputs for one prompt, drawn at random and written at the same time.",
        "The prompt's pages are stored once, and every sample refers to them. The last page, if it is not full, is "
        "copied for each sample that writes to it while others still use it. With long prompts this saves most of the "
        "memory.",
        ("Copy-on-write", "Shared page", "Fork", "Beam search"),
        _PAPER + "section 4.4, Fig. 8",
        also=("n", "parallel sampling"),
    ),
    Term(
        "Physical block",
        "A page of the pool, known by its number, whoever uses it.",
        "Page maps show physical blocks. Which sequence and which logical block it holds is in the block tables.",
        ("Logical block", "Block table", "Page", "Pool"),
        _PAPER + "section 4.2",
        also=("physical page", "block_id"),
    ),
    Term(
        "Placement",
        "Which pages of a sequence larger than the device's pool lie on the host.",
        "The oldest may go, or all but the first and the newest, or those that received the least attention. Pages on "
        "the host are brought to the device in parts when a step reads them.",
        ("Host tier", "Device tier", "Attention mass"),
    ),
    Term(
        "Pool",
        "All the KV memory that an engine has, allocated once when it starts.",
        "In paged memory it is an array of pages, in contiguous memory an arena of slots. On the Compare tab both "
        "sides have the same number of bytes.",
        ("Page", "Slot", "Region"),
        _PAPER + "section 4.2",
        also=("block pool",),
    ),
    Term(
        "Pow2",
        "Reserve the prompt, plus the output length rounded up to a power of two.",
        "It assumes that the output's length can be guessed to within a factor of two, which costs at most half of "
        "the region's output part. It is the paper's Orca (Pow2).",
        ("Max", "Oracle", "Reservation", "Contiguous memory"),
        _PAPER + "section 6.1",
        also=("Orca (Pow2)",),
    ),
    Term(
        "Preemption",
        "Taking all pages from a running request, because another one needs memory and none is left.",
        "Paged memory lets in more requests than could all grow to their end, so sometimes one has to give way: in "
        "the paper the one that came last. All its pages go, since attention needs all of them. It comes back later, "
        "by swapping or by recomputation, and writes the same text.",
        ("Swapping", "Recomputation", "Watermark", "Victim"),
        _PAPER + "section 4.5",
        also=("RequestPreempted",),
    ),
    Term(
        "Prefill",
        "The phase in which a prompt's keys and values are computed, many tokens in one step.",
        "All prompt tokens are known, so they are computed in parallel, and the pages of a prompt fill up within a "
        "few steps. At its end the first output token is there.",
        ("Decode", "Chunked prefill", "Computed tokens", "KV cache"),
        _PAPER + "section 2.2",
        also=("prompt phase",),
    ),
    Term(
        "Prefix cache",
        "Full pages kept under a name made of their text, so that requests that begin alike use them again.",
        "A page's name is a hash of its tokens and of the name of the page before it, so equal names mean equal text "
        "from the beginning on. Only full pages have names. A hit saves both the memory and the computing.",
        ("Cached page", "Eviction", "Shared page", "Prefill"),
        _PAPER + "section 4.4, Fig. 10 (prefixes chosen by hand)",
        also=("prefix caching", "PrefixHit"),
    ),
    Term(
        "Queue",
        "The requests that wait for memory, in the order in which they came.",
        "Only the head of the queue is looked at. A preempted request goes back to the front.",
        ("Admission", "Scheduler", "Preemption"),
        _PAPER + "section 4.5",
    ),
    Term(
        "Recomputation",
        "Preemption that drops a request's pages and computes them again when it comes back.",
        "The tokens written so far are known, so they are computed like a prompt, in parallel, which is faster than "
        "writing them was. Nothing is moved to the host. It costs computing instead of transfers.",
        ("Preemption", "Swapping", "Prefill"),
        _PAPER + "sections 4.5 and 7.3, Fig. 19",
        also=("recompute",),
    ),
    Term(
        "Recording",
        "A file with all events of a run, from which every step can be shown again.",
        "It ends in .kvtrace. It holds what happened, not pictures, and no keys and values. A recording that was cut "
        "off opens up to its last whole step.",
        ("Event", "Cursor", "Page map"),
        also=(".kvtrace", "trace"),
    ),
    Term(
        "Reference count",
        "How many sequences use a page.",
        "It goes up when a sequence is forked or finds the page in the prefix cache, and down when a sequence ends, "
        "is dropped or gets a copy. At 0 the page is free or cached. At 2 or more the page is shared and must not be "
        "written to.",
        ("Shared page", "Copy-on-write", "Fork", "Cached page"),
        _PAPER + "section 4.4",
        also=("ref_count", "references"),
    ),
    Term(
        "Region",
        "The unbroken run of slots that a request holds in contiguous memory.",
        "It is found at admission, keeps its place and its size, and is given back as a whole when the request ends.",
        ("Contiguous memory", "Reservation", "Buddy allocator"),
        _PAPER + "section 3.1",
        also=("RegionReserved", "arena"),
    ),
    Term(
        "Request",
        "One prompt sent to the model, with everything that is to be written for it.",
        "It has one sequence, or several for parallel samples and beams. On the page maps each request has a letter "
        "and a colour; colours repeat after seven requests, letters don't.",
        ("Sequence", "Admission", "Queue"),
    ),
    Term(
        "Reservation",
        "Memory set aside for tokens that are not there yet; also the rule that says how much.",
        'The contiguous side offers the paper\'s three rules: Max, Pow2 and Oracle. In Fig. 2 "reservation" is the '
        "part that will be used later by the same request; others can't use it meanwhile.",
        ("Max", "Pow2", "Oracle", "Reserved slots", "Internal fragmentation"),
        _PAPER + "section 3.1, Figs. 2 and 3",
    ),
    Term(
        "Reserved slots",
        "Slots that belong to a running request and hold nothing yet.",
        "Some of them will be used later (reservation), others never (internal fragmentation). While the request runs "
        "nobody knows which, so a live view shows them as one; they are told apart when it has ended.",
        ("Reservation", "Internal fragmentation", "Token states", "Waste"),
        _PAPER + "Fig. 2",
        also=("reserved",),
    ),
    Term(
        "Rounding",
        "The slots by which the buddy allocator's region is larger than what was asked for.",
        "Sizes are powers of two, so a request for 300 slots gets 512. The other 212 are lost to everybody. They "
        "count as external fragmentation, because the allocator causes them, not the request.",
        ("Buddy allocator", "External fragmentation", "Region"),
    ),
    Term(
        "Scheduler",
        "The part of the engine that decides at every step which requests run and what memory moves.",
        "It first gives running requests the slots they need, preempting others if it must, and then admits waiting "
        "ones while memory and the token budget allow. Its decisions for a step are one plan, which the engine "
        "carries out.",
        ("Continuous batching", "Admission", "Preemption", "Token budget"),
        _PAPER + "sections 4 and 4.5, Fig. 4",
    ),
    Term(
        "Sequence",
        "One line of tokens: a prompt and one continuation of it.",
        "Each sequence has its own block table. A request with n samples or with beams has several sequences, which "
        "share pages.",
        ("Request", "Block table", "Fork"),
    ),
    Term(
        "Shared page",
        "A page that several sequences use at once.",
        "It is stored once and drawn once, with the number of its users beside the letter, as in A×3. It is only "
        "read; who has to write to it gets a copy.",
        ("Reference count", "Copy-on-write", "Parallel samples", "Prefix cache"),
        _PAPER + "section 4.4",
        also=("BlockShared",),
    ),
    Term(
        "Slot",
        "The room for one token's keys and values, in all layers.",
        "A page has as many slots as the block size says. Slots of a page are filled from the first to the last.",
        ("Page", "Slot mapping", "Token", "Block size"),
        _PAPER + "section 3.1",
    ),
    Term(
        "Slot mapping",
        "For every token computed in a step, the number of the slot to which its keys and values go.",
        "The number is physical block x block size + offset in the block. The engine makes this list anew for each "
        "step, and the kernel that writes the cache needs nothing else.",
        ("Slot", "Block table", "Physical block"),
        also=("slot_mapping",),
    ),
    Term(
        "Step",
        "One pass of the engine: schedule, move memory, run the model once, choose the next tokens.",
        "In a step every running sequence that decodes gets one token, and prompts are computed as far as the token "
        "budget goes. It is the unit of time on all charts here. The two sides of a comparison count their own steps.",
        ("Continuous batching", "Token budget", "Cursor"),
        also=("iteration",),
    ),
    Term(
        "Swapping",
        "Preemption that moves a request's pages to the host tier, and back when there is room again.",
        "swap_out copies the pages to the host and frees those on the device, swap_in is the way back; the pages may "
        "get other numbers. Nothing is computed twice. Small pages make many small transfers, which is why "
        "recomputation is often faster there.",
        ("Preemption", "Recomputation", "Host tier", "Device tier"),
        _PAPER + "sections 4.5 and 7.3, Fig. 19",
        also=("swap", "swap_in", "swap_out"),
    ),
    Term(
        "Token",
        "A piece of text, often a word or a part of one, that the model reads and writes as one number.",
        "Prompts are cut into tokens before anything else. Each token of a running sequence takes one slot of KV "
        "memory.",
        ("Slot", "KV cache", "Sequence"),
        _PAPER + "section 2.1",
    ),
    Term(
        "Token budget",
        "The most tokens that are computed in one step.",
        "Decodes take one each, and the rest goes to prompts. A prompt longer than what is left is computed in chunks.",
        ("Chunked prefill", "Step", "Scheduler"),
        also=("max_num_batched_tokens",),
    ),
    Term(
        "Token states",
        "Slots that hold the keys and values of a token: memory that does its work.",
        "The paper measured 20 to 38 percent of the KV memory in this state with contiguous reservations and 96 "
        "percent with pages. One of the four parts of Fig. 2, and the only one that is not waste.",
        ("Reserved slots", "Internal fragmentation", "External fragmentation", "Waste"),
        _PAPER + "Fig. 2",
    ),
    Term(
        "Victim",
        "The request that has to give way when memory runs out.",
        "In the paper it is the one that came last, so that the first to come is the first to be served. Other rules "
        "can be chosen: the one with the fewest pages, with the most still to write, or whose pages others share "
        "least.",
        ("Preemption", "Queue", "Swapping", "Recomputation"),
        _PAPER + "section 4.5",
    ),
    Term(
        "Waste",
        "KV memory that is taken and holds no token.",
        "Fig. 2 of the paper splits the pool into token states, reservation, internal fragmentation and external "
        "fragmentation; the last three are waste. Free memory is not waste in itself: it can be given to the next "
        "request.",
        ("Token states", "Reservation", "Internal fragmentation", "External fragmentation"),
        _PAPER + "Fig. 2",
    ),
    Term(
        "Watermark",
        "A small share of the pages that admission leaves free.",
        "Without it, a new request could take the last page, and in the next step a running one would have to be "
        "preempted. The reserve lets running requests grow for a while. By default it is one percent of the pool.",
        ("Admission", "Preemption", "Pool"),
    ),
)

#: All entries in alphabetical order.
GLOSSARY: tuple[Term, ...] = tuple(sorted(_TERMS, key=lambda term: term.name.casefold()))
_BY_NAME = {name.casefold(): term for term in GLOSSARY for name in (*term.also, term.name)}
