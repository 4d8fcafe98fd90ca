"""The KV pool's future peak: what residents will hold together before the first of them end.

Past-Future scheduling (ASPLOS 2025): in the order in which they are expected to end, whoever ends
has grown by what was left of it, and so have all that outlive it.
"""

from collections.abc import Iterable
from math import inf, sqrt

from prelude.batcher.lengths import remaining
from prelude.batcher.view import SequenceView


def peak_blocks(
    seqs: Iterable[SequenceView], block_size: int, *, limited: bool, horizon: float = inf
) -> float:
    """Most blocks that these sequences are expected to hold at any later time, ``horizon`` tokens
    each from now; ``limited`` says that ``max_tokens`` may be looked at. O(n log n)."""
    futures = sorted(
        [(min(_remaining(seq, limited), horizon), seq.num_tokens) for seq in seqs], reverse=True
    )
    peak = held = 0.0
    for number, (left, num_tokens) in enumerate(futures, 1):
        held += num_tokens
        peak = max(peak, held + number * left)
    return peak / block_size + len(futures)


def _remaining(seq: SequenceView, limited: bool) -> float:
    """Output tokens still to come, in the mean: what many sequences add up to is no matter of
    their quantiles. The geometric mean of the median and the 90th percentile is within a quarter
    of the mean of log-logistic laws as long as the one is at most four times the other. Wider ones
    it underestimates: their means are those of a tail that contexts cut off. None are foreseen
    without a prediction."""
    if seq.prediction is None:
        return 0.0
    q50, q90 = remaining(seq.prediction, seq.num_output)
    left = sqrt(q50 * q90)
    return min(left, float(seq.num_remaining)) if limited else left
