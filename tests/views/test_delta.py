"""A patch makes the new value of the old one, in Python and in a browser's JavaScript alike."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.views.delta import diff, patch
from workbench.views.scripts import STATIC

NUMBERS = st.integers(-3, 3) | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.none() | st.booleans() | NUMBERS | st.text("ab😀é\x00", max_size=20) | st.text(max_size=5)
KEYS = st.sampled_from(["a", "b", "s", "o", "n", "x", "__proto__", "constructor", "toString", "1"])
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=20
)


def exactly(a: Any, b: Any) -> bool:
    """Equal, and of the same types all the way down; order of keys does not count."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


@st.composite
def edited(draw: st.DrawFn) -> tuple[Any, Any]:
    """Two values of which the second is often a changed copy of the first."""
    old = draw(VALUES)
    new = json.loads(json.dumps(old))
    for _ in range(draw(st.integers(0, 3))):
        if isinstance(new, list) and new:
            new[draw(st.integers(0, len(new) - 1))] = draw(VALUES)
        elif isinstance(new, dict):
            new[draw(KEYS)] = draw(VALUES)
        elif isinstance(new, str):
            new += draw(st.text(max_size=3))
    return old, draw(st.just(new) | VALUES)


@given(edited())
@settings(deadline=None, max_examples=300)
def test_a_patch_makes_the_new_value(pair: tuple[Any, Any]) -> None:
    old, new = pair
    before = json.dumps(old)
    change = json.loads(json.dumps(diff(old, new)))
    assert exactly(patch(old, change), new)
    assert json.dumps(old) == before
    assert diff(new, json.loads(json.dumps(new))) == 0


def test_booleans_are_not_numbers_and_unchanged_parts_cost_nothing() -> None:
    assert diff([1, 0], [True, 0]) == {"a": [0, True]}
    assert diff({"a": [1, 2, 3], "b": "x"}, {"a": [1, 2, 4], "b": "x"}) == {"o": {"a": {"a": [2, 4]}}}
    assert diff("a long enough text", "a long enough tale") == {"s": [15, "ale"]}
    assert diff([1, 2, 3], [1, 2, 3, 4]) == {"t": [4]}
    assert diff([1, 2, 3], [1]) == {"n": 1}
    with pytest.raises(ValueError, match="does not fit"):
        patch([1], {"a": [7, 1]})


@pytest.fixture(scope="module")
def cases() -> list[tuple[Any, Any]]:
    """The same nested values in every run, as pairs of old and new."""
    rng = random.Random(5)
    texts = ["", "a", "abcdefghij", "abcdefghik", "😀😀😀😀😀😀😀😀x", "😀😀😀😀😀😀😀😀yz", "</script>", "\u2028"]

    def value(depth: int) -> Any:
        kind = rng.randrange(6 if depth else 4)
        if kind == 4:
            return [value(depth - 1) for _ in range(rng.randrange(7))]
        if kind == 5:
            keys = ("a", "o", "s", "__proto__", "constructor", "7")
            return {key: value(depth - 1) for key in keys if rng.random() < 0.5}
        return rng.choice((None, True, False, 0, 1, -1, 2.5, 1e300, *texts))

    def change(old: Any) -> Any:
        if isinstance(old, list):
            return [change(v) if rng.random() < 0.3 else v for v in old][: rng.randrange(9)] + [value(1)] * (
                rng.random() < 0.3
            )
        if isinstance(old, dict):
            return {k: change(v) for k, v in old.items() if rng.random() < 0.8}
        return old + "tail" if isinstance(old, str) else value(1)

    olds = [value(4) for _ in range(400)]
    return [(old, change(old)) for old in olds] + [(a, b) for a in texts for b in texts]


def test_javascript_does_the_same(cases: list[tuple[Any, Any]]) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node to run JavaScript with; the browser tests run the same script")
    program = (
        "globalThis.window = globalThis;"
        + (STATIC / "delta.js").read_text(encoding="utf-8")
        + """
        let text = "";
        process.stdin.on("data", (part) => (text += part)).on("end", () => {
          const out = JSON.parse(text).map(([old, change]) => {
            const before = JSON.stringify(old), made = KVW.patch(old, change);
            if (JSON.stringify(old) !== before) throw new Error("the old value was changed");
            return made;
          });
          process.stdout.write(JSON.stringify(out));
        });"""
    )
    asked = json.dumps([[old, diff(old, new)] for old, new in cases])
    done = subprocess.run([node, "-e", program], input=asked, capture_output=True, text=True, timeout=60, check=True)
    made = json.loads(done.stdout)
    assert len(made) == len(cases)
    for (old, new), result in zip(cases, made, strict=True):
        assert exactly(result, new), (old, new)


def test_comparing_large_arrays_is_quick() -> None:
    rng = random.Random(0)
    old = [rng.randrange(1000) for _ in range(1024)]
    new = [int(str(v)) for v in old]  # equal, and other objects
    new[77] = -5
    times = []
    for _ in range(20):
        began = time.perf_counter()
        change = diff(old, new)
        times.append(time.perf_counter() - began)
    assert change == {"a": [77, -5]}
    assert min(times) < 1e-3


def test_a_text_in_an_array_that_gets_longer_sends_only_what_is_new() -> None:
    text = "😀 once upon a time there was"
    row = ["r", 13, text, "short"]
    longer = ["r", 14, text + " a king", "shorter"]
    change = diff(row, longer)
    assert change == {"a": [1, 14, 2, "shorter"], "p": [2, {"s": [len(text), " a king"]}]}
    assert patch(row, change) == longer
    other = ["another text, no shorter than the first"]
    assert patch([text], diff([text], other)) == other
