"""What surrounds a call in a worker: what leaves it is text that shows, and no more."""

import pytest

from flsim.envelope import TEXT_LIMIT, TRACEBACK_LIMIT, clean, describe, traceback_of

WORDS = "\x1b[2J\x1b]0;title\x07\x9b31m‮\nFAKE LOG\r"


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as e:
        return e


@pytest.mark.parametrize("text_of", [describe, traceback_of])
def test_the_text_of_an_error_cannot_move_the_terminal(text_of: object) -> None:
    assert callable(text_of)
    text = text_of(raised(ValueError(WORDS)))
    assert "FAKE LOG" in text
    assert {c for c in text if not c.isprintable()} <= {"\n"}


def test_text_that_shows_stays_as_it_is() -> None:
    assert clean("Ümläute, 日本, \t and a\nline", 100) == "Ümläute, 日本, \t and a\nline"


def test_long_text_is_cut_and_shows_where() -> None:
    assert clean("x" * 11, 10) == "x" * 9 + "…"
    assert len(describe(ValueError("x" * 10**6))) == TEXT_LIMIT
    assert len(traceback_of(raised(ValueError("x" * 10**6)))) <= TRACEBACK_LIMIT + 1
