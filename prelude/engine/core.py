"""The engine step: plan, run, commit. Synchronous and single-threaded: whoever owns an
``EngineCore`` calls ``add``, ``abort`` and ``truncate`` between steps, ``step`` while it has
work."""

import time
from collections.abc import Callable

from prelude.batcher.ledger import Ledger
from prelude.batcher.sequence import Sequence
from prelude.batcher.view import Policy, PolicyState, ScheduleConfig
from prelude.cache.pool import BlockPool
from prelude.conf.schema import BatcherConfig, CacheConfig
from prelude.engine.policies import POLICIES
from prelude.engine.steplog import LaunchRecord, StepLog, StepRecord
from prelude.runner.protocol import Runner
from prelude.types.errors import RequestError
from prelude.types.estimator import PriceEstimator
from prelude.types.plan import Plan, PromptLogprobs, Sampled, StepOutput
from prelude.types.prices import PriceTable, Sums
from prelude.types.request import FinishReason, Request, RequestTimings, TokenEvent, TokenLogprobs
from prelude.types.wire import EngineStats

Clock = Callable[[], float]

_MIN_STEP_MS = 50.0
_DECODES_A_STEP = 3
_IDLE_FACTOR = 10


class EngineCore:
    """Batcher, cache and runner of one model. ``clock`` gives monotonic seconds; ``eos_ids`` end
    a sequence unless it ignores them; ``seed`` feeds requests that bring no seed of their own."""

    def __init__(
        self,
        runner: Runner,
        *,
        batcher: BatcherConfig,
        cache: CacheConfig,
        max_seqs: int,
        eos_ids: tuple[int, ...],
        clock: Clock = time.monotonic,
        log: StepLog | None = None,
        seed: int | None = None,
    ) -> None:
        self.runner = runner
        self.log = log or StepLog()
        self.ledger = Ledger(
            BlockPool(runner.num_blocks, runner.block_size, prefix=cache.prefix),
            max_seqs=max_seqs,
            max_len=runner.max_len,
            max_waiting=batcher.max_waiting,
            vocab_size=runner.vocab_size,
            eos_ids=eos_ids,
            seed=seed,
        )
        self._policy: Policy = POLICIES[batcher.policy]
        self._policy_state = PolicyState()
        self.step_ms, self.idle_step_ms = budgets(batcher, runner.prices)
        self._schedule = ScheduleConfig(
            max_step_tokens=batcher.max_step_tokens,
            step_ms=self.step_ms,
            idle_step_ms=self.idle_step_ms,
            min_chunk=batcher.min_chunk,
            max_bypass=batcher.max_bypass,
            headroom=batcher.headroom,
        )
        self._prices = PriceEstimator(runner.prices)
        self._clock = clock
        self._steps = 0
        self._prompt_tokens = 0
        self._cached_prompt_tokens = 0
        self._output_tokens = 0
        self._wasted_tokens = 0
        self._last = (0.0, 0.0, 0.0)

    @property
    def has_work(self) -> bool:
        return bool(self.ledger.num_running or self.ledger.num_waiting)

    def can_queue(self, count: int) -> bool:
        """True unless ``count`` more sequences would find the queue full now."""
        return self.ledger.num_waiting + count <= self.ledger.max_waiting or not self.has_work

    def add(self, request: Request) -> list[TokenEvent]:
        """Queue a request. One that can never be served, or finds the queue full, ends here: its
        error events are returned."""
        self.ledger.now_s = self._clock()
        try:
            self.ledger.add(request)
        except RequestError as error:
            return [
                TokenEvent(request.uid, index, [], "error", error=str(error))
                for index in range(request.params.n)
            ]
        self._prompt_tokens += len(request.prompt_ids)
        return []

    def abort(self, uid: int) -> list[TokenEvent]:
        """End a request's unfinished choices; their slots and blocks are free on return."""
        unfinished = [seq for seq in self.ledger.group(uid) if not seq.finish_reason]
        return [self._finish(seq, "abort") for seq in unfinished]

    def truncate(self, uid: int, index: int, num_tokens: int) -> list[TokenEvent]:
        """End a choice that the text layer stopped. Unknown or finished ones are left alone: the
        message may cross the sequence's own end on the way."""
        for seq in self.ledger.group(uid):
            if seq.index == index and not seq.finish_reason:
                self._wasted_tokens += max(seq.num_output - num_tokens, 0)
                return [self._finish(seq, "stop", keep=num_tokens)]
        return []

    def abort_all(self) -> list[TokenEvent]:
        return [self._finish(seq, "abort") for seq in self.ledger.all_unfinished()]

    def step(self) -> list[TokenEvent]:
        """One turn: plan, run, commit. Returns at most one event per sequence."""
        start = self._clock()
        plan = self._plan(start)
        output = self._run(plan)
        return self._commit(plan, output, start)

    def _plan(self, now_s: float) -> Plan:
        self.runner.upkeep()
        self.ledger.now_s = now_s
        plan, self._policy_state = self._policy(
            self.ledger, self._policy_state, self._prices.table, self._schedule
        )
        return self.ledger.bind(plan)

    def _run(self, plan: Plan) -> StepOutput:
        self.ledger.pool.begin_step()
        if not plan.launches:
            return StepOutput((), ())
        self.runner.submit(plan)
        return self.runner.collect()

    def _commit(self, plan: Plan, output: StepOutput, start_s: float) -> list[TokenEvent]:
        now_s = self.ledger.now_s = self._clock()
        seqs = {
            row.seq_id: self.ledger.computed(row) for launch in plan.launches for row in launch.rows
        }
        for part in output.prompt_logprobs:
            _collect_prompt_logprobs(seqs[part.seq_id], part)
        events = [self._append(seqs[token.seq_id], token) for token in output.sampled]
        self.ledger.pool.end_step()
        self._account(plan, output, start_s, now_s)
        return events

    def _append(self, seq: Sequence, sampled: Sampled) -> TokenEvent:
        seq.token_ids.append(sampled.token_id)
        self._output_tokens += 1
        prompt_logprobs = None
        is_first = seq.first_token_s is None
        if is_first:
            seq.first_token_s = self.ledger.now_s
            self._cached_prompt_tokens += seq.num_cached_tokens if seq.leader is None else 0
            prompt_logprobs = self._prompt_logprobs(seq)
        reason, stop_id = _stop(seq, sampled.token_id)
        if reason:
            self.ledger.finish(seq, reason)
        return TokenEvent(
            seq.request.uid,
            seq.index,
            [sampled.token_id],
            reason,
            stop_id,
            _token_logprobs(seq, sampled),
            prompt_logprobs,
            seq.num_cached_tokens,
            self._timings(seq) if reason or is_first else None,
        )

    def _prompt_logprobs(self, seq: Sequence) -> list[TokenLogprobs | None] | None:
        """The first prompt token has nothing to be predicted from."""
        wanted = seq.params.prompt_logprobs is not None and seq.index == 0
        return [None, *seq.prompt_logprobs] if wanted else None

    def _finish(self, seq: Sequence, reason: FinishReason, keep: int | None = None) -> TokenEvent:
        if reason == "abort":
            self._wasted_tokens += seq.num_output
        self.ledger.finish(seq, reason, keep)
        return TokenEvent(
            seq.request.uid,
            seq.index,
            [],
            reason,
            num_cached_tokens=seq.num_cached_tokens,
            timings=self._timings(seq),
        )

    def _timings(self, seq: Sequence) -> RequestTimings:
        now_s = self.ledger.now_s
        scheduled_s = seq.scheduled_s if seq.scheduled_s is not None else now_s
        first_s = seq.first_token_s if seq.first_token_s is not None else now_s
        arrival_s = seq.request.arrival_s or scheduled_s
        return RequestTimings(
            max(scheduled_s - arrival_s, 0.0) * 1e3,
            (first_s - scheduled_s) * 1e3,
            (now_s - first_s) * 1e3,
            seq.num_preemptions,
        )

    def _account(self, plan: Plan, output: StepOutput, start_s: float, now_s: float) -> None:
        self._steps += 1
        for launch, actual_ms in zip(plan.launches, output.actual_ms, strict=True):
            self._prices.observe(launch, actual_ms)
        step_ms = (now_s - start_s) * 1e3
        overhead_ms = (self._clock() - start_s) * 1e3 - sum(output.actual_ms)
        self._last = (step_ms, plan.price_ms, overhead_ms)
        self.log.append(
            StepRecord(
                step=self._steps,
                start_s=start_s,
                budget_ms=plan.budget_ms,
                overhead_ms=overhead_ms,
                launches=[
                    LaunchRecord(
                        str(launch.key),
                        launch.price_ms,
                        actual_ms,
                        [(row.seq_id, row.start, row.num_tokens) for row in launch.rows],
                    )
                    for launch, actual_ms in zip(plan.launches, output.actual_ms, strict=True)
                ],
                admitted=list(plan.admit),
                preempted=list(plan.preempt),
                num_waiting=self.ledger.num_waiting,
                num_running=self.ledger.num_running,
                num_blocks_available=self.ledger.num_available_blocks,
            )
        )

    def stats(self) -> EngineStats:
        pool, programs = self.ledger.pool, self.runner.programs
        step_ms, price_ms, overhead_ms = self._last
        return EngineStats(
            num_waiting=self.ledger.num_waiting,
            num_running=self.ledger.num_running,
            num_blocks=pool.num_usable,
            num_blocks_referenced=pool.num_referenced,
            num_blocks_cached=pool.num_cached,
            num_steps=self._steps,
            num_preemptions=self.ledger.num_preemptions,
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=self._cached_prompt_tokens,
            output_tokens=self._output_tokens,
            wasted_tokens=self._wasted_tokens,
            programs_ready=programs.ready,
            programs_total=programs.total,
            step_ms=step_ms,
            step_price_ms=price_ms,
            overhead_ms=overhead_ms,
        )

    def close(self) -> None:
        self.runner.close()
        self.log.close()


def budgets(batcher: BatcherConfig, prices: PriceTable) -> tuple[float, float]:
    """Milliseconds of a step while streams run and while none does. What is not configured follows
    from the hardware: a budget below the price of a decode step or two could never be met, and one
    far above it would be felt between two tokens."""
    step_ms = batcher.step_ms
    if step_ms is None:
        step_ms = max(_MIN_STEP_MS, _DECODES_A_STEP * prices.step_ms(Sums().plus(0, 1, "greedy")))
    return step_ms, batcher.idle_step_ms or _IDLE_FACTOR * step_ms


def _stop(seq: Sequence, token_id: int) -> tuple[FinishReason | None, int | None]:
    if seq.num_output >= seq.params.min_tokens and (
        token_id in seq.eos_ids or token_id in seq.params.stop_token_ids
    ):
        return "stop", token_id
    return ("length", None) if seq.num_remaining <= 0 else (None, None)


def _token_logprobs(seq: Sequence, sampled: Sampled) -> list[TokenLogprobs] | None:
    count = seq.params.logprobs
    if count is None:
        return None
    assert sampled.logprob is not None
    return [
        TokenLogprobs(
            sampled.token_id,
            sampled.logprob,
            list(sampled.top_ids[:count]),
            list(sampled.top_logprobs[:count]),
        )
    ]


def _collect_prompt_logprobs(seq: Sequence, part: PromptLogprobs) -> None:
    """Rows come in order, from the second prompt token on."""
    assert part.first == len(seq.prompt_logprobs) + 1
    for token_id, logprob, ids, values in zip(
        part.token_ids, part.logprobs, part.top_ids, part.top_logprobs, strict=True
    ):
        seq.prompt_logprobs.append(TokenLogprobs(token_id, logprob, list(ids), list(values)))
