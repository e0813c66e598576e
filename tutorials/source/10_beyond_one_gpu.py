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
# # 10. Beyond one GPU
#
# **Question.** All that you have seen ran on one machine with one memory. What changes on another accelerator, on a
# computer whose processor and graphics share one memory, on eight GPUs, or on two machines of which one reads prompts
# and the other writes answers?
#
# We have none of these here. So this lesson has two kinds of numbers, and says of each which kind it is: **measured**
# (on this engine) and **modelled** (a formula, with numbers from data sheets). You write the formulas. About 40
# minutes.
#
# You need from lesson 1: bytes per token; from lesson 4: attention treats every head by itself; from lesson 7:
# *prefill* (the prompt goes through the model) and *decode* (one token per sequence and step); from lesson 8:
# swapping.

# %%
from workbench.course import check, hint, predict, progress, quiz, reveal, show_source
from workbench.course.lessons import lesson10
from workbench.course.lessons.lesson10 import MACHINES, MODELS, Model

print(lesson10.models_table())

# %%
show_source(Model)

# %% [markdown]
# These are computed from the models' published configurations, in half precision (2 bytes per number). Note OPT-13B,
# the paper's model: it keeps 800 KiB per token, the paper says 800 KB (section 3). Llama 3 70B is five times as large
# and keeps less than half as much, because eight query heads share a KV head.
#
# ## Machines
#
# A machine is four numbers for us. They are what its maker promises; programs reach less.

# %%
for name, machine in MACHINES.items():
    link = f"{machine.link / 1e9:.0f} GB/s" if machine.link else "none"
    print(f"{name}: {machine.memory / 1e9:.0f} GB at {machine.bandwidth / 1e9:,.0f} GB/s,", end=" ")
    print(f"{machine.operations / 1e12:,.0f}e12 operations/s, link {link}\n    {machine.source}")

# %% [markdown]
# The last two have **unified memory**: processor and graphics use the same one. There is no link, because there is
# nothing at its other end.
#
# ## Exercise 10.1: how long does a decode step take?
#
# In a decode step every sequence of the batch gets one token.
#
# - *Reading.* All weights have to be read from memory, once for the whole batch, and the KV cache of every sequence.
# - *Computing.* Each parameter takes part in a multiplication and an addition for each sequence: two operations. (We
#   leave out attention's own operations, which are few in a decode step.)
#
# Both go on at the same time, so the slower one decides: time = max(bytes / bandwidth, operations / speed). This
# picture of a machine is called the *roofline* model.
#
# - **10.a** Llama 3 8B on an H100, 16 sequences of 2,000 tokens each: how many milliseconds, modelled?

# %%
predict("10.a", None, unit="ms")

# %%
def step_seconds(model, machine, contexts):
    """Seconds of a decode step; `contexts` has the number of tokens of each sequence."""
    ### BEGIN SOLUTION
    read = model.weight_bytes + model.kv_bytes_per_token * sum(contexts)
    operations = 2 * model.parameters * len(contexts)
    return max(read / machine.bandwidth, operations / machine.operations)
    ### END SOLUTION


check("10.1", step_seconds)

# %%
llama, h100 = MODELS["Llama 3 8B"], MACHINES["NVIDIA H100"]
reveal("10.a", lesson10.right_step(llama, h100, [2000] * 16) * 1e3, "ms", how="modelled")

# %% [markdown]
# Sixteen times the work of one sequence, and it takes only a quarter longer than one: most of the time goes into
# reading the weights, which all sequences share. This is why serving many requests at once pays, and why room for
# their KV caches is worth money.
#
# The same step on all machines:

# %%
steps = {name: lesson10.right_step(llama, m, [2000] * 16) * 1e3 for name, m in MACHINES.items()}
lesson10.bars(steps, "a decode step of Llama 3 8B, 16 sequences of 2,000 tokens", "milliseconds")

# %% [markdown]
# ## How good is the model?
#
# Try it where we can measure: the bundled model on your machine. How fast its memory is, we measure by copying 64 MB.
# The step has 4 sequences of about 48 tokens. Of the model we take the part that reads.
#
# - **10.b** How many times as long as modelled does the step really take?

# %%
predict("10.b", None)

# %%
bandwidth = lesson10.measured_bandwidth()
modelled = (lesson10.tiny_weight_bytes() + 4 * 48 * lesson10.tiny().geometry.kv_bytes_per_token) / bandwidth
measured = lesson10.measured_step(batch=4, context=48)
print(f"{bandwidth / 1e9:.1f} GB/s measured")
print(f"a step: modelled {modelled * 1e3:.1f} ms, measured {measured * 1e3:.1f} ms")
reveal("10.b", measured / modelled)

# %% [markdown]
# On an H200 we measured 7.58 ms for a step of 128 sequences of 800 tokens with a model of 0.6 billion parameters
# (`docs/benchmarks.md`, "The tiers, on a GPU"; without `torch.compile`). Modelled from the data sheet it is 2.7 ms.
# Much of what is missing is neither reading nor computing: some 1,900 small kernels have to be started, one after the
# other.
#
# So read the model as a **floor**: nothing can be faster, real programs are slower. You have seen two factors; other
# programs have others. It is good for comparing machines and finding what limits; not for promising times.
#
# ## Several GPUs: tensor parallelism
#
# Llama 3 70B has 141 GB of weights and does not fit on an H100. **Tensor parallelism** cuts every layer into pieces,
# one per device. Attention is cut by heads: each device computes some heads, with their keys and values, and needs
# nothing of the others meanwhile. Only then all add up their results.
#
# Does cutting by heads change what a head computes? Here is a query over the engine's own keys and values: with both KV
# heads together, as one device would do it, and with one at a time, as two would. (We have one device; it does both.)

# %%
whole, split_up = lesson10.heads_apart()
print("largest difference:", float((whole - split_up).abs().max()))

# %% [markdown]
# Pages, block tables and slots stay as they are: **every device has the same block table**, and its page holds the
# same tokens, with fewer heads. So one scheduler serves all (the paper says so in section 4.6).
#
# ## Exercise 10.2: split the KV heads
#
# How many bytes per token does each device keep? If there are more devices than KV heads, each device has one head,
# and several have the same: a head cannot be cut. (vLLM does it like this: "we replicate the KV heads across multiple
# tensor parallel GPUs", a comment in `vllm/model_executor/models/llama.py`.) One of the two numbers always divides the
# other.

# %%
def split(model, devices):
    """Bytes of KV cache per token on each device, in half precision."""
    ### BEGIN SOLUTION
    heads = max(1, model.kv_heads // devices)
    return 2 * model.layers * heads * model.head_dim * 2
    ### END SOLUTION


check("10.2", split)

# %% [markdown]
# ## Exercise 10.3: how many sequences are there room for?
#
# Weights are split evenly over the devices. What is left of a device's memory is cut into pages of `block_size`
# tokens (of its own heads). How many sequences of `length` tokens can be in memory at once? (A real server keeps some
# memory for other things; leave that out.)

# %%
def room(model, machine, devices, length, block_size):
    """How many sequences of `length` tokens have their pages at once; 0 if the weights do not fit."""
    ### BEGIN SOLUTION
    left = machine.memory - model.weight_bytes / devices
    if left <= 0:
        return 0
    pages = int(left // (split(model, devices) * block_size))
    return pages // -(-length // block_size)
    ### END SOLUTION


check("10.3", room)

# %% [markdown]
# - **10.c** Llama 3 70B on 8 H100s has room for a number of sequences of 2,000 tokens. For how many times as many on
#   16?

# %%
predict("10.c", None)

# %%
rooms = {n: lesson10.right_room(MODELS["Llama 3 70B"], h100, n, 2000, 16) for n in (1, 2, 4, 8, 16)}
print(rooms)
reveal("10.c", rooms[16] / rooms[8], how="modelled")

# %% [markdown]
# From 2 to 8 devices the room grows faster than the number of devices, because the weights take a smaller part of
# each. Then the heads run out: 16 devices keep every head twice, and only what the weights free is gained. Two groups
# of 8, each with its own requests, have room for twice as many.
#
# ## Swap or recompute, on other machines
#
# The two costs of lesson 8, for 2,000 tokens of Llama 3 8B: 2 x bytes / link, and 2 x parameters x tokens / (half of
# the operations; that a prefill reaches half is an assumption).
#
# - **10.d** On an H100: how many times as long does recomputing take as swapping?

# %%
predict("10.d", None)

# %%
for name, machine in MACHINES.items():
    swap, recompute = lesson10.back_again(llama, machine, 2000)
    print(f"{name:15} swap {'-' if swap is None else f'{swap * 1e3:.1f} ms':>8}, recompute {recompute * 1e3:,.0f} ms")
swap, recompute = lesson10.back_again(llama, h100, 2000)
reveal("10.d", recompute / swap, how="modelled")

# %% [markdown]
# So on every machine with a link swapping is the cheaper one, modelled. Measured on an H200, with a smaller model, it
# was so, too: 198 ms against 1,780 ms for about the same number of preemptions (lesson 8).
#
# **Unified memory** has no second tier. A page "moved to the host" would be in the same memory as before, and free
# nothing. What it offers instead is size: the M3 Ultra has more than six times the memory of an H100 at a quarter of
# the bandwidth. It has room for many sequences that it is slow to read. A GH200 lies in between: two memories, but a
# link seven times as fast as PCIe 5.
#
# ## Why did vLLM drop swapping, then?
#
# vLLM is the server of the paper's authors. These are its own words, as claims, with their places.
#
# - The pull request that brought recomputation (#12, March 2023): "recomputation is more efficient than swapping,
#   because swapping incurs significant overheads due to numerous small data transfers between CPU and GPU". Swapping
#   stayed for requests with several sequences.
# - The guide to its second engine, "V1" (`docs/usage/v1_guide.md`): "with the new simplified core architecture, vLLM
#   V1 no longer requires KV cache swapping to handle request preemptions".
# - "Optimization and Tuning" (`docs/configuration/optimization.md`): "the default preemption mode is `RECOMPUTE`
#   rather than `SWAP`, as recomputation has lower overhead in the V1 architecture".
# - Its design document on metrics (`docs/design/metrics.md`) says most. Swapping was meant for beam search, and that
#   was moved out of the core, being "a lot of complex code for a very uncommon feature". Prefix caching "proved to be
#   a better option than CPU swapping since blocks can be evicted slowly on demand and the part of the prompt that was
#   evicted can be recomputed".
#
# Our reading. The time of a transfer is not what decided: by the model above, and by our measurements, it is short.
# What speaks against swapping is that preemption is rare in a server that is not overloaded, that a second path
# through scheduler and memory has to be kept right for it, and that with a prefix cache much of a victim's pages is
# found again anyway. This is a judgement; you may come to another one.
#
# And the host's memory came back in another role. vLLM's OffloadingConnector "extends the prefix cache by offloading
# completed KV blocks to slower but larger tiers" (`docs/features/kv_offloading_usage.md`): full pages are copied out
# as they are produced, beside the computing, and fetched when a prompt begins like one before. By our reading a
# preempted request may find its pages there, too, and nobody has to wait until a victim is out.
#
# ## Two machines: one reads, one writes
#
# A long prompt makes the others wait (lesson 7). Chunks help; another way is to **separate prefill and decode**: one
# machine computes prompts, and sends keys and values to another one that writes. vLLM's page on this
# (`docs/features/disagg_prefill.md`) gives as reasons that the time to the first token and the time between tokens
# can be tuned apart, and that long waits are avoided; and it warns: "Disaggregated prefill DOES NOT improve
# throughput."
#
# What is sent, and when? A page that is full does not change any more. Here is a prompt of 96 tokens, computed in
# chunks of 40, on pages of 16:

# %%
prefill = lesson10.prefill_run()
for step in range(1, prefill.last_step):
    print(f"after step {step}: pages {lesson10.full_pages(prefill, step)} are full and can be sent")

# %%
from workbench.widgets import Stepper

Stepper(prefill, step=1)

# %% [markdown]
# Even within a step something can be sent: the keys and values of layer 0 are done long before those of the last layer.
#
# ## Exercise 10.4: the delay of a handover
#
# A prompt is computed in one step of `prefill` seconds; its `layers` layers, one after the other, take the same time
# each. Each layer's keys and values can be sent as soon as that layer is computed. The link sends one layer after the
# other, `bandwidth` bytes per second; all layers together are `num_bytes`.
#
# How many seconds after the end of the prefill has the last layer arrived? Draw it first: one row for computing, one
# for the link.

# %%
def delay(prefill, num_bytes, bandwidth, layers):
    """Seconds from the end of the prefill until the last layer has arrived."""
    ### BEGIN SOLUTION
    transfer = num_bytes / bandwidth
    waits_for_layers = transfer / layers
    never_rests = prefill / layers + transfer - prefill
    return max(waits_for_layers, never_rests)
    ### END SOLUTION


check("10.4", delay)

# %% [markdown]
# - **10.e** 2,000 tokens of Llama 3 8B, computed on an H100 (half of its operations), sent over a network of 50 GB/s
#   (400 gigabits per second): what is the delay in milliseconds?

# %%
predict("10.e", None, unit="ms")

# %%
prompt_seconds = lesson10.back_again(llama, h100, 2000)[1]
all_bytes = 2000 * llama.kv_bytes_per_token
print(f"modelled: prefill {prompt_seconds * 1e3:.0f} ms, sending all bytes {all_bytes / 50e9 * 1e3:.1f} ms")
late = lesson10.right_delay(prompt_seconds, all_bytes, 50e9, llama.layers)
reveal("10.e", late * 1e3, "ms", how="modelled")

# %% [markdown]
# Nearly nothing, because sending is faster than computing. With a link of 1 GB/s (ten-gigabit Ethernet has about
# that) the delay would be 0.2 seconds. Whether the link keeps up does *not* depend on the prompt's length: in this
# model a longer prompt takes longer to compute and to send, in the same ratio.
#
# ## What the paper says, what servers do today
#
# - Section 4.6: tensor parallelism with one scheduler, one block table for all devices.
# - Section 4.5 and 7.3: swapping and recomputation. Today vLLM recomputes, as quoted above.
# - Pages, block tables and continuous batching are in vLLM since the paper. Prefix caching came later; now it is "on by
#   default" there (`docs/design/metrics.md`).
# - What we have *not* measured: anything on AMD, Apple, GH200, on several GPUs, or over a network. All numbers on
#   those are modelled.
#
# ## Questions without end
#
# The number (the *seed*) makes the question: the same number, the same question. Without buttons, in a terminal for
# instance, use `quiz("10", seed=1).answer(...)` and `.solution()`.

# %%
from workbench.widgets import QuizBox

QuizBox(quiz("10", seed=1))

# %%
progress(10)

# %% [markdown]
# ## Links
#
# - Words: *swapping*, *recomputation*, *prefix cache*, *host tier*, *prefill*, *decode* in the glossary
#   (`workbench.glossary.find("prefill")`).
# - Kwon et al., SOSP 2023, sections 3, 4.5, 4.6.
# - `docs/benchmarks.md`: everything measured on GPUs, with command, machine and day.
# - Yours: add a machine to `MACHINES`, with its data sheet, and run the cells again.
# - Next: lesson 11, how to see what an engine does.
