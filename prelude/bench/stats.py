"""Percentiles with their uncertainty. Samples of one request are not independent of each other
(the gaps between its chunks share a batch), so the bootstrap draws requests, not samples.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prelude.bench.result import Interval, Summary

PERCENTILES = (50, 90, 99)
CONFIDENCE = 0.95

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def summarise(
    values: Sequence[float],
    groups: Sequence[int] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Summary | None:
    """Mean, extremes and p50, p90, p99 of ``values``, each with its 95 % bootstrap interval.

    ``groups`` gives the request each value belongs to; default: every value its own. Percentiles
    interpolate linearly, as numpy's do. None when there are no values; ``resamples=0`` leaves the
    intervals out.
    """
    if len(values) == 0:
        return None
    array = np.asarray(values, dtype=np.float64)
    owners = np.arange(len(array)) if groups is None else np.asarray(groups, dtype=np.int64)
    order = np.argsort(array, kind="stable")
    points = percentiles(array[order])
    bounds = _bootstrap(array[order], owners[order], resamples, np.random.default_rng(seed))
    intervals = [
        Interval(float(point), *(None, None) if bounds is None else map(float, bounds[:, column]))
        for column, point in enumerate(points)
    ]
    return Summary(
        count=len(array),
        mean=float(array.mean()),
        min=float(array.min()),
        max=float(array.max()),
        p50=intervals[0],
        p90=intervals[1],
        p99=intervals[2],
    )


def percentiles(ordered: Floats) -> Floats:
    """p50, p90 and p99 of values that are already sorted."""
    ranks = np.asarray(PERCENTILES) / 100.0 * (len(ordered) - 1)
    below = np.floor(ranks).astype(np.int64)
    above = np.minimum(below + 1, len(ordered) - 1)
    low, high = ordered[below], ordered[above]
    return np.asarray(low + (high - low) * (ranks - below), dtype=np.float64)


def _bootstrap(
    ordered: Floats, owners: Ints, resamples: int, rng: np.random.Generator
) -> Floats | None:
    """[2, percentiles] bounds from resampled requests; None without resamples."""
    if resamples == 0:
        return None
    _, group_of = np.unique(owners, return_inverse=True)
    num_groups = int(group_of.max()) + 1
    draws = []
    for _ in range(resamples):
        counts = np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)
        draws.append(percentiles(np.repeat(ordered, counts[group_of])))
    tail = (1.0 - CONFIDENCE) / 2.0
    return np.asarray(np.quantile(np.stack(draws), [tail, 1.0 - tail], axis=0), dtype=np.float64)
