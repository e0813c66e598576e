"""The glossary: complete, closed, found by any of its names."""

from __future__ import annotations

import pytest

from workbench.glossary import GLOSSARY, anchor, find

#: DESIGN.md, "Names".
FIELD = """block, page, logical block, physical block, block_table, slot_mapping, block_size, ref_count,
num_computed_tokens, context_lens, prefill, chunked prefill, decode, continuous batching,
preemption, swap, recompute, swap_in, swap_out, copy-on-write, watermark, prefix cache, device tier,
host tier, free, cached, allocated, token states, reservation, internal fragmentation, external
fragmentation, max, pow2, oracle, buddy allocator, attention mass, cursor, step, event, recording,
beam search, parallel samples, KV cache, token, slot, admission, eviction, reference count"""


@pytest.mark.parametrize("name", [" ".join(name.split()) for name in FIELD.split(",")])
def test_every_name_of_the_field_is_explained(name: str) -> None:
    assert find(name) in GLOSSARY


def test_names_are_unique_sorted_and_see_only_each_other() -> None:
    names = [term.name for term in GLOSSARY]
    assert names == sorted(names, key=str.casefold)
    every = [name.casefold() for term in GLOSSARY for name in (term.name, *term.also)]
    assert len(every) == len(set(every))
    assert len({term.anchor for term in GLOSSARY}) == len(names)
    for term in GLOSSARY:
        assert set(term.see) <= set(names) - {term.name}, term.name


def test_entries_are_whole_sentences() -> None:
    for term in GLOSSARY:
        assert term.meaning.endswith("."), term.name
        assert term.explanation.endswith("."), term.name
        assert len(term.explanation.split()) >= 8, term.name
    assert sum(bool(term.source) for term in GLOSSARY) > len(GLOSSARY) // 2


def test_an_unknown_name_is_an_error_that_helps() -> None:
    assert anchor("Copy-on-write") == find("COW").anchor == "term-copy-on-write"
    with pytest.raises(KeyError, match=r"name='prefiled': no such term.*Prefill"):
        find("prefiled")
