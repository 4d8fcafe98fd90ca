"""The live view's data: one sampler for all who watch, and a stream of what it found.

The sampler looks twice a second, whoever watches, so that a page opens with the last minutes on it.
A viewer is always sent the newest snapshot: one that reads slowly misses those in between, and
costs nobody anything.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable

import msgspec

from prelude.client.client import EngineClient
from prelude.server.errors import retry_later
from prelude.server.latency import Window, quantile_ms, since
from prelude.server.lifecycle import Lifecycle
from prelude.server.metrics import Metrics
from prelude.server.snapshot import (
    ClassRow,
    Kv,
    Point,
    Programs,
    Quantiles,
    ServerState,
    Snapshot,
    Steps,
    Totals,
)
from prelude.types.errors import REFUSAL_CODES, Refusal
from prelude.types.service import SERVICE_CLASSES
from prelude.types.wire import ClassStats, EngineStats

INTERVAL_S = 0.5
MAX_VIEWERS = 32
_HISTORY = 360  # points: three minutes
_NO_CLASSES = (ClassStats(),) * len(SERVICE_CLASSES)


class Live:
    """``run`` samples until the server ends; ``watch`` is one viewer's stream of whole events."""

    def __init__(
        self,
        client: EngineClient,
        metrics: Metrics,
        lifecycle: Lifecycle,
        model_name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._lifecycle = lifecycle
        self._model_name = model_name
        self._clock = clock
        self._steps = metrics.steps
        self._begun_s = self._sampled_s = clock()
        self._stats = EngineStats()
        self._durations = self._steps.durations.counts.copy()
        by_class = (metrics.ttft, metrics.inter_token, metrics.e2e)
        sources = [of[name] for name in SERVICE_CLASSES for of in by_class]
        self._window = Window([*sources, self._steps.durations, self._steps.over])
        self._history: deque[Point] = deque(maxlen=_HISTORY)
        self._event: bytes | None = None
        self._tick = asyncio.Event()
        self._num_viewers = 0
        self.sample()

    async def run(self) -> None:
        """Sample every ``INTERVAL_S`` until open work has to end, and once more then."""
        expired = self._lifecycle.expired
        while not expired.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL_S):
                    await expired.wait()
            self.sample()

    def sample(self) -> None:
        """Look at the engine now, and wake all viewers."""
        now_s, stats = self._clock(), self._client.stats
        self._window.tick(now_s)
        self._history.append(self._point(now_s, stats))
        self._sampled_s, self._stats = now_s, stats
        self._event = None
        self._tick.set()
        self._tick = asyncio.Event()

    async def watch(self) -> AsyncGenerator[bytes, None]:
        """The past, then a snapshot for each sample as fast as they are taken from here. Raises
        ``ApiError`` before the first where too many watch."""
        if self._num_viewers >= MAX_VIEWERS:
            raise retry_later(f"{MAX_VIEWERS} others are watching", "too_many_viewers")
        self._num_viewers += 1
        try:
            yield _event("history", list(self._history)[:-1])
            while True:
                tick = self._tick
                yield self._snapshot_event()
                if self._lifecycle.expired.is_set():
                    return
                await tick.wait()
        finally:
            self._num_viewers -= 1

    def _snapshot_event(self) -> bytes:
        """Made once for all viewers."""
        if self._event is None:
            self._event = _event("snapshot", self.snapshot())
        return self._event

    def snapshot(self) -> Snapshot:
        """As of the last ``sample``."""
        stats, info = self._stats, self._client.info
        *latencies, durations, over = self._window.counts()
        state, note = self._state()
        return Snapshot(
            state=state,
            note=note,
            model=self._model_name,
            open_requests=self._lifecycle.num_open,
            max_seqs=info.max_seqs if info is not None else 0,
            point=self._history[-1],
            steps=Steps(
                count=sum(durations),
                over=sum(over),
                p50_ms=quantile_ms(durations, 0.5),
                p99_ms=quantile_ms(durations, 0.99),
                last_ms=stats.step_ms,
                price_ms=stats.step_price_ms,
                overhead_ms=stats.overhead_ms,
                price_error=stats.price_error,
            ),
            kv=Kv(
                stats.num_blocks_referenced,
                stats.num_blocks_cached,
                stats.num_blocks,
                info.block_size if info is not None else 0,
            ),
            programs=Programs(stats.programs_ready, stats.programs_total, stats.programs_missed),
            totals=_totals(stats),
            classes=_rows(stats, latencies),
        )

    def _state(self) -> tuple[ServerState, str]:
        client = self._client
        if client.error is not None:
            return "dead", str(client.error)
        if self._lifecycle.draining:
            return "draining", f"{self._lifecycle.num_open} requests may still finish"
        if client.info is None:
            state: ServerState = "starting" if client.last_death is None else "restarting"
            return state, f"{client.progress.phase}, {client.progress.fraction:.0%}"
        return "ready", ""

    def _point(self, now_s: float, stats: EngineStats) -> Point:
        before, seconds = self._stats, max(now_s - self._sampled_s, 1e-3)
        counts = self._steps.durations.counts
        recent, self._durations = since(self._durations, counts), counts.copy()
        classes = stats.classes or _NO_CLASSES
        return Point(
            time_s=round(now_s - self._begun_s, 2),
            step_p50_ms=_rounded(quantile_ms(recent, 0.5)),
            step_max_ms=_rounded(self._steps.take_max()),
            budget_ms=_rounded(stats.budget_ms or None),
            output_per_s=_rate(stats.output_tokens, before.output_tokens, seconds),
            prompt_per_s=_rate(stats.prompt_tokens, before.prompt_tokens, seconds),
            kv_used=round(stats.num_blocks_referenced / max(stats.num_blocks, 1), 4),
            running=tuple(one.num_running for one in classes),
            waiting=tuple(one.num_waiting for one in classes),
        )


def _rows(stats: EngineStats, latencies: list[list[int]]) -> tuple[ClassRow, ...]:
    """``latencies`` are counts of ttft, itl and e2e for each class in turn."""
    rows = []
    for number, one in enumerate(stats.classes or _NO_CLASSES):
        ttft, itl, e2e = map(_quantiles, latencies[3 * number : 3 * number + 3])
        rows.append(
            ClassRow(
                SERVICE_CLASSES[number],
                one.num_waiting,
                one.num_running,
                one.num_parked,
                one.num_blocks,
                ttft,
                itl,
                e2e,
            )
        )
    return tuple(rows)


def _totals(stats: EngineStats) -> Totals:
    by_code = zip(REFUSAL_CODES, stats.refused, strict=False)  # none before the first step
    expired = sum(num for code, num in by_code if Refusal(code).is_expired)
    return Totals(
        steps=stats.num_steps,
        preemptions=stats.num_preemptions,
        parks=stats.num_parks,
        prompt_tokens=stats.prompt_tokens,
        cached_prompt_tokens=stats.cached_prompt_tokens,
        output_tokens=stats.output_tokens,
        wasted_tokens=stats.wasted_tokens,
        refused=sum(stats.refused) - expired,
        expired=expired,
    )


def _quantiles(counts: list[int]) -> Quantiles:
    return Quantiles(
        sum(counts), _rounded(quantile_ms(counts, 0.5)), _rounded(quantile_ms(counts, 0.99))
    )


def _rate(now: int, before: int, seconds: float) -> float:
    """A new engine counts from zero."""
    return round((now - before if now >= before else now) / seconds, 1)


def _rounded(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 3)


def _event(name: str, data: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))
