"""A runner that only takes time: every launch lasts as long as the true price list says, give or
take, on a clock that nobody waits for.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from prelude.graphs.buckets import Buckets
from prelude.simulate.prompts import EOS_ID, VOCAB_SIZE
from prelude.types.plan import Launch, LaunchKind, Plan, ProgramCount, Sampled, StepOutput
from prelude.types.prices import PriceTable, Sums, sums_of

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(slots=True)
class SimClock:
    """Seconds of simulated time. Who spends time adds to it."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s

    def spend(self, ms: float) -> None:
        self.now_s += ms / 1e3


@dataclass(frozen=True, slots=True)
class Truth:
    """What steps really take: ``table`` times ``bias``, and a factor a launch: lognormal, or drawn
    from the ``factors`` of its kind. A step's host part is ``overhead_ms`` and so much more a row.
    """

    table: PriceTable
    buckets: Buckets = field(default_factory=Buckets)
    bias: float = 1.0
    noise: float = 0.0
    overhead_ms: float = 0.0
    overhead_row_ms: float = 0.0
    factors: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def varies(self) -> bool:
        return bool(self.noise or self.factors)

    def draw(self, kind: LaunchKind, num: int, rng: np.random.Generator) -> Floats:
        """How much longer than its price each of ``num`` launches takes."""
        if (factors := self.factors.get(kind)) is not None:
            return np.asarray(rng.choice(factors, num))
        return rng.lognormal(0.0, self.noise, num) if self.noise else np.ones(num)

    def launch_ms(self, launch: Launch) -> float:
        """Without noise."""
        sums = sums_of(launch.rows, launch.key.mode)
        if self.buckets.is_static:
            sums = sums.padded(launch.key)
        return self.bias * self.table.step_ms(sums)

    def repeated(self, launch: Launch) -> tuple[float, float]:
        """Milliseconds of the step after this one of decode rows, and how many more each further
        step takes."""
        sums, num = sums_of(launch.rows, launch.key.mode), len(launch.rows)
        if self.buckets.is_static:
            sums = sums.padded(launch.key)
        table = self.table
        first_ms = table.step_ms(sums._replace(ctx=sums.ctx + num))
        return self.bias * first_ms, self.bias * table.scale * table.ms_per_ctx_token * num

    def host_ms(self, num_rows: int) -> float:
        return self.overhead_ms + self.overhead_row_ms * num_rows

    def prompt_ms(self, num_tokens: int, chunk: int) -> float:
        """A prompt alone on the machine, in launches of ``chunk`` tokens, and its first token."""
        ms, start = 0.0, 0
        while start < num_tokens:
            count = min(chunk, num_tokens - start)
            last = start + count == num_tokens
            sums = Sums().plus(start, count, "greedy" if last else None)
            ms += self.bias * self.table.step_ms(sums) + self.host_ms(1)
            start += count
        return ms

    def alone_ms(self, num_prompt: int, num_output: int, chunk: int) -> float:
        """A request alone on the machine, to its last token: its prompt, then a decode step for
        each further token, at the context it has in the middle of them."""
        middle = num_prompt + (num_output - 1) // 2
        decode_ms = self.bias * self.table.step_ms(Sums().plus(middle, 1, "greedy"))
        return self.prompt_ms(num_prompt, chunk) + (num_output - 1) * (decode_ms + self.host_ms(1))


class SimRunner:
    """See ``Runner``. ``expect`` must be told of every sequence before its first step. ``prices``
    is what the policy believes at first. To copy a block to one of ``num_host_blocks``, or back,
    takes ``swap_ms``, and really ``bias`` times that."""

    depth = 1
    vocab_size = VOCAB_SIZE
    num_host_blocks = 0
    swap_ms = 0.0

    def __init__(
        self,
        truth: Truth,
        clock: SimClock,
        *,
        prices: PriceTable,
        num_blocks: int,
        num_host_blocks: int = 0,
        swap_ms: float = 0.0,
        block_size: int,
        max_len: int,
        rng: np.random.Generator,
    ) -> None:
        self.truth = truth
        self.prices = prices
        self.num_blocks = num_blocks
        self.num_host_blocks = num_host_blocks
        self.swap_ms = swap_ms
        self.block_size = block_size
        self.max_len = max_len
        self.programs = ProgramCount()
        self.last: Plan | None = None
        self.busy_ms = 0.0
        self.wasted_ms = 0.0
        self.copy_ms = 0.0
        self._clock = clock
        self._rng = rng
        self._plans: deque[Plan] = deque()
        self._tokens: dict[int, Sampled] = {}
        self._ends: dict[int, int] = {}  # tokens in all, of those that end by themselves
        self._computed: dict[int, int] = {}  # tokens, of those that lost their blocks

    def expect(self, seq_id: int, token_id: int, end: int | None) -> None:
        """It answers with ``token_id``; with ``end`` its last token, the one that makes it so long
        in all, is EOS."""
        self._tokens[seq_id] = Sampled(seq_id, token_id)
        if end is not None:
            self._ends[seq_id] = end

    def forget(self, seq_id: int) -> None:
        del self._tokens[seq_id]
        self._ends.pop(seq_id, None)
        self._computed.pop(seq_id, None)

    def own_end(self, seq_id: int, limit: int) -> int:
        """How many tokens it will have in all; ``limit`` where nothing else ends it."""
        return self._ends.get(seq_id, limit)

    def submit(self, plan: Plan) -> None:
        self._plans.append(plan)
        self.last = plan
        for admit in plan.admits:
            if admit.seq_id in self._computed:
                self._computed[admit.seq_id] = len(admit.token_ids) - 1
        for seq_id in plan.preempt:
            self._computed[seq_id] = 0
        self._clock.spend(self.truth.host_ms(sum(len(launch.rows) for launch in plan.launches)))

    def collect(self) -> StepOutput:
        plan = self._plans.popleft()
        actual_ms = tuple(self._took(launch) for launch in plan.launches)
        copy_ms = self.truth.bias * self.swap_ms * plan.num_copies
        output = StepOutput(tuple(self._sampled(plan)), actual_ms, copy_ms=copy_ms)
        self.copy_ms += copy_ms
        self.busy_ms += output.run_ms
        self._clock.spend(output.run_ms)
        return output

    def repeated_ms(self, launch: Launch, most: int, within_ms: float) -> Floats:
        """Take up to ``most`` more steps of these decode rows, each a token further on; those that
        begin ``within_ms`` from now. How long each takes, host and all."""
        first_ms, more_ms = self.truth.repeated(launch)
        if within_ms <= 0.0 or most < 1:
            return np.zeros(0)
        most = int(min(most, 2.0 * within_ms / first_ms + 2.0))
        run_ms = (first_ms + more_ms * np.arange(most)) * self.truth.draw(
            launch.key.kind, most, self._rng
        )
        step_ms = run_ms + self.truth.host_ms(len(launch.rows))
        ends_ms = np.cumsum(step_ms)
        num = 1 + int(np.searchsorted(ends_ms[:-1], within_ms))
        self.busy_ms += float(run_ms[:num].sum())
        self._clock.spend(float(ends_ms[num - 1]))
        return np.asarray(step_ms[:num])

    def upkeep(self) -> None:
        """Nothing is compiled here."""

    def close(self) -> None:
        self._tokens.clear()

    def _took(self, launch: Launch) -> float:
        ms = self.truth.launch_ms(launch)
        if self.truth.varies:
            ms *= float(self.truth.draw(launch.key.kind, 1, self._rng)[0])
        if self._computed:
            self._count_waste(launch, ms)
        return ms

    def _count_waste(self, launch: Launch, ms: float) -> None:
        total = sum(row.num_tokens for row in launch.rows)
        for row in launch.rows:
            again = min(self._computed.get(row.seq_id, 0), row.start + row.num_tokens) - row.start
            self.wasted_ms += ms * max(again, 0) / total

    def _sampled(self, plan: Plan) -> list[Sampled]:
        tokens, ends = self._tokens, self._ends
        rows = [row for launch in plan.launches for row in launch.rows if row.samples]
        if not ends:
            return [tokens[row.seq_id] for row in rows]
        return [
            Sampled(row.seq_id, EOS_ID)
            if ends.get(row.seq_id) == row.start + row.num_tokens + 1
            else tokens[row.seq_id]
            for row in rows
        ]
