"""What becomes of each request, token by token, at a cost that a hundred million tokens allow:
gaps between tokens are counted in bins of one percent, not kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp, log

import numpy as np

from prelude.bench.result import Interval, Summary
from prelude.simulate.traffic import SimRequest
from prelude.types.request import TokenEvent

_BIN = 0.01  # of the logarithm of milliseconds
_LEAST_MS = 1e-3
_NUM_BINS = 2400  # to seven hours

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(slots=True)
class Life:
    """Of one request, in simulated seconds. ``ready_s`` is when its first token came."""

    truth: SimRequest
    replica: int
    ready_s: float = -1.0
    last_s: float = -1.0
    end_s: float = -1.0
    max_gap_s: float = 0.0
    num_tokens: int = 0
    num_cached: int = 0
    queue_ms: float = 0.0
    num_preemptions: int = 0
    service_class: str = ""
    failure: str | None = None

    @property
    def is_done(self) -> bool:
        return self.end_s >= 0.0 and self.failure is None


@dataclass(slots=True)
class Gaps:
    """A histogram of gaps between tokens."""

    bins: Floats = field(default_factory=lambda: np.zeros(_NUM_BINS))
    total_ms: float = 0.0

    def add(self, gap_ms: float, count: int = 1) -> None:
        self.bins[_bin(gap_ms)] += count
        self.total_ms += gap_ms * count

    def merged(self, others: Iterable["Gaps"]) -> "Gaps":
        result = Gaps(self.bins.copy(), self.total_ms)
        for other in others:
            result.bins += other.bins
            result.total_ms += other.total_ms
        return result

    def summary(self) -> Summary | None:
        """Percentiles to half a percent; no intervals."""
        count = int(self.bins.sum())
        if not count:
            return None
        filled = np.flatnonzero(self.bins)
        ends = np.cumsum(self.bins)
        low, high = (_value(int(i)) for i in filled[[0, -1]])
        p50, p90, p99 = (
            Interval(_value(int(np.searchsorted(ends, share * count))), None, None)
            for share in (0.5, 0.9, 0.99)
        )
        return Summary(count, self.total_ms / count, low, high, p50, p90, p99)


def _bin(gap_ms: float) -> int:
    return min(max(int(log(max(gap_ms, _LEAST_MS) / _LEAST_MS) / _BIN), 0), _NUM_BINS - 1)


def _value(index: int) -> float:
    return _LEAST_MS * exp((index + 0.5) * _BIN)


class Recorder:
    """All lives of a simulation; gaps only of requests that ``counts``, by kind."""

    def __init__(self, first: int, end: int) -> None:
        self.lives: dict[int, Life] = {}
        self.gaps: dict[str, Gaps] = {}
        self.num_output = 0
        self._first, self._end = first, end

    def counts(self, uid: int) -> bool:
        """False for requests that only warm up or keep up the load."""
        return self._first <= uid < self._end

    def arrived(self, request: SimRequest, replica: int) -> None:
        self.lives[request.uid] = Life(request, replica)
        self.gaps.setdefault(request.kind, Gaps())

    def events(self, events: Iterable[TokenEvent], now_s: float) -> list[Life]:
        """Of one step that ended now. Returns those that ended with it."""
        done = []
        lives = self.lives
        same_gap_s, same = -1.0, dict[str, int]()
        for event in events:
            life = lives[event.uid]
            if event.token_ids:
                self.num_output += 1
                life.num_tokens += 1
                if life.last_s < 0.0:
                    life.ready_s = now_s
                else:
                    gap_s = now_s - life.last_s
                    if gap_s > life.max_gap_s:
                        life.max_gap_s = gap_s
                    if gap_s != same_gap_s:
                        self._flush(same_gap_s, same)
                        same_gap_s = gap_s
                    if self._first <= event.uid < self._end:
                        kind = life.truth.kind
                        same[kind] = same.get(kind, 0) + 1
                life.last_s = now_s
            if event.finish_reason is not None:
                self._ended(life, event, now_s)
                done.append(life)
        self._flush(same_gap_s, same)
        return done

    def repeated(self, uids: Iterable[int], step_s: Floats, now_s: float) -> None:
        """Each of these got a token after each of the steps, the last of which ends now."""
        longest, num = float(step_s.max()), len(step_s)
        kinds = dict[str, int]()
        for uid in uids:
            life = self.lives[uid]
            life.num_tokens += num
            life.last_s = now_s
            self.num_output += num
            if longest > life.max_gap_s:
                life.max_gap_s = longest
            if self._first <= uid < self._end:
                kinds[life.truth.kind] = kinds.get(life.truth.kind, 0) + 1
        for gap_s in step_s.tolist():
            self._flush(gap_s, dict(kinds))

    def _flush(self, gap_s: float, kinds: dict[str, int]) -> None:
        for kind, count in kinds.items():
            self.gaps[kind].add(gap_s * 1e3, count)
        kinds.clear()

    def _ended(self, life: Life, event: TokenEvent, now_s: float) -> None:
        life.end_s = now_s
        life.num_cached = event.num_cached_tokens
        if event.finish_reason not in ("stop", "length"):
            life.failure = event.finish_reason
        if (timings := event.timings) is not None:
            life.queue_ms = timings.queue_ms
            life.num_preemptions = timings.num_preemptions
            life.service_class = timings.service_class
