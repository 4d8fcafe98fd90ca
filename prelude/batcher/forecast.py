"""The KV pool's future peak: what residents will hold together before the first of them end.

Past-Future scheduling (ASPLOS 2025): in the order in which they are expected to end, whoever ends
has grown by what was left of it, and so have all that outlive it.
"""

from collections.abc import Iterable

from prelude.batcher.view import SequenceView


def peak_blocks(seqs: Iterable[SequenceView], block_size: int, *, limited: bool) -> float:
    """Most blocks that these sequences hold at any later time, if each produces what nine in ten
    of its kind do at most; ``limited`` says that ``max_tokens`` may be looked at. O(n log n)."""
    futures = sorted([(_remaining(seq, limited), seq.num_tokens) for seq in seqs], reverse=True)
    peak = held = 0.0
    for number, (remaining, num_tokens) in enumerate(futures, 1):
        held += num_tokens
        peak = max(peak, held + number * remaining)
    return peak / block_size + len(futures)


def _remaining(seq: SequenceView, limited: bool) -> float:
    """Output tokens still to come; none are foreseen without a prediction. Past its 90th
    percentile a sequence is expected to go on for as long again: tails are heavy."""
    if seq.prediction is None:
        return 0.0
    left = seq.prediction.q90 - seq.num_output
    left = left if left > 0.0 else float(seq.num_output)
    return min(left, float(seq.num_remaining)) if limited else left
