"""Stop strings found in pieces must be the stop strings found in the whole."""

from hypothesis import given
from hypothesis import strategies as st

from prelude.text.stops import StopMatcher


def naive(text: str, stops: tuple[str, ...], include: bool) -> tuple[str, str | None]:
    """Look at every beginning of the text, shortest first."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            stop = max(ending, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


def run(pieces: list[str], stops: tuple[str, ...], include: bool) -> tuple[str, str | None]:
    matcher = StopMatcher(stops, include)
    printed = "".join(matcher.feed(piece) for piece in pieces) + matcher.flush()
    return printed, matcher.match.stop if matcher.match else None


letters = st.text(alphabet="ab\u00e9", max_size=6)


@given(
    st.lists(letters, max_size=8),
    st.lists(st.text(alphabet="ab\u00e9", min_size=1, max_size=4), max_size=4).map(tuple),
    st.booleans(),
)
def test_any_chunking_equals_a_naive_search(
    pieces: list[str], stops: tuple[str, ...], include: bool
) -> None:
    assert run(pieces, stops, include) == naive("".join(pieces), stops, include)


@given(st.lists(letters, max_size=8), st.lists(letters.filter(bool), max_size=4).map(tuple))
def test_only_a_possible_beginning_is_held_back(pieces: list[str], stops: tuple[str, ...]) -> None:
    matcher = StopMatcher(stops)
    seen = printed = ""
    for piece in pieces:
        seen += piece
        printed += matcher.feed(piece)
        if matcher.match is not None:
            assert seen.startswith(printed + matcher.match.stop)
            return
        held = seen[len(printed) :]
        assert len(held) == matcher.num_held
        assert not held or any(stop.startswith(held) for stop in stops)


def test_text_after_the_match_is_dropped() -> None:
    matcher = StopMatcher(("\n\n",))
    assert matcher.feed("one\n") == "one"
    assert matcher.feed("\ntwo") == ""
    assert matcher.match is not None
    assert matcher.match.stop == "\n\n"
    assert matcher.feed("three") == ""
    assert matcher.flush() == ""


def test_a_false_start_is_released() -> None:
    matcher = StopMatcher(("###",))
    assert matcher.feed("a#") == "a"
    assert matcher.feed("#") == ""
    assert matcher.feed("b") == "##b"


def test_included_stop_is_printed() -> None:
    matcher = StopMatcher(("END",), include=True)
    assert matcher.feed("the EN") == "the "
    assert matcher.feed("D of it") == "END"


def test_first_to_be_complete_wins() -> None:
    matcher = StopMatcher(("abcd", "bc"))
    assert matcher.feed("abcd") == "a"
    assert matcher.match is not None
    assert matcher.match.stop == "bc"


def test_longest_of_equal_ends_wins() -> None:
    matcher = StopMatcher(("c", "bc", "abc"))
    assert matcher.feed("xabc") == "x"
    assert matcher.match is not None
    assert matcher.match.stop == "abc"


def test_no_stops_pass_everything() -> None:
    matcher = StopMatcher(())
    assert matcher.feed("anything") == "anything"
    assert matcher.flush() == ""
    assert matcher.match is None
