"""When requests are sent: seconds after the start, drawn once before the run, so that the same
seed gives two servers the same traffic and a late server does not slow its own load down.
"""

import math
from random import Random

from prelude.conf.bench import Arrival


def draw_arrivals(
    kind: Arrival, num_requests: int, *, rate: float, burstiness: float, rng: Random
) -> list[float]:
    """Ascending send times in seconds; the first request comes after a first gap.

    Gaps are exponential (poisson), Gamma with shape ``burstiness`` (coefficient of variation
    ``burstiness ** -0.5``) or all equal (constant), of mean ``1 / rate``. Raises ``ValueError``.
    """
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"rate: must be a positive number of requests a second, not {rate}")
    if not (burstiness > 0 and math.isfinite(burstiness)):
        raise ValueError(f"burstiness: must be a positive number, not {burstiness}")
    shape = {Arrival.poisson: 1.0, Arrival.gamma: burstiness}.get(kind)
    if shape is None and kind is not Arrival.constant:
        raise ValueError(f"arrival={kind}: has no rate; use poisson, gamma or constant")
    times, now = [], 0.0
    for _ in range(num_requests):
        now += 1.0 / rate if shape is None else rng.gammavariate(shape, 1.0 / (shape * rate))
        times.append(now)
    return times
