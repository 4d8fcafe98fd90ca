"""The price list: predicted milliseconds of a launch, and its correction by what steps really took.

The form is the small roofline model of BLIS and its kin: time at zero context is a measured curve
over new tokens (weight reading at the left, arithmetic at the right), plus KV tokens read by
decode rows, plus query-key pairs of prefill rows, plus a cost per sampled row.
"""

from bisect import bisect_left
from dataclasses import dataclass, replace

_CLIP = 4.0  # a step that took longer than this many times its price was disturbed


@dataclass(frozen=True, slots=True)
class PriceTable:
    """``points`` are (new tokens, milliseconds), increasing in tokens, at least one."""

    points: tuple[tuple[int, float], ...]
    ms_per_ctx_token: float = 0.0
    ms_per_pair: float = 0.0
    ms_per_row: float = 0.0

    def __post_init__(self) -> None:
        tokens = [n for n, _ in self.points]
        if not tokens or tokens != sorted(set(tokens)) or tokens[0] < 1:
            raise ValueError("a price table needs points at increasing, positive token counts")

    def step_ms(self, num_tokens: int, num_rows: int, sum_ctx: int, attn_pairs: int) -> float:
        """Price of one launch of ``num_tokens`` new tokens in ``num_rows`` rows: ``sum_ctx`` KV
        tokens are read by one-token rows, ``attn_pairs`` query-key pairs by longer ones."""
        return (
            self._linear_ms(num_tokens)
            + self.ms_per_ctx_token * sum_ctx
            + self.ms_per_pair * attn_pairs
            + self.ms_per_row * num_rows
        )

    def _linear_ms(self, num_tokens: int) -> float:
        points = self.points
        i = bisect_left(points, (num_tokens, 0.0))
        if i == 0:
            return points[0][1]
        if i == len(points):
            n, ms = points[-1]
            return ms * num_tokens / n
        (n0, ms0), (n1, ms1) = points[i - 1], points[i]
        return ms0 + (ms1 - ms0) * (num_tokens - n0) / (n1 - n0)

    def corrected(self, num_tokens: int, ratio: float, weight: float) -> "PriceTable":
        """Move the points around ``num_tokens`` by ``weight`` of the way to ``ratio`` times their
        value, in logarithms: halving is as quick as doubling."""
        factor = min(max(ratio, 1 / _CLIP), _CLIP) ** weight
        i = min(bisect_left(self.points, (num_tokens, 0.0)), len(self.points) - 1)
        touched = {i} if self.points[i][0] <= num_tokens else {max(i - 1, 0), i}
        points = tuple(
            (n, ms * factor if j in touched else ms) for j, (n, ms) in enumerate(self.points)
        )
        return replace(self, points=points)


class PriceEstimator:
    """Keeps a table true: each step's real time pulls the points it used, outliers clipped."""

    def __init__(self, table: PriceTable, weight: float = 0.2) -> None:
        self.table = table
        self._weight = weight

    def observe(self, num_tokens: int, predicted_ms: float, actual_ms: float) -> None:
        if predicted_ms > 0.0:
            ratio = actual_ms / predicted_ms
            self.table = self.table.corrected(num_tokens, ratio, self._weight)


def flat_prices(ms: float = 1.0, ms_per_token: float = 0.01) -> PriceTable:
    """A plain table for fakes: ``ms`` a launch plus ``ms_per_token`` a new token."""
    return PriceTable(tuple((n, ms + ms_per_token * n) for n in (1, 1024)))
