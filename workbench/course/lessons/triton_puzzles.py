"""Triton kernels as puzzles: in the interpreter where there is no GPU, with every address on record.

Importing this module makes triton ready: without a GPU its interpreter is chosen, even if triton was imported before.
Where triton can't be installed, `triton` and `tl` are stand-ins with which a kernel can be written, but not run.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Where the puzzles run.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: Numbers on both sides of every tensor that a wrong address may hit without harm.
_MARGIN = 4096
_GUARD = -12345.0


class _Unrunnable:
    """A kernel where there is no triton."""

    def __init__(self, fn: Any) -> None:
        self.fn = fn


class _NoTriton:
    """Stands in for ``triton`` and ``triton.language`` while kernels are defined."""

    constexpr = int

    @staticmethod
    def jit(fn: Any) -> _Unrunnable:
        return _Unrunnable(fn)


def _load() -> tuple[Any, Any, str]:
    """triton, triton.language, and where kernels run, in words."""
    if DEVICE == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    try:
        import triton
        import triton.language as tl
    except ImportError:
        return _NoTriton(), _NoTriton(), ""
    if DEVICE == "cpu":
        _interpret_library(triton, tl)
        return triton, tl, f"Triton {triton.__version__} in its interpreter, on the CPU"
    return triton, tl, f"Triton {triton.__version__}, compiled, on {torch.cuda.get_device_name()}"


def _interpret_library(triton: Any, tl: Any) -> None:
    """What triton's own library wrote with ``@jit`` (`tl.sum` and others), if it was imported for compiling."""
    from triton.runtime.interpreter import InterpretedFunction

    modules = [tl, tl.standard]
    for module in modules:
        for name, value in list(vars(module).items()):
            if isinstance(value, triton.runtime.JITFunction):
                setattr(module, name, InterpretedFunction(value.fn))


triton, tl, WHERE = _load()
HAS_TRITON = bool(WHERE)
MISSING = (
    "Triton is not installed here (it is made for Linux), so this kernel can't run. The puzzle's spec is the same in "
    "plain torch: `show_source(...)` shows it, and it runs everywhere. On Linux or in Colab this check works."
)


def where() -> str:
    """Where the kernels of this lesson run, in a sentence."""
    return WHERE or MISSING


class Misplaced(Exception):
    """A kernel read or wrote where it must not; the message says where."""


@dataclass
class Access:
    """One load or store of one program: which argument, which of its numbers (flat, in order)."""

    program: tuple[int, int]
    argument: str
    numbers: np.ndarray
    is_store: bool = False


@dataclass
class Launch:
    """What a launch touched. On a GPU nothing is recorded.

    Attributes:
        left_open: a load left numbers out without saying what stands in their place (``other``): they are undefined.
    """

    accesses: list[Access] = field(default_factory=list)
    left_open: bool = False

    def read(self, argument: str, program: tuple[int, int] | None = None) -> list[np.ndarray]:
        """The numbers of ``argument`` that each load took, in order."""
        return [
            access.numbers
            for access in self.accesses
            if access.argument == argument and not access.is_store and program in (None, access.program)
        ]

    def why_nan(self, where: str) -> str:
        """Where NaN may come from, as sentences to be added to a message."""
        if self.left_open:
            return " A load has a `mask` but no `other`: what it leaves out is undefined, and here it is NaN."
        return f" NaN lies in {where}; or it is inf - inf or inf / inf."


def guarded(tensor: Tensor, fill: float = float("nan")) -> Tensor:
    """A copy on `DEVICE` in the middle of a larger buffer of ``fill``."""
    flat = torch.full((tensor.numel() * 3 + 2 * _MARGIN,), fill, dtype=tensor.dtype, device=DEVICE)
    start = tensor.numel() + _MARGIN
    place = flat[start : start + tensor.numel()].view(tensor.shape)
    place.copy_(tensor)
    return place


def output(*shape: int) -> Tensor:
    """A tensor for a kernel to fill, guarded."""
    return guarded(torch.full(shape, _GUARD), _GUARD)


def is_stub(kernel: Any) -> bool:
    """Whether the exercise's ``raise NotImplementedError`` is still there."""
    try:
        return "raise NotImplementedError" in inspect.getsource(getattr(kernel, "fn", kernel))
    except (OSError, TypeError):
        return False


def launch(kernel: Any, grid: tuple[int, ...], args: Mapping[str, Any], constants: Mapping[str, int]) -> Launch:
    """Runs a kernel; ``args`` are its first arguments in order, ``constants`` the others by name.

    Raises:
        Misplaced: it touched something that is no argument.
        Exception: whatever the kernel raised in the interpreter, or triton's compiler said.
    """
    if DEVICE == "cuda":
        kernel[grid](*args.values(), **constants)
        torch.cuda.synchronize()
        for name, value in args.items():
            if isinstance(value, Tensor) and name == "out" and not _guard_is_whole(value):
                raise Misplaced("It wrote outside of `out`.")
        return Launch()
    from triton.runtime.errors import InterpreterError

    # Overflow and NaN are what some puzzles are about; the verdict speaks of them.
    with _recorded(args) as record, np.errstate(all="ignore"):
        try:
            kernel[grid](*args.values(), **constants)
        except InterpreterError as error:
            cause: BaseException = error
            while isinstance(cause, InterpreterError) and cause.__cause__ is not None:
                cause = cause.__cause__
            raise cause from None
    return record


def _guard_is_whole(out: Tensor) -> bool:
    flat = out.new_empty(0).set_(out.untyped_storage())
    start = out.storage_offset()
    return bool((flat[:start] == _GUARD).all() and (flat[start + out.numel() :] == _GUARD).all())


@contextmanager
def _recorded(args: Mapping[str, Any]) -> Iterator[Launch]:
    """Notes every address that the interpreter loads from or stores to, before it does."""
    from triton.runtime.interpreter import interpreter_builder as builder

    record = Launch()
    tensors = {name: value for name, value in args.items() if isinstance(value, Tensor)}
    load, store = builder.create_masked_load, builder.create_masked_store

    def note(pointers: np.ndarray, mask: np.ndarray, is_store: bool) -> None:
        active = pointers[np.broadcast_to(mask, pointers.shape)].astype(np.int64).ravel()
        if not active.size:
            return
        program = (int(builder.grid_idx[0]), int(builder.grid_idx[1]))
        for name, tensor in tensors.items():
            numbers = (active - tensor.data_ptr()) // tensor.element_size()
            if numbers.min() >= 0 and numbers.max() < tensor.numel():
                record.accesses.append(Access(program, name, numbers, is_store))
                return
        raise Misplaced(f"{_which(active, tensors, 'stored to' if is_store else 'loaded')} (program {program}).")

    def noted_load(ptrs: Any, mask: Any, other: Any, *rest: Any) -> Any:
        note(ptrs.data, mask.data, False)
        loaded = load(ptrs, mask, other, *rest)
        if other is None and not mask.data.all():
            # The interpreter puts 0 there, Triton anything: a kernel that counts on 0 is wrong on a GPU.
            record.left_open = True
            if np.issubdtype(loaded.data.dtype, np.floating):
                loaded.data[~np.broadcast_to(mask.data, loaded.data.shape)] = np.nan
        return loaded

    def noted_store(ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        note(ptrs.data, mask.data, True)
        return store(ptrs, value, mask, *rest)

    builder.create_masked_load, builder.create_masked_store = noted_load, noted_store
    try:
        yield record
    finally:
        del builder.create_masked_load, builder.create_masked_store


def _which(active: np.ndarray, tensors: Mapping[str, Tensor], verb: str) -> str:
    """The tensor that was meant, probably: the one with the nearest beginning."""
    name, tensor = min(tensors.items(), key=lambda item: abs(int(active[0]) - item[1].data_ptr()))
    numbers = (active - tensor.data_ptr()) // tensor.element_size()
    outside = numbers[(numbers < 0) | (numbers >= tensor.numel())]
    return f"Number {int(outside[0])} of `{name}` was {verb}, and it has numbers 0 to {tensor.numel() - 1}"
