"""The price list: predicted milliseconds of a launch, and its correction by what steps really took.

The form is the small roofline model of BLIS and its kin: time at zero context is a measured curve
over new tokens (weight reading at the left, arithmetic at the right), plus KV tokens read by
decode rows, plus query-key pairs of prefill rows.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, log

from prelude.types.plan import Row

_CLIP = 4.0  # a step that took longer than this many times its price was disturbed


@dataclass(frozen=True, slots=True)
class Sums:
    """What the price of a launch depends on: new tokens, rows, KV tokens read by one-token rows
    (``ctx``), query-key pairs of longer rows. Adding or removing a row takes constant time."""

    tokens: int = 0
    rows: int = 0
    ctx: int = 0
    pairs: int = 0

    def plus(self, start: int, count: int, sign: int = 1) -> "Sums":
        """With one more row: ``count`` new tokens from KV position ``start``."""
        ctx = start + 1 if count == 1 else 0
        pairs = 0 if count == 1 else count * start + count * (count + 1) // 2
        return Sums(
            self.tokens + sign * count,
            self.rows + sign,
            self.ctx + sign * ctx,
            self.pairs + sign * pairs,
        )

    def minus(self, start: int, count: int) -> "Sums":
        return self.plus(start, count, sign=-1)


def sums_of(rows: Iterable[Row]) -> Sums:
    """The sums of a launch's rows."""
    sums = Sums()
    for row in rows:
        sums = sums.plus(row.start, row.num_tokens)
    return sums


@dataclass(frozen=True, slots=True)
class PriceTable:
    """``points`` are (new tokens, milliseconds), increasing in tokens, at least one."""

    points: tuple[tuple[int, float], ...]
    ms_per_ctx_token: float = 0.0
    ms_per_pair: float = 0.0

    def __post_init__(self) -> None:
        tokens = [n for n, _ in self.points]
        if not tokens or tokens != sorted(set(tokens)) or tokens[0] < 1:
            raise ValueError("a price table needs points at increasing, positive token counts")

    def step_ms(self, sums: Sums) -> float:
        """Price of one launch."""
        return self._linear_ms(sums.tokens) + self._attention_ms(sums)

    def corrected(self, sums: Sums, ratio: float, weight: float) -> "PriceTable":
        """Move every part of the price of ``sums`` towards ``ratio`` times its value, by ``weight``
        and by the part's share, in logarithms: halving is as quick as doubling, and what hardly
        took part in a step is hardly blamed for it."""
        linear_ms, price_ms = self._linear_ms(sums.tokens), self.step_ms(sums)
        step = weight * log(min(max(ratio, 1 / _CLIP), _CLIP))
        factor = exp(step * linear_ms / price_ms)
        points = self.points
        i = min(bisect_left(points, (sums.tokens, 0.0)), len(points) - 1)
        touched = {i} if points[i][0] <= sums.tokens else {max(i - 1, 0), i}
        return PriceTable(
            tuple((n, ms * factor if j in touched else ms) for j, (n, ms) in enumerate(points)),
            self.ms_per_ctx_token * exp(step * self.ms_per_ctx_token * sums.ctx / price_ms),
            self.ms_per_pair * exp(step * self.ms_per_pair * sums.pairs / price_ms),
        )

    def _attention_ms(self, sums: Sums) -> float:
        return self.ms_per_ctx_token * sums.ctx + self.ms_per_pair * sums.pairs

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


class PriceEstimator:
    """Keeps a table true: each step's real time pulls the parts of its price, outliers clipped."""

    def __init__(self, table: PriceTable, weight: float = 0.2) -> None:
        self.table = table
        self._weight = weight

    def observe(self, sums: Sums, predicted_ms: float, actual_ms: float) -> None:
        if predicted_ms > 0.0:
            self.table = self.table.corrected(sums, actual_ms / predicted_ms, self._weight)


def flat_prices(ms: float = 1.0, ms_per_token: float = 0.01) -> PriceTable:
    """A plain table for fakes: ``ms`` a launch plus ``ms_per_token`` a new token."""
    return PriceTable(tuple((n, ms + ms_per_token * n) for n in (1, 1024)))
