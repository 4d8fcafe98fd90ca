"""Buckets: what holds a launch, what pads least."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelude.graphs.buckets import (
    Buckets,
    bucket_key,
    choose_buckets,
    ladder,
    padding,
    round_up_tokens,
)
from prelude.types.plan import BucketKey

STATIC = Buckets(decode=(1, 2, 4, 8), prefill=(16, 32, 64), max_rows=8)


@given(st.integers(1, 100_000))
def test_buckets_hold_what_they_are_for_and_waste_at_most_a_quarter(n: int) -> None:
    bucket = round_up_tokens(n)
    assert n <= bucket
    assert n <= 16 or bucket <= 1.25 * n
    assert round_up_tokens(bucket) == bucket


def test_a_key_reads_well() -> None:
    assert str(bucket_key("prefill", 100, 3)) == "prefill[112x4,k=0,greedy]"


def test_ladders_end_where_they_are_told() -> None:
    assert ladder(1, 33) == (1, 2, 4, 8, 16, 20, 24, 28, 32, 33)
    assert ladder(16, 16) == (16,)
    assert ladder(5, 3) == (3,)


def test_without_static_shapes_a_key_is_a_rounded_name() -> None:
    assert not Buckets().is_static
    assert Buckets().key("prefill", 100, 3) == bucket_key("prefill", 100, 3)
    assert Buckets().keys(("greedy",)) == []


@pytest.mark.parametrize(
    ("kind", "tokens", "rows", "expected"),
    [
        ("decode", 3, 3, (4, 4)),
        ("decode", 9, 9, (9, 9)),
        ("prefill", 17, 2, (32, 4)),
        ("prefill", 17, 5, (64, 8)),  # a bucket of 32 tokens has room for 4 rows
        ("prefill", 65, 2, (65, 2)),
        ("prefill", 64, 8, (64, 8)),
    ],
)
def test_launches_are_padded_to_a_bucket_or_exact(
    kind: str, tokens: int, rows: int, expected: tuple[int, int]
) -> None:
    key = STATIC.key(kind, tokens, rows, "filtered")  # type: ignore[arg-type]
    assert key == BucketKey(kind, *expected, 0, "filtered")  # type: ignore[arg-type]


def test_the_bucket_below_has_room_for_the_rows() -> None:
    assert STATIC.below(40, 2) == 32
    assert STATIC.below(40, 5) == 0
    assert STATIC.below(64, 1) == 32
    assert STATIC.below(16, 1) == 0


def test_programs_are_captured_largest_first() -> None:
    keys = STATIC.keys(("greedy", "filtered"))
    assert len(keys) == 2 * 7 == len(set(keys))
    sizes = [key.num_tokens for key in keys]
    assert sizes == sorted(sizes, reverse=True)
    assert all(STATIC.key(k.kind, k.num_tokens, k.num_rows, k.mode) == k for k in keys)


sizes = st.lists(st.integers(1, 40), min_size=1, max_size=8, unique=True).map(sorted)
histograms = st.dictionaries(st.integers(1, 50), st.integers(1, 100), max_size=8)


@settings(max_examples=60)
@given(sizes, histograms, st.integers(1, 4))
def test_no_other_choice_pads_less(
    default: list[int], histogram: dict[int, int], limit: int
) -> None:
    chosen = choose_buckets(default, histogram, limit)
    assert list(chosen) == sorted(set(chosen))
    assert chosen[-1] == max(default)
    assert len(chosen) <= limit
    seen = {n: c for n, c in histogram.items() if n <= max(default)} or dict.fromkeys(default, 1)
    candidates = sorted({*default, *seen} - {max(default)})
    others = (
        padding((*subset, max(default)), seen)
        for count in range(limit)
        for subset in combinations(candidates, count)
    )
    assert padding(chosen, seen) == min(others)


def test_without_a_histogram_the_defaults_stand() -> None:
    assert choose_buckets((16, 32, 64), {}, 8) == (16, 32, 64)
    assert choose_buckets((16, 32, 64), {500: 9}, 8) == (16, 32, 64), "beyond all buckets"


def test_a_histogram_moves_buckets_to_where_launches_are() -> None:
    default = ladder(16, 1024)
    histogram = {474: 1000, 480: 500, 512: 200, 20: 50, 1000: 10}
    chosen = choose_buckets(default, histogram, 6)
    assert {474, 480, 512, 1024} <= set(chosen)
    assert padding(chosen, histogram) < padding(default, histogram) / 2


def test_many_sizes_are_chosen_from_quickly() -> None:
    histogram = {n: 1 + n * 7919 % 13 for n in range(1, 2048)}
    chosen = choose_buckets(ladder(16, 2048), histogram, 24)
    assert len(chosen) == 24
    assert padding(chosen, histogram) <= padding(ladder(16, 2048)[-24:], histogram)
