"""Checks of arguments before a launch. Each names the argument, what was given and what is allowed.

A kernel reads and writes raw addresses: what is wrong here would end there as a fault without a name, or as pages with
the wrong contents. All checks look at shapes, strides and dtypes, never at contents: they wait for no device, work
while a CUDA graph is captured, and cost about a microsecond an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
FP8 = torch.float8_e4m3fn
#: What holds indices of blocks, rows and slots.
INDICES = (torch.int64, torch.int32)


@lru_cache(maxsize=256)
def _parse(pattern: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """The words of a pattern, and the numbers among them."""
    words = tuple(pattern.split())
    return words, {word: int(word) for word in words if word.isdecimal()}


def check_shape(name: str, tensor: Tensor, pattern: str, sizes: dict[str, int]) -> torch.Size:
    """Compares a shape with names of sizes, and binds those not met before.

    Args:
        pattern: a word per dimension, such as ``"num_tokens heads head_dim"``; a number stands for itself.
        sizes: sizes by name. Pass one dict for all arguments of a call: equal names must then have equal sizes.
            Names that are new are added.

    Returns:
        The shape.

    Raises:
        ValueError: another number of dimensions, or a size that is not the one bound to its name.
    """
    words, numbers = _parse(pattern)
    if numbers:
        sizes.update(numbers)
    shape = tensor.shape
    if len(shape) == len(words):
        for word, size in zip(words, shape):  # noqa: B905  (equal lengths; this runs at every launch)
            if sizes.setdefault(word, size) != size:
                break
        else:
            return shape
    expected = ", ".join(f"{word}={sizes[word]}" if word in sizes and word not in numbers else word for word in words)
    raise ValueError(f"{name}: shape {tuple(shape)} given; expected [{expected}]")


def check_dtype(name: str, tensor: Tensor, allowed: tuple[torch.dtype, ...]) -> None:
    """Raises TypeError unless the tensor's dtype is one of ``allowed``."""
    if tensor.dtype not in allowed:
        raise TypeError(f"{name}: dtype {_short(tensor.dtype)} given; allowed: {', '.join(map(_short, allowed))}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_same_device(**tensors: Tensor | None) -> torch.device:
    """Returns the device of all the tensors given; None is passed over.

    Raises:
        ValueError: they are on several devices, or there is none.
    """
    first, device = "", None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if device is None:
            first, device = name, tensor.device
        elif tensor.device != device:
            raise ValueError(f"{name}: on {tensor.device}; expected {device}, where {first} is")
    if device is None:
        raise ValueError(f"{', '.join(tensors) or 'tensors'}: None given; expected at least one tensor")
    return device


def check_last_dim_contiguous(name: str, tensor: Tensor) -> None:
    """Raises ValueError if neighbours in the last dimension are not neighbours in memory."""
    if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
        raise ValueError(f"{name}: strides {tensor.stride()} given; expected 1 for the last dimension")


def check_contiguous(name: str, tensor: Tensor) -> None:
    """Raises ValueError unless the tensor is contiguous."""
    if not tensor.is_contiguous():
        raise ValueError(
            f"{name}: strides {tensor.stride()} of shape {tuple(tensor.shape)} given; expected a contiguous tensor"
        )


def check_blocks_contiguous(name: str, cache: Tensor) -> None:
    """Raises ValueError unless each block (all behind the first dimension) is one run of memory of its own.

    Blocks may have gaps between them: one layer's pages in a pool that interleaves layers.
    """
    if cache.is_contiguous():
        return
    shape, strides = cache.shape, cache.stride()
    run = 1
    for size, stride in zip(reversed(shape[1:]), reversed(strides[1:]), strict=True):
        if size != 1 and stride != run:
            raise ValueError(f"{name}: strides {strides} of shape {tuple(shape)} given; expected contiguous blocks")
        run *= size
    if shape[0] > 1 and strides[0] < run:
        raise ValueError(f"{name}: block stride {strides[0]} given; expected at least {run}, or blocks would overlap")


def check_positive(name: str, value: int) -> None:
    """Raises ValueError unless ``value`` is at least 1."""
    if value < 1:
        raise ValueError(f"{name}: {value} given; expected at least 1")


def check_not_negative(name: str, value: int) -> None:
    """Raises ValueError if ``value`` is below 0."""
    if value < 0:
        raise ValueError(f"{name}: {value} given; expected at least 0")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raises ValueError unless ``low <= value <= high``; NaN is in no range."""
    if not low <= value <= high:
        raise ValueError(f"{name}: {value} given; expected {low} to {high}")


def check_one_of(name: str, value: object, allowed: Iterable[object]) -> None:
    """Raises ValueError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name}: {value!r} given; allowed: {', '.join(map(repr, allowed))}")


def check_runnable(tensor: Tensor) -> None:
    """Raises ValueError if a Triton kernel cannot take a tensor on this device."""
    if tensor.is_cuda:
        return
    import triton  # only here: the other checks also serve where triton is not installed

    if not triton.knobs.runtime.interpret:
        raise ValueError(
            f"device: tensors on {tensor.device} given; Triton kernels take CUDA tensors, and CPU tensors only in "
            "Triton's interpreter (TRITON_INTERPRET=1 before triton is imported)"
        )


def check_cache_write(
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    k_scale: Tensor | None,
    v_scale: Tensor | None,
) -> tuple[int, int, int, int, int, int]:
    """The arguments of ``reshape_and_cache``; what they must be is said there.

    Returns:
        num_tokens, num_kv_heads, head_dim, value_head_dim, num_blocks, block_size.
    """
    sizes: dict[str, int] = {}
    num_tokens, num_kv_heads, head_dim = check_shape("k", k, "num_tokens num_kv_heads head_dim", sizes)
    value_head_dim = check_shape("v", v, "num_tokens num_kv_heads value_head_dim", sizes)[2]
    shape = check_shape("k_cache", k_cache, "num_blocks block_size num_kv_heads head_dim", sizes)
    check_shape("v_cache", v_cache, "num_blocks block_size num_kv_heads value_head_dim", sizes)
    check_shape("slot_mapping", slot_mapping, "num_tokens", sizes)
    check_dtype("k", k, FLOATS)
    check_dtype("v", v, (k.dtype,))
    check_dtype("k_cache", k_cache, (k.dtype, FP8))
    check_dtype("v_cache", v_cache, (k_cache.dtype,))
    check_dtype("slot_mapping", slot_mapping, INDICES)
    check_last_dim_contiguous("k", k)
    check_last_dim_contiguous("v", v)
    check_contiguous("slot_mapping", slot_mapping)
    check_blocks_contiguous("k_cache", k_cache)
    check_blocks_contiguous("v_cache", v_cache)
    if k_cache.dtype == FP8 or k_scale is not None or v_scale is not None:
        check_scale("k_scale", k_scale, k_cache.dtype, num_kv_heads)
        check_scale("v_scale", v_scale, k_cache.dtype, num_kv_heads)
    check_same_device(
        k_cache=k_cache, v_cache=v_cache, k=k, v=v, slot_mapping=slot_mapping, k_scale=k_scale, v_scale=v_scale
    )
    return num_tokens, num_kv_heads, head_dim, value_head_dim, shape[0], shape[1]


def check_scale(name: str, scale: Tensor | None, cache_dtype: torch.dtype, num_kv_heads: int) -> None:
    """A scale is float32 ``[1]`` or ``[num_kv_heads]`` for a float8 cache, and None for others."""
    if cache_dtype != FP8:
        if scale is not None:
            raise ValueError(f"{name}: a tensor given; expected None for a cache of {_short(cache_dtype)}")
        return
    if scale is None:
        raise ValueError(
            f"{name}: None given; expected float32 [1] or [num_kv_heads={num_kv_heads}] for a float8 cache"
        )
    check_dtype(name, scale, (torch.float32,))
    if scale.shape != (1,) and scale.shape != (num_kv_heads,):
        raise ValueError(f"{name}: shape {tuple(scale.shape)} given; expected [1] or [num_kv_heads={num_kv_heads}]")
    check_contiguous(name, scale)
