"""Distributions over the number of output tokens, on a fixed grid of bins: one for each of the
first seven counts, then four to the octave. A distribution is the list of P(length <= last of the
bin), in the order of the bins; within a bin every length is as likely as another.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from prelude.types.service import Prediction

_LARGEST = 2**17


def _grid() -> tuple[int, ...]:
    """The smallest count of every bin, and where the last one ends."""
    edges = list(range(1, 9))
    while edges[-1] < _LARGEST:
        edges += [edges[-1] * quarters // 4 for quarters in (5, 6, 7, 8)]
    return tuple(edges)


EDGES = _grid()
NUM_BINS = len(EDGES) - 1


def bin_of(num_tokens: int) -> int:
    """The bin of a count of at least one; the last one takes all that are larger."""
    return min(bisect_right(EDGES, num_tokens), NUM_BINS) - 1


def at_most(cdf: Sequence[float], num_tokens: int) -> float:
    """P(length <= num_tokens)."""
    if num_tokens < 1:
        return 0.0
    at = bin_of(num_tokens)
    below = cdf[at - 1] if at else 0.0
    share = min((num_tokens + 1 - EDGES[at]) / (EDGES[at + 1] - EDGES[at]), 1.0)
    return below + share * (cdf[at] - below)


def quantile(cdf: Sequence[float], level: float) -> float:
    """The smallest whole number of tokens that an answer exceeds with at most 1 - level."""
    at = min(bisect_left(cdf, level), NUM_BINS - 1)
    below = cdf[at - 1] if at else 0.0
    share = (level - below) / max(cdf[at] - below, 1e-9)
    tokens = EDGES[at] - 1 + min(share, 1.0) * (EDGES[at + 1] - EDGES[at])
    return float(max(math.ceil(tokens - 1e-6), EDGES[at]))


_LOG_ODDS_90 = math.log(9.0)
_LEAST_SPREAD = 0.05  # of the logarithm, between the two quantiles


def remaining(prediction: Prediction, generated: int) -> tuple[float, float]:
    """Median and 90th percentile of the tokens still to come of an answer that did not end with
    its first ``generated`` ones; at least one.

    The two quantiles are those of a log-logistic law, whose tail is a power of the length, as that
    of real answers is (TIE, ICML 2026); given survival its quantiles have a closed form.
    """
    q50 = max(prediction.q50, 1.0)
    spread = max(math.log(max(prediction.q90, q50) / q50), _LEAST_SPREAD)
    shape = _LOG_ODDS_90 / spread
    odds = math.exp(min(shape * math.log(generated / q50), 500.0)) if generated else 0.0
    ends = (q50 * ((1.0 + odds) / left - 1.0) ** (1.0 / shape) for left in (0.5, 0.1))
    q50_left, q90_left = (max(end - generated, 1.0) for end in ends)
    return q50_left, q90_left
