"""The KV peak: against a search over all moments, and how far the mean of a length is from what is
taken for it."""

from math import log, pow, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.batcher.forecast import peak_blocks
from prelude.batcher.lengths import remaining
from prelude.types.service import Prediction
from tests.views import Seq


def running(seq_id: int, tokens: int, left: int) -> Seq:
    """One of which it is known when it ends."""
    sure = Prediction(1e5, 1e5, 1.0)
    return Seq(seq_id, tokens, prediction=sure, num_remaining=left)


def peak_tokens(futures: list[tuple[int, int]]) -> int:
    """Of (tokens, left), moment by moment: who has ended holds nothing any more."""
    moments = range(max([left for _, left in futures], default=0) + 1)
    return max(
        [sum(tokens + now for tokens, left in futures if now <= left) for now in moments],
        default=0,
    )


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60)), max_size=8), st.integers(1, 16))
def test_it_is_the_largest_of_all_moments(futures: list[tuple[int, int]], size: int) -> None:
    seqs = [running(i, *future) for i, future in enumerate(futures)]
    found = peak_blocks(seqs, size, limited=True)
    assert found == pytest.approx(peak_tokens(futures) / size + len(futures))


def test_who_ends_early_makes_room_for_who_stays() -> None:
    apart = [running(0, 100, 10), running(1, 10, 100)]
    assert peak_blocks(apart, 1, limited=True) == 100 + 10 + 10 + 10 + 2
    together = [running(0, 100, 100), running(1, 10, 100)]
    assert peak_blocks(together, 1, limited=True) == 310 + 2


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60)), max_size=8), st.integers(1, 70))
def test_it_looks_no_further_than_it_is_told(futures: list[tuple[int, int]], horizon: int) -> None:
    seqs = [running(i, *future) for i, future in enumerate(futures)]
    near = [(tokens, min(left, horizon)) for tokens, left in futures]
    found = peak_blocks(seqs, 1, limited=True, horizon=horizon)
    assert found == pytest.approx(peak_tokens(near) + len(futures))


def test_a_part_of_a_block_is_a_block() -> None:
    """Whatever the real lengths are, as long as they come true."""
    futures = [(5, 3), (6, 2), (9, 0)]
    seqs = [running(i, *future) for i, future in enumerate(futures)]
    whole = max(
        sum(-(-(tokens + now) // 4) for tokens, left in futures if now <= left) for now in range(4)
    )
    assert peak_blocks(seqs, 4, limited=True) >= whole


def test_an_empty_engine_holds_nothing() -> None:
    assert peak_blocks([], 16, limited=True) == 0.0


def test_without_a_prediction_only_what_is_there_counts() -> None:
    seqs = [Seq(0, 64, num_remaining=1000), Seq(1, 32, num_remaining=1000)]
    assert peak_blocks(seqs, 16, limited=True) == 6 + 2


def test_limits_are_looked_at_only_where_they_may_be() -> None:
    seq = Seq(0, 10, prediction=Prediction(100.0, 400.0, 1.0), num_remaining=50)
    assert peak_blocks([seq], 1, limited=True) == 10 + 50 + 1
    assert peak_blocks([seq], 1, limited=False) == pytest.approx(10 + 200 + 1)


def test_what_is_left_is_foreseen_given_what_was_said() -> None:
    seq = Seq(0, 500, prediction=Prediction(100.0, 300.0, 1.0), num_output=400)
    q50, q90 = remaining(Prediction(100.0, 300.0, 1.0), 400)
    assert peak_blocks([seq], 1, limited=False) == pytest.approx(500 + sqrt(q50 * q90) + 1)
    assert sqrt(q50 * q90) > 100.0, "a long one is expected to be longer still"


def mean_left(spread: float, generated: float) -> float:
    """Of what is left of a log-logistic law with median 1 after ``generated``: its survival
    function beyond there, integrated in steps of a two-hundredth."""
    shape = log(9.0) / log(spread)

    def survival(at: float) -> float:
        return 1.0 / (1.0 + pow(at, shape))

    total, at = 0.0, max(generated, 1e-3)
    total += at - generated
    while at < 1e7:
        step = 0.005 * at
        total += step * survival(at + step / 2)
        at += step
    total += pow(at, 1.0 - shape) / (shape - 1.0)
    return total / survival(generated)


def geometric(spread: float, generated: float) -> float:
    q50, q90 = remaining(Prediction(1e4, 1e4 * spread, 0.0), int(1e4 * generated))
    return sqrt(q50 * q90) / 1e4


@pytest.mark.parametrize("spread", [1.5, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("generated", [0.0, 0.5, 1.0, 4.0])
def test_the_geometric_mean_of_the_quantiles_is_near_the_mean(
    spread: float, generated: float
) -> None:
    ratio = geometric(spread, generated) / mean_left(spread, generated)
    assert abs(ratio - 1.0) <= (0.2 if not generated else 0.25)


@pytest.mark.parametrize("spread", [5.0, 6.0, 8.0])
def test_wider_laws_are_underestimated(spread: float) -> None:
    assert geometric(spread, 0.0) < 0.75 * mean_left(spread, 0.0)


def test_the_median_alone_would_be_far_too_low() -> None:
    assert mean_left(4.0, 0.0) > 2.0
    assert geometric(4.0, 0.0) == pytest.approx(2.0)
