"""What is kept of what was used last, and whose goes first."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from prelude.engine.kept import Kept


def test_who_fills_it_loses_its_own() -> None:
    kept: Kept[str, int] = Kept(4)
    kept.keep("shared", 1, "b")
    for number in range(9):
        kept.keep(f"a{number}", number, "a")
    assert kept.find("shared", "b") == 1
    assert [kept.find(f"a{n}", "a") for n in range(9)] == [None] * 6 + [6, 7, 8]
    kept.forget("a8")
    kept.forget("a8")
    assert kept.find("a8", "a") is None


@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abc"))))
def test_the_newest_is_kept_and_nobody_below_its_share_loses(
    most: int, uses: list[tuple[int, str]]
) -> None:
    kept: Kept[int, int] = Kept(most)
    for key, user in uses:
        before = dict(kept._found)
        if kept.find(key, user) is None:
            kept.keep(key, key, user)
        assert kept.find(key, user) == key
        assert len(kept._found) <= most
        for lost in before.keys() - kept._found.keys():
            counts = Counter(who for _, who in kept._found.values())
            assert counts[before[lost][1]] + 1 >= max(counts.values())
