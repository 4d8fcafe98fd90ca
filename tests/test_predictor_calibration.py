"""Calibration: it mends a model that is off, leaves a good one alone, and stays in bounds."""

import random
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.batcher.calibration import TARGETS, Calibration
from prelude.batcher.lengths import NUM_BINS, at_most, bin_of, quantile

QUANTUM = 100


def law(rng: random.Random, median: float, sigma: float) -> int:
    return max(1, round(median * rng.lognormvariate(0.0, sigma)))


def distribution(median: float, sigma: float) -> list[float]:
    rng, weights = random.Random(0), [0.0] * NUM_BINS
    for _ in range(20_000):
        weights[bin_of(law(rng, median, sigma))] += 1 / 20_000
    return [min(part, 1.0) for part in accumulate(weights)]


def taught(cdf: list[float], median: float, sigma: float, patience: int = 0) -> Calibration:
    """After lengths that follow a law of their own; ``patience`` cuts some of them off."""
    rng, calibration = random.Random(1), Calibration(QUANTUM)
    for _ in range(6000):
        num_tokens = law(rng, median, sigma)
        cut = rng.randint(1, patience) if patience else num_tokens
        calibration.learn(cdf, min(cut, num_tokens), censored=cut < num_tokens)
    return calibration


def coverage(calibration: Calibration, cdf: list[float], median: float, sigma: float) -> float:
    rng, q90 = random.Random(2), quantile(cdf, calibration.levels[1])
    return sum(law(rng, median, sigma) <= q90 for _ in range(4000)) / 4000


@pytest.mark.parametrize("patience", [0, 400])
def test_a_good_model_is_left_alone(patience: int) -> None:
    cdf = distribution(80.0, 0.7)
    calibration = taught(cdf, 80.0, 0.7, patience)
    assert calibration.levels == pytest.approx(TARGETS, abs=0.06)
    assert calibration.p_deep(cdf) == pytest.approx(1.0 - at_most(cdf, QUANTUM), abs=0.08)


@pytest.mark.parametrize(("median", "sigma"), [(80.0, 0.3), (80.0, 1.0), (60.0, 0.7), (100.0, 0.7)])
def test_a_model_that_is_off_is_mended(median: float, sigma: float) -> None:
    cdf = distribution(80.0, 0.7)
    calibration = taught(cdf, median, sigma)
    assert coverage(calibration, cdf, median, sigma) == pytest.approx(0.9, abs=0.04)
    rng = random.Random(3)
    share = sum(law(rng, median, sigma) > QUANTUM for _ in range(4000)) / 4000
    assert calibration.p_deep(cdf) == pytest.approx(share, abs=0.08)


def test_what_is_sure_moves_nothing() -> None:
    """All answers of two tokens, and the model knows: the level in between is any."""
    cdf = [float(i >= bin_of(2)) for i in range(NUM_BINS)]
    calibration = Calibration(QUANTUM)
    for _ in range(1000):
        calibration.learn(cdf, 2, censored=False)
    assert calibration.levels == pytest.approx(TARGETS)


GOOD = distribution(80.0, 0.7)
lengths = st.lists(st.tuples(st.integers(1, 300_000), st.booleans()), max_size=50)


@given(st.integers(1, 200_000), lengths)
def test_it_stays_within_bounds(quantum: int, answers: list[tuple[int, bool]]) -> None:
    cdf, calibration = GOOD, Calibration(quantum)
    for num_tokens, censored in answers:
        calibration.learn(cdf, num_tokens, censored=censored)
    assert all(0.0 < level < 1.0 for level in calibration.levels)
    assert 0.0 <= calibration.p_deep(cdf) <= 1.0


def test_a_surer_model_is_surer_after_calibration_too() -> None:
    calibration = taught(distribution(80.0, 0.7), 60.0, 0.7)
    chances = [calibration.p_deep(distribution(median, 0.7)) for median in (20.0, 80.0, 300.0)]
    assert chances == sorted(chances)


def test_what_is_restored_is_brought_within_bounds() -> None:
    calibration = Calibration(QUANTUM)
    calibration.restore([0.4, 7.0], [-3.0, 99.0])
    assert calibration.levels == [0.4, 0.995]
    assert calibration.odds == [0.25, 4.0]
