"""The badge must not say "equal" unless every compared token was."""

from __future__ import annotations

from tests.views import scenes
from workbench.events import Cause, EventBus, FinishReason, PageMap
from workbench.events.types import (
    RequestAdmitted,
    RequestFinished,
    RequestQueued,
    RequestRejected,
    SequenceFinished,
    SequenceForked,
    TokenGenerated,
)
from workbench.views import compare_outputs


def _bus(*outputs: list[int]) -> EventBus:
    bus = scenes.start("paged")
    for request, tokens in enumerate(outputs):
        scenes.add(bus, request)
        scenes.generate(bus, request, tokens)
    return bus


def _done(bus: EventBus, *requests: int) -> PageMap:
    for request in requests:
        tokens = len(bus.page_map.requests[request].token_ids) if request in bus.page_map.requests else 0
        bus.emit(RequestFinished(request=request, reason=FinishReason.LENGTH, output_tokens=tokens))
    bus.flush()
    return bus.page_map


def test_pending_before_both_have_something() -> None:
    result = compare_outputs(_done(_bus([1, 2])), _done(_bus([])))
    assert (result.state, result.compared, result.generated) == ("pending", 0, 2)
    assert "yet" in result.words


def test_equal_over_the_common_part() -> None:
    result = compare_outputs(_done(_bus([1, 2, 3], [4])), _done(_bus([1, 2], [4])))
    assert (result.state, result.compared, result.generated, result.final) == ("equal", 3, 4, False)
    assert result.words == "Outputs equal: 3 of 4 tokens compared"


def test_final_when_all_ended() -> None:
    result = compare_outputs(_done(_bus([1, 2]), 0), _done(_bus([1, 2]), 0))
    assert result.final
    assert result.words == "Outputs equal: 2 of 2 tokens compared (final)"


def test_first_difference_is_named() -> None:
    result = compare_outputs(_done(_bus([1, 2], [5, 6, 7])), _done(_bus([1, 2], [5, 9, 7])))
    assert (result.state, result.difference, result.equal) == ("differ", (1, 1), 3)
    assert result.words == "Outputs differ: request B at token 2"


def test_ending_early_is_a_difference() -> None:
    result = compare_outputs(_done(_bus([1, 2, 3])), _done(_bus([1, 2]), 0))
    assert result.difference == (0, 2)


def test_rejected_requests_are_named_and_not_compared() -> None:
    bus = scenes.start("contiguous")
    scenes.add(bus, 0, admit=False)
    bus.emit(RequestRejected(request=0, reason="too long", cause=Cause.NEVER_FITS, needed=64, available=32))
    bus.flush()
    result = compare_outputs(_done(_bus([1]), 0), bus.page_map)
    assert (result.state, result.final) == ("pending", True)
    assert result.words == "Outputs: nothing to compare; not compared: A (rejected)"


def _samples(*outputs: list[int], ended: bool = False) -> PageMap:
    """One request with several samples."""
    bus = scenes.start("paged")
    bus.emit(RequestQueued(request=0, sequence=0, prompt="x", prompt_tokens=3, max_tokens=8, width=len(outputs)))
    bus.emit(RequestAdmitted(request=0, waited_steps=0))
    for sequence in range(1, len(outputs)):
        bus.emit(SequenceForked(request=0, parent=0, child=sequence, num_tokens=0, cause=Cause.FORK))
    for sequence, tokens in enumerate(outputs):
        for index, token in enumerate(tokens):
            bus.emit(TokenGenerated(request=0, sequence=sequence, index=index, token_id=token, text=""))
        if ended:
            bus.emit(SequenceFinished(request=0, sequence=sequence, reason=FinishReason.LENGTH, output_tokens=1))
    if ended:
        bus.emit(RequestFinished(request=0, reason=FinishReason.LENGTH, output_tokens=1))
    bus.flush()
    return bus.page_map


PLACES = {0: (0, 0), 1: (0, 1)}


def test_samples_are_compared_with_the_requests_that_stand_for_them() -> None:
    left = _samples([1, 2], [3, 4], ended=True)
    equal = compare_outputs(left, _done(_bus([1, 2], [3, 4]), 0, 1), PLACES)
    assert (equal.state, equal.compared, equal.generated, equal.final) == ("equal", 4, 4, True)
    differs = compare_outputs(left, _done(_bus([1, 2], [3, 5]), 0, 1), PLACES)
    assert (differs.difference, differs.sample) == ((0, 1), 1)
    assert differs.words == "Outputs differ: request A, sample 2, at token 2 (final)"
    early = compare_outputs(left, _done(_bus([1, 2], [3]), 0, 1), PLACES)
    assert (early.difference, early.sample) == ((0, 1), 1)
    ahead = compare_outputs(_samples([1, 2], [3, 4]), _done(_bus([1, 2], [3])), PLACES)
    assert (ahead.state, ahead.compared, ahead.final) == ("equal", 3, False)


def test_samples_on_both_sides() -> None:
    same = compare_outputs(_samples([1], [2]), _samples([1], [2]))
    assert (same.state, same.compared) == ("equal", 2)
    assert compare_outputs(_samples([1], [2]), _samples([1], [9])).sample == 1
