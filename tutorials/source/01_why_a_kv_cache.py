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
# # 1. Why a KV cache
#
# **Question.** A language model writes one token at a time. Why does it need a memory for that, and how large is it?
#
# You will let a small model write with and without a KV cache, build one yourself, and compute how many bytes of it a token
# takes in models that you know. About 30 minutes.
#
# You need Python, and you should have seen a transformer once: that its attention layers make a *query*, a *key* and a
# *value* vector for every token, compare the query of one token with the keys of others, and mix their values accordingly.
#
# How a lesson works: `predict(...)` keeps what you expect, and `reveal(...)` puts it beside what comes out. Write your guess
# in place of `None`; a wrong one teaches as much as a right one. `check(...)` grades an exercise as often as you like, and
# `hint(...)` helps, a little more with each call.

# %%
from workbench import LLM, EngineConfig, SamplingParams
from workbench.course import check, hint, predict, progress, quiz, reveal, show_source
from workbench.course.lessons import lesson01
from workbench.course.lessons.lesson01 import decode, encode, write_with_cache, write_without_cache

# %% [markdown]
# ## Writing, the simple way
#
# A **token** is a piece of text, often a word or a part of one. The model turns the tokens so far into scores for the next
# one. We take the token with the highest score, put it behind the others, and start again. (This is called *greedy*
# decoding. The text that a greedy small model writes soon repeats itself; that does not matter here.)
#
# `show_source` shows code of the course as it is. In this one `logits` are the scores, and `fed` counts what goes through
# the model.

# %%
show_source(write_without_cache)

# %%
prompt = encode("Once upon a time there was a king who had three daughters")
without = write_without_cache(prompt, 60)
print(len(prompt), "tokens in the prompt")
decode(without.tokens)

# %% [markdown]
# In every step **all** tokens so far go through the model, although most of them went through it in the step before, too.
#
# - **1.a** The loop wrote 60 tokens. How many tokens went through the model in all 60 steps together? (Guess; you compute it
#   exactly in a moment.)

# %%
predict("1.a", None, unit="tokens")

# %%
reveal("1.a", sum(without.fed), "tokens", how="counted")

# %% [markdown]
# ## What can be kept?
#
# In attention the tokens are in a row, and each sees only itself and those before it: the model is *causal*. So what the
# layers compute for token 5 does not depend on token 6, which was not there yet. When token 6 comes, everything about token
# 5 stays as it was.
#
# What does a new token need of the old ones? In each attention layer its **query** is compared with their **keys**, and
# their **values** are mixed. It needs nothing else of them. Their queries were of use to themselves only.
#
# So we keep keys and values, of all tokens, in all layers: that is the **KV cache**. Then only the new token goes through the
# model. (`DynamicCache` below is the one of the library *transformers*, from which our model comes.)

# %%
show_source(write_with_cache)

# %% [markdown]
# - **1.b** With the cache, how many tokens go through the model to write the same 60?

# %%
predict("1.b", None, unit="tokens")

# %%
with_cache = write_with_cache(prompt, 60)
reveal("1.b", sum(with_cache.fed), "tokens", how="counted")

# %%
with_cache.tokens == without.tokens

# %%
lesson01.work_figure(without, with_cache)

# %% [markdown]
# The same tokens, with a fraction of the work. The first step is the same for both: the whole prompt goes through the model.
# This phase is called **prefill**. All steps after it are **decode** steps: one token each.
#
# Here is what the clock said, on your machine. With a model this small, and a short text, most of a step is not arithmetic at
# all, so that the times differ less than the counts. They are noisy, too: run it twice.

# %%
print(f"without a cache {sum(without.seconds):.2f} s, with a cache {sum(with_cache.seconds):.2f} s")

# %% [markdown]
# ## Exercise 1.1: count the work
#
# A prompt of `prompt` tokens, `output` tokens generated. How many tokens go through the model without a cache, and with one?
# Return both numbers. Compare with your two curves above: how does each grow when `output` doubles?

# %%
def work(prompt, output):
    """Tokens through the model: (without a cache, with a cache)."""
    ### BEGIN SOLUTION
    without = output * prompt + output * (output - 1) // 2
    return without, prompt + output - 1
    ### END SOLUTION


check("1.1", work)

# %% [markdown]
# Why -1? The last token that is generated goes to the reader, and never back into the model. You will meet this in every
# lesson: a request with P prompt tokens and T generated ones keeps the keys and values of P + T - 1 tokens.
#
# ## Exercise 1.2: attention with a cache
#
# Now build it, for one attention *head* (one set of queries, keys and values; a layer has several). `step` gets the query, key
# and value of the **new** token, each a vector. It must return what attention gives for this token: a mix of the values of all
# tokens so far, itself included, with the weights
#
# $$w = \operatorname{softmax}\left(\frac{K q}{\sqrt{d}}\right)$$
#
# where the rows of $K$ are the keys and $d$ is the number of entries of `q`.
#
# What you need of torch: `torch.stack(vectors)` makes a matrix of a list of vectors, one row each; `a @ b` is the product of
# matrices and vectors; `x.softmax(0)` is the softmax of a vector.

# %%
import torch


class CachedHead:
    def __init__(self):
        self.keys, self.values = [], []

    def step(self, q, k, v):
        """The output for the new token, a vector like `v`."""
        ### BEGIN SOLUTION
        self.keys.append(k)
        self.values.append(v)
        weights = (torch.stack(self.keys) @ q / len(q) ** 0.5).softmax(0)
        return weights @ torch.stack(self.values)
        ### END SOLUTION

# %%
check("1.2", CachedHead)

# %% [markdown]
# The check feeds random vectors, token by token, and compares with attention that sees all tokens at once:

# %%
show_source(lesson01.causal_attention)

# %% [markdown]
# ## What it costs
#
# The cache grows with every token, and it stays until the request has ended. How large is it? Per token there is one key
# and one value vector for each layer and each **KV head**. (Many models let several query heads use the same keys and
# values. So there may be fewer KV heads than heads; only these count here.)
#
# ## Exercise 1.3: bytes per token
#
# `head_dim` is the number of entries of a key, and of a value. `bytes_per_number` is 2 in half precision.

# %%
def bytes_per_token(layers, kv_heads, head_dim, bytes_per_number):
    """Bytes of KV cache that one token takes."""
    ### BEGIN SOLUTION
    return 2 * layers * kv_heads * head_dim * bytes_per_number
    ### END SOLUTION


check("1.3", bytes_per_token)

# %% [markdown]
# Now for models that you know. The numbers are those of their published configurations, in half precision. (Our model, in
# the last line, keeps 4 bytes per number.)

# %%
for name, s in {**lesson01.KNOWN, "our model": lesson01.tiny_shape()}.items():
    size = 2 * s.layers * s.kv_heads * s.head_dim * s.bytes_per_number
    print(f"{name:14} {s.layers:3} layers, {s.kv_heads:2} KV heads: {size:>8,} bytes per token")

# %% [markdown]
# Look at Llama 2 7B and Llama 3 8B: about as many weights, a quarter of the KV cache, because 8 KV heads serve 32 query
# heads.
#
# - **1.c** OPT-13B on a GPU with 40 GB: the weights take 26 GB, and 12 GB are left for KV caches. A request may have up to
#   2,048 tokens. If each gets room for so many, how many requests fit at once?

# %%
predict("1.c", None, unit="requests")

# %%
opt = lesson01.KNOWN["OPT-13B"]
per_token = 2 * opt.layers * opt.kv_heads * opt.head_dim * opt.bytes_per_number
reveal("1.c", int(12e9 // (2048 * per_token)), "requests", how="computed")

# %% [markdown]
# So few! A GPU could compute the next token of many more requests at once, nearly as fast as of one: it has to read all
# weights anyway in every step. What limits it is memory for keys and values. If we use that memory badly, we serve
# fewer people. That is the subject of the next two lessons.
#
# ## A real engine
#
# The engine of this course keeps its KV cache itself. Here it writes the same text. `num_blocks` is the size of its memory
# (lesson 3 says in what unit), temperature 0 means greedy. `llm.page_map` knows what is in memory: `num_computed_tokens` says
# how many tokens have their keys and values there.

# %%
llm = LLM(lesson01.tiny(), EngineConfig(num_blocks=16))
request = llm.add_request(prompt, SamplingParams(max_tokens=60, temperature=0))
for _ in range(3):
    llm.step()
    state = llm.page_map.sequences[0]
    print(f"step {llm.step_number}: {state.num_computed_tokens} tokens in memory")

# %% [markdown]
# Now to the end. Are the tokens those of your first loop? (The engine stops early if the model writes its end-of-text token;
# so we compare as many as there are.)

# %%
while llm.has_unfinished:
    llm.step()
written = llm.output(request).outputs[0].token_ids
written == without.tokens[: len(written)]

# %% [markdown]
# Step through another, shorter run. The picture shows memory in *pages*; what these are is the subject of lesson 3. For now
# look at how the number of filled cells grows (each has room for one token): the whole prompt in the first step, then one per
# step. (A `Timeline` records what the engine does. A `Stepper` shows it: use the button "Forward", or click on the picture and
# press the arrow keys; `?` lists all keys.)

# %%
from workbench.events import Timeline
from workbench.widgets import Stepper

llm = LLM(lesson01.tiny(), EngineConfig(num_blocks=8))
timeline = Timeline(llm.bus)
llm.generate("Once upon a time there was a king", SamplingParams(max_tokens=40, temperature=0))
Stepper(timeline, step=1)

# %% [markdown]
# ## What the paper says, what we measured
#
# - For OPT-13B, "the KV cache of a single token demands 800 KB of space, calculated as 2 (key and value
#   vectors) × 5120 (hidden state size) × 40 (number of layers) × 2 (bytes per FP16)" (section 3). Your function says the same:
#   819,200 bytes are 800 times 1,024. (5,120 is 40 heads times 128.)
# - One request of 2,048 tokens takes up to 1.6 GB there (section 3).
# - Fig. 1: with a 13 B model on a 40 GB GPU about 65 % of the memory hold weights, and close to 30 % are left for KV caches:
#   the 26 GB and 12 GB of 1.c (Table 1).
# - 7.0 requests at once is also what the paper measured with OPT-13B when each got room for the longest sequence (Fig. 13).
# - Here: the same tokens with and without a cache, and the counts that you computed.
#
# ## Questions without end
#
# Each question is another one, some about a real run. The number (the *seed*) makes the question: the same number, the same
# question. Without buttons, in a terminal for instance, use `quiz("1", seed=0).answer(...)` and `.solution()`.

# %%
from workbench.widgets import QuizBox

QuizBox(quiz("1", seed=0))

# %%
progress(1)

# %% [markdown]
# ## Links
#
# - Words: *token*, *KV cache*, *prefill*, *decode* in the glossary (`workbench.glossary.find("KV cache")`).
# - Kwon et al., *Efficient Memory Management for Large Language Model Serving with PagedAttention*, SOSP 2023, sections 2.2
#   and 3. This is "the paper" in all lessons.
# - Next: lesson 2, how much memory to set aside for a request, when nobody knows how long it gets.
