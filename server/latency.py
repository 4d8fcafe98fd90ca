"""Latencies by service class: counted in fixed buckets, which is cheap enough for every token, and
read as the quantiles of the last minute or as histograms since the start.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

from prelude.types.service import SERVICE_CLASSES, ServiceClass

_MANTISSAS = (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0)

# Upper ends of the buckets in seconds, ten a decade from 0.1 ms to 1000 s; one more has the rest.
BOUNDS_S: tuple[float, ...] = (
    *(float(f"{mantissa}e{decade}") for decade in range(-4, 3) for mantissa in _MANTISSAS),
    1000.0,
)


class Latencies:
    """Counts since the start, one a bucket, and their sum."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds


class Sizes:
    """The same of numbers that are no times; ``bounds`` are the upper ends of its buckets."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[int]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0

    def observe(self, size: int) -> None:
        self.counts[bisect_left(self.bounds, size)] += 1
        self.total += size


ByClass = dict[ServiceClass, Latencies]


def by_class() -> ByClass:
    return {name: Latencies() for name in SERVICE_CLASSES}


def in_all(classes: ByClass) -> Latencies:
    """Those of all classes together."""
    found = Latencies()
    found.counts = [
        sum(column) for column in zip(*(one.counts for one in classes.values()), strict=True)
    ]
    found.sum_s = sum(one.sum_s for one in classes.values())
    return found


def quantile_ms(counts: Sequence[int], share: float) -> float | None:
    """The latency that ``share`` of them do not exceed, as far as buckets tell (a quarter of its
    value at most); None where nothing was counted."""
    wanted = share * sum(counts)
    if not wanted:
        return None
    below = 0
    for bucket, count in enumerate(counts):
        if count and below + count >= wanted:
            return 1e3 * _inside(bucket, (wanted - below) / count)
        below += count
    raise AssertionError("unreachable: the last bucket has the rest")


def _inside(bucket: int, part: float) -> float:
    """Seconds at ``part`` (0 to 1) of a bucket; the open one at the end has no inside."""
    if bucket == len(BOUNDS_S):
        return BOUNDS_S[-1]
    low = BOUNDS_S[bucket - 1] if bucket else 0.0
    return low + part * (BOUNDS_S[bucket] - low)


class Window:
    """The counts of the last ``span_s`` seconds, give or take ``mark_s``: what has been counted
    since a mark. Marks are set by ``tick``, which has to be called that often."""

    def __init__(
        self, sources: Sequence[Latencies], span_s: float = 60.0, mark_s: float = 5.0
    ) -> None:
        self._sources = sources
        self._span_s = span_s
        self._mark_s = mark_s
        self._marks: deque[tuple[float, list[list[int]]]] = deque()

    def tick(self, now_s: float) -> None:
        if self._marks and now_s - self._marks[-1][0] < self._mark_s:
            return
        self._marks.append((now_s, [source.counts.copy() for source in self._sources]))
        while len(self._marks) > 1 and now_s - self._marks[1][0] >= self._span_s:
            self._marks.popleft()

    def counts(self) -> list[list[int]]:
        """One list for each source."""
        if not self._marks:
            return [source.counts.copy() for source in self._sources]
        then = self._marks[0][1]
        return [since(mark, now.counts) for mark, now in zip(then, self._sources, strict=True)]


def since(then: Sequence[int], now: Sequence[int]) -> list[int]:
    return [b - a for a, b in zip(then, now, strict=True)]
