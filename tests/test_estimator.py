"""The estimator finds the truth, step by step, and says how far off it usually is."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.types.estimator import PriceEstimator
from prelude.types.plan import BucketKey, Launch, LaunchKind, Row
from prelude.types.prices import MODES, Curve, PriceTable, Sums, sums_of
from prelude.types.request import SampleMode

GRID = (1, 2, 4, 8, 16, 32, 64)
BODY = Curve((1, 16, 64), (10.0, 25.0, 73.0)).resampled(GRID)
HEAD = Curve((1, 16), (2.0, 8.0)).resampled((1, 4, 16))
TABLE = PriceTable(BODY, 0.01, 0.001, (HEAD, HEAD, HEAD))


def launch(estimator: PriceEstimator, rows: list[Row], mode: SampleMode = "greedy") -> Launch:
    kind: LaunchKind = "decode" if all(row.num_tokens == 1 for row in rows) else "prefill"
    sums = sums_of(rows, mode)
    key = BucketKey(kind, sums.tokens, sums.rows, 0, mode)
    return Launch(key, tuple(rows), estimator.table.step_ms(sums))


def decode(estimator: PriceEstimator, count: int = 1, start: int = 99) -> Launch:
    return launch(estimator, [Row(i, i, start, 1) for i in range(count)])


def price(estimator: PriceEstimator, count: int) -> float:
    return estimator.table.step_ms(Sums(count, 1))


@given(st.floats(0.05, 50.0), st.sampled_from([2, 5, 16, 40, 64, 200]), st.integers(0, 2000))
def test_prices_converge_to_the_truth(factor: float, tokens: int, start: int) -> None:
    estimator = PriceEstimator(TABLE)
    rows = [Row(0, 0, start, tokens)]
    truth = TABLE.step_ms(sums_of(rows)) * factor
    for _ in range(300):
        estimator.observe(launch(estimator, rows), truth)
    assert estimator.table.step_ms(sums_of(rows)) == pytest.approx(truth, rel=0.02)
    assert estimator.error < 0.02


def random_rows(rng: Random) -> list[Row]:
    rows = [Row(i, i, rng.randrange(4000), 1) for i in range(rng.randrange(16))]
    if rng.random() < 0.3 or not rows:
        rows.append(Row(99, 99, rng.randrange(2000), rng.randrange(2, 48)))
    return rows


def mixed_error(true: PriceTable, noise: float, outliers: float = 0.0) -> float:
    """Median relative error of the predictions in the second half of a mixed load."""
    rng = Random(0)
    estimator = PriceEstimator(TABLE)
    errors = []
    for step in range(3000):
        rows, mode = random_rows(rng), rng.choice(MODES[:2])
        actual = true.step_ms(sums_of(rows, mode)) * rng.lognormvariate(0.0, noise)
        if rng.random() < outliers:
            actual *= 10.0
        planned = launch(estimator, rows, mode)
        if step > 1500:
            errors.append(abs(planned.price_ms - actual) / actual)
        estimator.observe(planned, actual)
    return sorted(errors)[len(errors) // 2]


TRUE = PriceTable(
    Curve(BODY.counts, (6.0, 6.5, 7.0, 9.0, 14.0, 27.0, 52.0)),
    0.004,
    0.0004,
    (HEAD, Curve((1, 16), (5.0, 30.0)), HEAD),
)


def test_a_mixed_load_teaches_every_part_of_the_list() -> None:
    assert mixed_error(TRUE, noise=0.0) < 0.02
    assert mixed_error(TRUE, noise=0.05) < 0.05


def test_outliers_hardly_matter() -> None:
    assert mixed_error(TRUE, noise=0.02, outliers=0.05) < 0.05


def test_one_disturbed_step_moves_a_price_little_once_errors_are_known_to_be_small() -> None:
    estimator = PriceEstimator(TABLE)
    for _ in range(200):
        estimator.observe(decode(estimator), TABLE.step_ms(sums_of(decode(estimator).rows)))
    before = price(estimator, 1)
    estimator.observe(decode(estimator), 100 * before)
    assert before < price(estimator, 1) < 1.02 * before


def test_a_machine_that_slows_down_is_followed_by_all_prices_at_once_and_forgotten() -> None:
    estimator = PriceEstimator(TABLE)
    for _ in range(100):
        estimator.observe(decode(estimator), TABLE.step_ms(sums_of(decode(estimator).rows)))
    quiet = price(estimator, 64)
    for _ in range(40):
        truth = 1.5 * TABLE.step_ms(sums_of(decode(estimator).rows))
        estimator.observe(decode(estimator), truth)
    assert price(estimator, 64) > 1.2 * quiet
    for _ in range(100):
        estimator.observe(decode(estimator), TABLE.step_ms(sums_of(decode(estimator).rows)))
    assert price(estimator, 64) == pytest.approx(quiet, rel=0.1)


def test_other_programs_are_learned_from_their_first_steps() -> None:
    estimator = PriceEstimator(TABLE)
    for _ in range(500):
        estimator.observe(decode(estimator), 20.0)
    before = price(estimator, 16)
    estimator.restart(estimator.table, known=False)
    for _ in range(3):
        estimator.observe(decode(estimator), 10.0)
    assert decode(estimator).price_ms == pytest.approx(10.0, rel=0.1)
    assert price(estimator, 16) < 0.75 * before, "unseen sizes follow"
    estimator.restart(TRUE)
    assert estimator.table == TRUE


def test_quantiles_say_how_far_off_prices_are() -> None:
    estimator = PriceEstimator(TABLE)
    rng = Random(1)
    for _ in range(3000):
        planned = decode(estimator, rng.randrange(1, 9))
        truth = TABLE.step_ms(sums_of(planned.rows)) * rng.uniform(0.8, 1.2)
        estimator.observe(planned, truth)
    decodes, prefills = estimator.quantiles("decode"), estimator.quantiles("prefill")
    assert decodes.p50 == pytest.approx(1.0, abs=0.06)
    assert decodes.p90 == pytest.approx(1.16, abs=0.06)
    assert (decodes.num, prefills.num) == (3000, 0)


def test_a_padded_launch_teaches_the_price_of_its_bucket() -> None:
    estimator = PriceEstimator(TABLE, padded=True)
    key = BucketKey("prefill", 64, 8)
    sums = sums_of([Row(0, 0, 0, 33)]).padded(key)
    for _ in range(100):
        price_ms = estimator.table.step_ms(sums)
        estimator.observe(Launch(key, (Row(0, 0, 0, 33),), price_ms), 2 * TABLE.step_ms(sums))
    assert estimator.table.step_ms(sums) == pytest.approx(2 * TABLE.step_ms(sums), rel=0.02)
    assert estimator.table.body.ms[-1] > 1.5 * TABLE.body.ms[-1]


def test_what_was_free_or_took_no_time_teaches_nothing() -> None:
    estimator = PriceEstimator(TABLE)
    estimator.observe(Launch(BucketKey("decode", 1, 1), (Row(0, 0, 0, 1),), 0.0), 5.0)
    estimator.observe(decode(estimator), 0.0)
    assert estimator.table == TABLE
