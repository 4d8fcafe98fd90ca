"""An engine that can take many decode steps at once: the same plan again and again, until somebody
comes or goes. What one step would have done to each sequence is done so many times over.
"""

from dataclasses import replace
from itertools import repeat

import numpy as np

from prelude.batcher.sequence import Sequence
from prelude.engine.core import EngineCore
from prelude.engine.decisions import later
from prelude.simulate.runner import Floats, SimRunner
from prelude.types.plan import Plan
from prelude.types.prices import sums_of


class RepeatingCore(EngineCore):
    """``EngineCore`` on a ``SimRunner``; ``repeat_last`` follows a ``step``."""

    runner: SimRunner

    def repeat_last(self, until_s: float) -> tuple[list[Sequence], Floats]:
        """The last plan's steps that begin before ``until_s``, but for the one that would end a
        sequence. Returns who got a token from each, and how long each took in seconds."""
        plan = self.runner.last
        most = plan.holds_for - 1 if plan is not None else 0
        if plan is None or most < 1 or len(plan.launches) != 1 or self._flights:
            return [], np.zeros(0)
        (launch,) = plan.launches
        residents = {seq.seq_id: seq for seq in self.ledger.running}
        seqs = [residents[row.seq_id] for row in launch.rows if row.seq_id in residents]
        if len(seqs) < len(launch.rows):
            return [], np.zeros(0)
        ends = [min(self.runner.own_end(seq.seq_id, seq.end), seq.end) for seq in seqs]
        most = min(most, *(end - seq.num_tokens - 1 for end, seq in zip(ends, seqs, strict=True)))
        step_ms = self.runner.repeated_ms(launch, most, (until_s - self._clock()) * 1e3)
        if len(step_ms):
            self._take(plan, seqs, step_ms)
        return seqs, step_ms / 1e3

    def _take(self, plan: Plan, seqs: list[Sequence], step_ms: Floats) -> None:
        num = len(step_ms)
        self._decisions.news()
        self._collected_s = self.ledger.now_s = self._clock()
        self._gauges.num_steps += num
        self._gauges.output_tokens += num * len(seqs)
        launch = later(plan.launches[0], num // 2)
        host_ms = self.runner.truth.host_ms(len(seqs))
        run_ms = float(step_ms.sum()) - num * host_ms
        prices = self.profile.prices.table
        owners = {seq.seq_id: seq for seq in seqs}
        self.ledger.fairness.charge_step((launch,), (run_ms,), owners, prices)
        last = later(plan.launches[0], num)
        price_ms = prices.step_ms(sums_of(last.rows, last.key.mode))
        self.profile.observe(replace(last, price_ms=price_ms), float(step_ms[-1]) - host_ms)
        for seq in seqs:
            self._append_many(seq, num)

    def _append_many(self, seq: Sequence, num: int) -> None:
        """What binding, settling and appending do, ``num`` times."""
        token_id = seq.token_ids[-1]
        seq.token_ids.extend(repeat(token_id, num))
        seq.num_tokens += num
        seq.num_computed += num
        seq.num_settled += num
        missing = -(-seq.num_computed // self.ledger.block_size) - len(seq.blocks)
        if missing > 0:
            seq.blocks.extend(self.ledger.pool.allocate(missing))
        self._classifier.appended(seq, token_id)
