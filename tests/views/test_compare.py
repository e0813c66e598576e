"""The badge must not say "equal" unless every compared token was."""

from __future__ import annotations

from tests.views import scenes
from workbench.events import Cause, EventBus, FinishReason, PageMap
from workbench.events.types import RequestFinished, RequestRejected
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
