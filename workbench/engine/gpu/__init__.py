"""The runner for a GPU: Triton attention, static buffers, CUDA graphs, sampling on the device.

Imported only when attention is "triton". Everything but graphs and pinned memory also works on CPU tensors in Triton's
interpreter, which is how most of it is tested.
"""
