"""Who is ahead, in one sentence that is true."""

from __future__ import annotations

from workbench_app.race import Standing, ahead_words


def lane(name: str, tokens: int, running: int = 1, peak: int = 1, end: int | None = None, used: float | None = None,
         waits: bool = False) -> Standing:  # fmt: skip
    return Standing(name, tokens, running, peak, end, used, waits)


def test_nobody_yet() -> None:
    assert ahead_words([lane("paged", 0), lane("contiguous", 0)]) == "Nothing is written yet, so nobody is ahead."


def test_ahead_and_why() -> None:
    words = ahead_words([lane("paged", 500, 25), lane("contiguous", 80, 4, used=0.2, waits=True)])
    assert words == (
        "Paged is ahead: 500 tokens written, contiguous 80. It writes 25 texts at once, contiguous 4: others wait, "
        "though only 20\N{NO-BREAK SPACE}% of its held memory is used (mean)."
    )
    words = ahead_words([lane("paged", 90, 3, 4), lane("contiguous", 100, 3, 5)])
    assert words == (
        "Contiguous is ahead: 100 tokens written, paged 90. Contiguous wrote up to 5 texts at once, paged at most 4."
    )
    assert ahead_words([lane("paged", 90, 5, 5), lane("contiguous", 100, 3, 3)]) == (
        "Contiguous is ahead: 100 tokens written, paged 90."
    )


def test_level() -> None:
    assert ahead_words([lane("paged", 100), lane("contiguous", 99)]) == (
        "Level: paged has written 100 tokens, contiguous 99."
    )


def test_two_of_three_are_level() -> None:
    assert ahead_words([lane("paged", 444, 12), lane("contiguous", 80, 2), lane("transformers", 444, 12)]) == (
        "Paged and transformers are ahead: 444 and 444 tokens written, contiguous 80."
    )


def test_who_rejects_requests_wins_no_race() -> None:
    paged = Standing("paged", 552, 0, 12, 122, None, False, 0, 12)
    assert ahead_words([paged, Standing("contiguous", 0, 0, 0, 0, None, False, 12, 12)]) == (
        "Contiguous rejected all 12 requests: more than its whole memory would be needed. So there is no race."
    )
    assert ahead_words([paged, Standing("contiguous", 9, 1, 1, None, None, False, 1, 12)]).startswith(
        "Contiguous rejected 1 of 12 requests:"
    )


def test_one_has_finished() -> None:
    words = ahead_words([lane("paged", 900, 0, 20, end=80), lane("contiguous", 400, 4, 4)])
    assert words == "Finished: paged after 80 steps. Contiguous has written 400 tokens and goes on with 4 texts."


def test_who_still_works_is_not_level_however_near() -> None:
    words = ahead_words(
        [lane("paged", 552, 0, 12, end=64), lane("contiguous", 547), lane("transformers", 552, 0, 12, end=64)]
    )
    assert words == (
        "Finished: paged after 64 steps, transformers after 64 steps. Contiguous has written 547 tokens and goes on "
        "with 1 text."
    )


def test_the_result_of_three() -> None:
    lanes = [
        lane("paged", 900, 0, 25, end=190, used=0.94),
        lane("contiguous", 900, 0, 4, end=1200, used=0.2),
        lane("transformers", 900, 0, 6, end=700),
    ]
    assert ahead_words(lanes) == (
        "Paged was done first, after 190 steps; transformers after 700, contiguous after 1,200. Paged wrote up to 25 "
        "texts at once, contiguous at most 4. While others waited, 94\N{NO-BREAK SPACE}% of the memory that paged held "
        "was used; with contiguous it was 20\N{NO-BREAK SPACE}%."
    )
    assert ahead_words([lane("paged", 9, end=5), lane("contiguous", 9, end=5)]) == (
        "Level: all have finished after 5 steps."
    )
    lanes = [lane("paged", 9, end=5), lane("contiguous", 9, end=7), lane("transformers", 9, end=5)]
    assert ahead_words(lanes) == "Paged and transformers were done first, after 5 steps; contiguous after 7."
