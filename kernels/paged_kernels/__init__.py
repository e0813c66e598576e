"""Triton kernels for paged KV caches, and the same contracts in plain torch. Imports nothing of the workbench."""
