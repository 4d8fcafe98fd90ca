"""The price list: predicted milliseconds of a launch, before it runs.

The form is the small roofline model of BLIS and its kin: a measured curve over new tokens (weight
reading at the left, arithmetic at the right), KV tokens read by decode rows, query-key pairs of
prefill rows; and a curve over the rows that are sampled, which pay for the head and the sampler.
``prelude.types.estimator`` keeps it true.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prelude.types.plan import BucketKey, Row
from prelude.types.request import SampleMode

MODES: tuple[SampleMode, ...] = ("greedy", "filtered", "full")


class Sums(NamedTuple):
    """What the price of a launch depends on: new tokens, rows, KV tokens read by one-token rows
    (``ctx``), query-key pairs of longer rows, and rows that are sampled: all of them, those that
    draw and those whose logits are adjusted first. Adding or removing a row takes constant time.
    """

    tokens: int = 0
    rows: int = 0
    ctx: int = 0
    pairs: int = 0
    sampled: int = 0
    drawn: int = 0
    adjusted: int = 0

    def plus(self, start: int, count: int, mode: SampleMode | None = None, sign: int = 1) -> "Sums":
        """With one more row: ``count`` new tokens from KV position ``start``, the last of which
        is sampled if there is a ``mode``."""
        ctx = start + 1 if count == 1 else 0
        pairs = 0 if count == 1 else count * start + count * (count + 1) // 2
        return Sums(
            self.tokens + sign * count,
            self.rows + sign,
            self.ctx + sign * ctx,
            self.pairs + sign * pairs,
            self.sampled + sign * (mode is not None),
            self.drawn + sign * (mode is not None and mode != "greedy"),
            self.adjusted + sign * (mode == "full"),
        )

    def plus_decodes(self, ctx: int, modes: Sequence[SampleMode]) -> "Sums":
        """With one more row of one token for each of ``modes``; they read ``ctx`` KV tokens."""
        num, num_greedy = len(modes), modes.count("greedy")
        return Sums(
            self.tokens + num,
            self.rows + num,
            self.ctx + ctx,
            self.pairs,
            self.sampled + num,
            self.drawn + num - num_greedy,
            self.adjusted + (modes.count("full") if num_greedy < num else 0),
        )

    def minus(self, start: int, count: int, mode: SampleMode | None = None) -> "Sums":
        return self.plus(start, count, mode, sign=-1)

    def padded(self, key: BucketKey) -> "Sums":
        """As a device sees it that runs all of a bucket, and the head on all of its rows."""
        sampled = key.num_rows if self.sampled else 0
        return self._replace(tokens=key.num_tokens, sampled=sampled)

    @property
    def mode(self) -> SampleMode:
        """All sampled rows of a launch are treated as the most demanding one asks."""
        return "full" if self.adjusted else "filtered" if self.drawn else "greedy"


def sums_of(rows: Sequence[Row], mode: SampleMode = "greedy") -> Sums:
    """The sums of a launch's rows, whose key has ``mode``."""
    tokens = ctx = pairs = 0
    for row in rows:
        start, count = row.start, row.num_tokens
        tokens += count
        if count == 1:
            ctx += start + 1
        else:
            pairs += count * start + count * (count + 1) // 2
    sampled = sum(row.samples for row in rows)
    drawn, adjusted = sampled * (mode != "greedy"), sampled * (mode == "full")
    return Sums(tokens, len(rows), ctx, pairs, sampled, drawn, adjusted)


@dataclass(frozen=True, slots=True)
class Curve:
    """``ms`` over ``counts`` (increasing): straight between the points, level before the first,
    in proportion past the last. Without points everything is free."""

    counts: tuple[int, ...] = ()
    ms: tuple[float, ...] = ()

    @classmethod
    def of(cls, points: Mapping[int, float]) -> "Curve":
        """Through milliseconds by count. Raises ``ValueError`` for a count below one."""
        if points and min(points) < 1:
            raise ValueError("a price curve needs points at positive counts")
        counts = tuple(sorted(points))
        return cls(counts, tuple(points[count] for count in counts))

    def at(self, count: int) -> float:
        """What ``parts`` add up to, without making them: policies ask for little else."""
        counts, ms = self.counts, self.ms
        if not counts or count < 1:
            return 0.0
        i = bisect_left(counts, count)
        if i == len(counts):
            return ms[-1] * count / counts[-1]
        if i == 0 or counts[i] == count:
            return ms[i]
        low = counts[i - 1]
        return ms[i - 1] + (ms[i] - ms[i - 1]) * (count - low) / (counts[i] - low)

    def parts(self, count: int) -> Sequence[tuple[int, float]]:
        """The points that make up the value at ``count``, and how much of each."""
        counts = self.counts
        if not counts or count < 1:
            return ()
        i = bisect_left(counts, count)
        if i == len(counts):
            return ((i - 1, count / counts[-1]),)
        if i == 0 or counts[i] == count:
            return ((i, 1.0),)
        share = (count - counts[i - 1]) / (counts[i] - counts[i - 1])
        return ((i - 1, 1.0 - share), (i, share))

    def resampled(self, counts: tuple[int, ...]) -> "Curve":
        """The same curve with more points to correct it by."""
        return Curve.of({count: self.at(count) for count in {*self.counts, *counts}})

    def with_ms(self, ms: Iterable[float]) -> "Curve":
        return Curve(self.counts, tuple(ms))


@dataclass(frozen=True, slots=True)
class PriceTable:
    """``body`` is the forward over new tokens at zero context; ``heads`` are head and sampler over
    sampled rows, by mode in the order of ``MODES``; ``scale`` is how much slower the machine is
    at the moment than the list says."""

    body: Curve
    ms_per_ctx_token: float = 0.0
    ms_per_pair: float = 0.0
    heads: tuple[Curve, Curve, Curve] = (Curve(), Curve(), Curve())
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.body.counts:
            raise ValueError("a price table needs the forward's price at one count at least")

    def step_ms(self, sums: Sums) -> float:
        """Price of one launch."""
        return self.scale * self.list_ms(sums)

    def list_ms(self, sums: Sums) -> float:
        """The same on a machine that is as quick as the list says."""
        head_ms = self.head(sums.mode).at(sums.sampled) if sums.sampled else 0.0
        attention_ms = self.ms_per_ctx_token * sums.ctx + self.ms_per_pair * sums.pairs
        return self.body.at(sums.tokens) + head_ms + attention_ms

    def head(self, mode: SampleMode) -> Curve:
        return self.heads[MODES.index(mode)]


def flat_prices(ms: float = 1.0, ms_per_token: float = 0.01) -> PriceTable:
    """A plain table for fakes: ``ms`` a launch plus ``ms_per_token`` a new token."""
    return PriceTable(Curve.of({n: ms + ms_per_token * n for n in (1, 1024)}))
