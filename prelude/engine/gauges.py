"""What an engine counts and measures of itself, for people who watch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from prelude.batcher.ledger import Ledger
from prelude.types.estimator import PriceEstimator
from prelude.types.plan import ProgramCount
from prelude.types.service import SERVICE_CLASSES, ServiceClass
from prelude.types.wire import ClassStats, EngineStats

_COUNT_S = 0.1


class LastStep(NamedTuple):
    """Milliseconds: what the last step took, what it was to cost, what of it was the host's, and
    what it might have cost."""

    step_ms: float = 0.0
    price_ms: float = 0.0
    overhead_ms: float = 0.0
    budget_ms: float = 0.0


@dataclass(slots=True)
class Gauges:
    """Counters only grow; the engine counts, and ``stats`` puts it all together."""

    ledger: Ledger
    clock: Callable[[], float]
    num_steps: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    wasted_tokens: int = 0
    last: LastStep = field(default_factory=LastStep)
    _classes: tuple[ClassStats, ...] = ()
    _counted_s: float = -1.0

    def stats(
        self, programs: ProgramCount, prices: PriceEstimator, refused: tuple[int, ...]
    ) -> EngineStats:
        ledger, now_s = self.ledger, self.clock()
        pool, shelf, last = ledger.pool, ledger.shelf, self.last
        return EngineStats(
            num_waiting=ledger.num_waiting,
            num_running=ledger.num_running,
            num_blocks=pool.num_usable,
            num_blocks_referenced=pool.num_referenced,
            num_blocks_cached=pool.num_cached,
            num_steps=self.num_steps,
            num_preemptions=ledger.num_preemptions,
            prompt_tokens=self.prompt_tokens,
            cached_prompt_tokens=self.cached_prompt_tokens,
            output_tokens=self.output_tokens,
            wasted_tokens=self.wasted_tokens,
            programs_ready=programs.ready,
            programs_total=programs.total,
            programs_missed=programs.missed,
            step_ms=last.step_ms,
            step_price_ms=last.price_ms,
            overhead_ms=last.overhead_ms,
            price_error=prices.error,
            price_p90=prices.quantiles("decode").p90,
            budget_ms=last.budget_ms,
            num_parks=ledger.num_parks,
            num_swaps=shelf.num_swaps,
            num_swapped_blocks=shelf.num_copied,
            classes=self._class_stats(now_s),
            refused=refused,
            alive_s=int(now_s),
        )

    def _class_stats(self, now_s: float) -> tuple[ClassStats, ...]:
        """Counted again ten times a second at most, also while nothing runs."""
        if now_s - self._counted_s >= _COUNT_S:
            self._counted_s = now_s
            self._classes = count_classes(self.ledger)
        return self._classes


def count_classes(ledger: Ledger) -> tuple[ClassStats, ...]:
    """One record for each of ``SERVICE_CLASSES``. Shared blocks count for everyone who holds
    them; parked sequences do not count as waiting."""
    counts: dict[ServiceClass, list[int]] = {name: [0, 0, 0, 0] for name in SERVICE_CLASSES}
    for seq in ledger.all_unfinished():
        count = counts[seq.service_class]
        count[_column(seq.slot >= 0, bool(seq.blocks))] += 1
        count[3] += len(seq.blocks)
    return tuple(ClassStats(*counts[name]) for name in SERVICE_CLASSES)


def _column(is_resident: bool, has_blocks: bool) -> int:
    return 1 if is_resident else 2 if has_blocks else 0
