"""Experiments: each a function that runs the real engine and returns a small table; `workbench bench NAME` prints it.

Every table says what was *measured*, and what was *modelled*, that is, computed from lengths alone.
"""
