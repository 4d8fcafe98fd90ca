"""The engine's steps as this process hears of them: how long, and how many over their budget."""

from prelude.server.latency import Latencies
from prelude.types.wire import EngineStats


class StepWatch:
    """Call it with all statistics that the engine sends; it counts each step once, as soon as it
    is told. ``over`` are those that took longer than their budget."""

    def __init__(self) -> None:
        self.durations = Latencies()
        self.over = Latencies()
        self._max_ms: float | None = None
        self._seen = 0

    def __call__(self, stats: EngineStats) -> None:
        if stats.num_steps == self._seen:
            return
        self._seen = stats.num_steps
        step_ms = stats.step_ms
        self.durations.add(step_ms / 1e3)
        if 0.0 < stats.budget_ms < step_ms:
            self.over.add(step_ms / 1e3)
        if self._max_ms is None or step_ms > self._max_ms:
            self._max_ms = step_ms

    def take_max(self) -> float | None:
        """Milliseconds of the longest step since the last call; None where there was none."""
        found, self._max_ms = self._max_ms, None
        return found
