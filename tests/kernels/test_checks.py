"""What is wrong with an argument is said by name, with what was given and what is allowed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from paged_kernels import checks
from paged_kernels.cache_addresses import widest_access


def test_equal_names_have_equal_sizes() -> None:
    sizes: dict[str, int] = {}
    assert checks.check_shape("q", torch.zeros(5, 8, 4), "num_tokens num_heads head_dim", sizes) == (5, 8, 4)
    checks.check_shape("pairs", torch.zeros(7, 2), "num_pairs 2", sizes)
    with pytest.raises(
        ValueError, match=r"k: shape \(6, 2, 4\) given; expected \[num_tokens=5, num_kv_heads, head_dim"
    ):
        checks.check_shape("k", torch.zeros(6, 2, 4), "num_tokens num_kv_heads head_dim", sizes)


WIDE = torch.zeros(4, 6)
BLOCKS = torch.zeros(6, 2, 3, 4)
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: checks.check_shape("k_cache", torch.zeros(3, 4), "num_blocks block_size heads head_dim", {}),
        ValueError,
        r"k_cache: shape \(3, 4\) given; expected \[num_blocks, block_size, heads, head_dim\]",
    ),
    (
        lambda: checks.check_shape("pairs", torch.zeros(7, 3), "num_pairs 2", {}),
        ValueError,
        r"pairs: shape \(7, 3\) given; expected \[num_pairs(=7)?, 2\]",
    ),
    (
        lambda: checks.check_dtype("q", WIDE.int(), (torch.float32, torch.bfloat16)),
        TypeError,
        "q: dtype int32 given; allowed: float32, bfloat16",
    ),
    (
        lambda: checks.check_same_device(q=WIDE, sinks=None, k=WIDE.to("meta")),
        ValueError,
        "k: on meta; expected cpu, where q is",
    ),
    (lambda: checks.check_same_device(a=None, b=None), ValueError, "a, b: None given"),
    (
        lambda: checks.check_last_dim_contiguous("v", WIDE[:, ::2]),
        ValueError,
        r"v: strides \(6, 2\) given; expected 1 for the last dimension",
    ),
    (lambda: checks.check_contiguous("table", WIDE.t()), ValueError, r"table: strides \(1, 6\)"),
    (
        lambda: checks.check_blocks_contiguous("k_cache", BLOCKS.transpose(1, 2)),
        ValueError,
        r"k_cache: strides \(24, 4, 12, 1\) of shape \(6, 3, 2, 4\) given; expected contiguous blocks",
    ),
    (
        lambda: checks.check_blocks_contiguous("k_cache", BLOCKS[:1].expand(6, -1, -1, -1)),
        ValueError,
        "k_cache: block stride 0 given; expected at least 24",
    ),
    (lambda: checks.check_positive("window", 0), ValueError, "window: 0 given; expected at least 1"),
    (lambda: checks.check_range("scale", float("nan"), 0.0, 1.0), ValueError, r"scale: nan given; expected 0.0 to 1.0"),
    (lambda: checks.check_one_of("mode", "x", ("a", "b")), ValueError, "mode: 'x' given; allowed: 'a', 'b'"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[message[:25] for _, _, message in BAD])
def test_what_is_wrong_is_said(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_what_is_right_passes() -> None:
    checks.check_last_dim_contiguous("one column", WIDE[:, ::6])
    checks.check_blocks_contiguous("gaps between blocks", BLOCKS[::2])
    checks.check_blocks_contiguous("a dimension of one has any stride", BLOCKS[:, :1].transpose(1, 2))
    assert checks.check_same_device(q=WIDE, sinks=None).type == "cpu"
    checks.check_range("scale", 1.0, 0.0, 1.0)


def test_widest_access_divides_all() -> None:
    assert widest_access(0, 4096, 48) == 16
    assert widest_access(0, 4096, 40) == 8
    assert widest_access(4096, 6) == 2
    assert widest_access(3, 16) == 1


def test_a_cpu_tensor_needs_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="needs triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    checks.check_runnable(WIDE)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="tensors on cpu given; Triton kernels take CUDA tensors"):
        checks.check_runnable(WIDE)


def test_checks_and_reference_need_no_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None; "
        "import paged_kernels.checks, paged_kernels.cache_addresses, paged_kernels.reference_blocks"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
