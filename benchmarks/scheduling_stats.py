"""Percentiles of requests pooled over seeds, and ratios of two policies that served the same ones.

A ratio's interval is a bootstrap by request, over pairs: both policies' percentiles are taken of
the same draw of requests.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prelude.bench.result import Interval

CONFIDENCE = 0.95
RESAMPLES = 1000
_AT_ONCE = 50  # resamples: numpy takes longer to begin than a percentile does

Floats = NDArray[np.float64]
Keyed = Mapping[tuple[int, int], float]  # by seed and request


@dataclass(frozen=True, slots=True)
class Statistic:
    """A percentile, or the mean where ``q`` is None."""

    name: str
    q: float | None

    def of(self, values: Floats) -> Floats:
        """[..., requests] to [...]."""
        if self.q is None:
            return np.asarray(values.mean(axis=-1), dtype=np.float64)
        return np.asarray(np.percentile(values, self.q, axis=-1), dtype=np.float64)


P50, P90, P99 = (Statistic(f"p{q}", float(q)) for q in (50, 90, 99))
MEAN, MOST = Statistic("mean", None), Statistic("max", 100.0)


def value(of: Keyed, statistic: Statistic) -> float:
    """Raises ``LookupError`` where there is nothing."""
    if not of:
        raise LookupError(statistic.name)
    return float(statistic.of(np.fromiter(of.values(), np.float64)))


def ratio(
    ours: Keyed, theirs: Keyed, statistic: Statistic, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """``ours`` over ``theirs``, of the requests in both. Raises ``LookupError`` if none is."""
    keys = sorted(ours.keys() & theirs.keys())
    if not keys:
        raise LookupError(statistic.name)
    pairs = np.array([[ours[key], theirs[key]] for key in keys]).T  # [2, requests]
    point = float(_quotient(statistic.of(pairs)))
    rng = np.random.default_rng(seed)
    drawn = []
    for left in range(resamples, 0, -_AT_ONCE):
        size = min(left, _AT_ONCE), len(keys)
        drawn.append(_quotient(statistic.of(pairs[:, rng.integers(len(keys), size=size)])))
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(np.concatenate(drawn), [tail, 1.0 - tail])
    return Interval(point, float(low), float(high))


def _quotient(pair: Floats) -> Floats:
    return np.asarray(pair[0] / np.maximum(pair[1], 1e-9))
