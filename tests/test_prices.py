"""Price tables interpolate, extrapolate and add up."""

import pytest

from prelude.types.plan import BucketKey, Row
from prelude.types.prices import Curve, PriceTable, Sums, flat_prices, sums_of

HEAD = Curve((1, 8), (2.0, 9.0))
TABLE = PriceTable(
    Curve((1, 16, 64), (10.0, 25.0, 73.0)), 0.01, 0.001, (HEAD, HEAD, Curve((1,), (4.0,)))
)


@pytest.mark.parametrize(
    ("tokens", "ms"), [(1, 10.0), (8, 17.0), (16, 25.0), (40, 49.0), (64, 73.0), (128, 146.0)]
)
def test_time_at_zero_context_follows_the_measured_points(tokens: int, ms: float) -> None:
    assert TABLE.step_ms(Sums(tokens, 1)) == pytest.approx(ms)


def test_context_and_pairs_add_up() -> None:
    assert TABLE.step_ms(Sums(16, 3, 100, 1000)) == pytest.approx(25.0 + 1.0 + 1.0)


def test_sampled_rows_pay_for_head_and_sampler_by_mode() -> None:
    assert TABLE.step_ms(Sums(16, 8, sampled=8)) == pytest.approx(25.0 + 9.0)
    assert TABLE.step_ms(Sums(16, 8, sampled=8, drawn=1)) == pytest.approx(25.0 + 9.0)
    assert TABLE.step_ms(Sums(16, 8, sampled=8, drawn=2, adjusted=1)) == pytest.approx(25.0 + 32.0)
    assert flat_prices(2.0, 0.5).step_ms(Sums(10, 2, sampled=2)) == pytest.approx(7.0)


def test_a_slow_machine_scales_everything() -> None:
    slow = PriceTable(TABLE.body, 0.01, scale=2.0)
    assert slow.step_ms(Sums(16, 3, 100)) == pytest.approx(2 * slow.list_ms(Sums(16, 3, 100)))
    assert slow.list_ms(Sums(16, 3, 100)) == pytest.approx(26.0)


def test_sums_count_context_of_single_tokens_and_pairs_of_chunks() -> None:
    one = Sums().plus(9, 1, "greedy")
    assert one == Sums(1, 1, ctx=10, sampled=1)
    both = one.plus(10, 4)
    assert both == Sums(5, 2, ctx=10, pairs=11 + 12 + 13 + 14, sampled=1)
    assert both.minus(9, 1, "greedy") == Sums(4, 1, pairs=50)
    rows = [Row(0, 0, 9, 1), Row(1, 1, 10, 4, samples=False)]
    assert sums_of(rows) == both


def test_the_most_demanding_row_decides_the_mode_and_leaves_no_trace() -> None:
    sums = Sums().plus(0, 1, "greedy")
    assert sums.mode == "greedy"
    drawn = sums.plus(0, 1, "filtered")
    assert drawn.mode == "filtered"
    full = drawn.plus(0, 1, "full")
    assert full.mode == "full"
    assert full.minus(0, 1, "full") == drawn
    assert drawn.minus(0, 1, "filtered") == sums


def test_a_padded_launch_runs_all_of_its_bucket() -> None:
    sums = Sums().plus(0, 90, "filtered").plus(0, 20)
    padded = sums.padded(BucketKey("prefill", 112, 14))
    assert (padded.tokens, padded.sampled, padded.mode) == (112, 14, "filtered")
    assert (padded.pairs, padded.rows) == (sums.pairs, 2)
    assert Sums().plus(0, 20).padded(BucketKey("prefill", 32, 4)).sampled == 0


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8, 11, 40])
def test_a_curve_is_what_its_parts_add_up_to(count: int) -> None:
    curve = Curve.of({2: 1.5, 4: 2.0, 8: 7.0, 10: 7.5})
    assert curve.at(count) == pytest.approx(sum(p * curve.ms[i] for i, p in curve.parts(count)))
    assert Curve().at(count) == 0.0


def test_a_curve_needs_positive_counts_and_a_table_one_point() -> None:
    with pytest.raises(ValueError, match="positive"):
        Curve.of({0: 1.0})
    with pytest.raises(ValueError, match="at one count at least"):
        PriceTable(Curve())


def test_more_points_change_no_price() -> None:
    finer = TABLE.body.resampled((1, 2, 32, 256))
    assert finer.counts == (1, 2, 16, 32, 64, 256)
    assert [finer.at(n) for n in range(1, 600, 7)] == pytest.approx(
        [TABLE.body.at(n) for n in range(1, 600, 7)]
    )
