"""The engine step: plan, run, commit. Whoever owns an ``EngineCore`` calls ``add``, ``abort`` and
``truncate`` between turns, ``step`` while it has work.

Where the runner takes two plans, a step is planned while the one before it runs: its tokens count
as sampled, though nobody knows them yet. What only the tokens can tell (an end, a block for the
prefix index) is found one step late, and what the late step did for an ended sequence is dropped.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from prelude.batcher.admission import Admission, lane_of
from prelude.batcher.backlog import Backlog
from prelude.batcher.classes import Classifier, prompt_ms
from prelude.batcher.fairness import Fairness
from prelude.batcher.ledger import Ledger
from prelude.batcher.lessons import Lessons
from prelude.batcher.rules import Rules, budgets, rules_of
from prelude.batcher.sequence import Sequence
from prelude.batcher.view import Policy, ScheduleConfig
from prelude.cache.pool import BlockPool
from prelude.conf.schema import BatcherConfig, CacheConfig
from prelude.conf.schema import Policy as PolicyName
from prelude.engine.decisions import Decisions
from prelude.engine.events import (
    aborted,
    collect_prompt_logprobs,
    end_of,
    last_event,
    refusals,
    timings_of,
    token_event,
)
from prelude.engine.gauges import Gauges, LastStep
from prelude.engine.grammars import Grammars, match_error
from prelude.engine.pace import Pace
from prelude.engine.policies import POLICIES
from prelude.engine.profile import Profile
from prelude.engine.steplog import StepLog, StepRecord
from prelude.graphs.buckets import Buckets
from prelude.runner.protocol import Runner
from prelude.types.errors import Refusal, RequestError
from prelude.types.plan import Embedding, Plan, Sampled, StepOutput
from prelude.types.request import FinishReason, Request, TokenEvent
from prelude.types.service import ServiceClass
from prelude.types.wire import EngineStats

logger = logging.getLogger(__name__)

Clock = Callable[[], float]

_STEPS_A_SAVE = 10_000
_COMPILING_MS = 1.0  # between two looks at what is being compiled


@dataclass(frozen=True, slots=True)
class _Flight:
    """A step under way: its bound plan, and when planning it began."""

    plan: Plan
    start_s: float


class EngineCore:
    """Batcher, cache and runner of one model. ``clock`` gives monotonic seconds; ``eos_ids`` end
    a sequence unless it ignores them; ``seed`` feeds requests that bring no seed of their own.
    Without ``overlap`` a step is committed before the next is planned, whatever the runner takes.
    ``answer_id`` is the token that ends reasoning, where the model knows one. ``policy`` takes the
    place of the one that ``batcher`` names. ``grammars`` compiles constraints.
    """

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
        buckets: Buckets | None = None,
        profile: Profile | None = None,
        overlap: bool = True,
        answer_id: int | None = None,
        policy: Policy | None = None,
        grammars: Grammars | None = None,
    ) -> None:
        self.runner = runner
        self.log = log or StepLog()
        self.step_ms, self.idle_step_ms = budgets(batcher, runner.prices)
        rules = rules_of(batcher, runner.prices, self.step_ms)
        self.ledger = Ledger(
            BlockPool(runner.num_blocks, runner.block_size, prefix=cache.prefix),
            max_seqs=max_seqs,
            max_len=runner.max_len,
            vocab_size=runner.vocab_size,
            eos_ids=eos_ids,
            seed=seed,
            fairness=Fairness(rules.fair_ms if rules.use.fairness else inf),
            num_host_blocks=runner.num_host_blocks,
        )
        buckets = buckets or Buckets()
        self._classifier = Classifier(rules, answer_id)
        backlog = Backlog(
            self.ledger,
            lane_of(batcher.policy),
            max_seqs=max_seqs,
            step_ms=self.step_ms,
            quantum=rules.quantum,
        )
        self._admission = Admission(self.ledger, backlog, rules, batcher.max_waiting)
        self._schedule = ScheduleConfig(
            max_step_tokens=batcher.max_step_tokens,
            step_ms=self.step_ms,
            idle_step_ms=self.idle_step_ms,
            min_chunk=batcher.min_chunk,
            max_bypass=batcher.max_bypass,
            headroom=batcher.headroom,
            mix=not buckets.is_static,
            swap_ms=runner.swap_ms,
            buckets=buckets,
            rules=rules,
        )
        self._decisions = Decisions(policy or POLICIES[batcher.policy], self._schedule)
        self.profile = profile or Profile(runner.prices, padded=buckets.is_static)
        foresees = batcher.policy == PolicyName.class_aware and rules.use.prediction
        self._lessons = Lessons(self.profile.predictor(rules) if foresees else None)
        self._grammars = grammars or Grammars()
        self._clock = clock
        self._overlap = overlap
        self._pace = Pace()
        self._flights: deque[_Flight] = deque()
        self._collected_s = 0.0
        self._gauges = Gauges(self.ledger, clock)

    @property
    def has_work(self) -> bool:
        return self._has_sequences or self._grammars.num_held > 0

    @property
    def _has_sequences(self) -> bool:
        return bool(self._flights or self.ledger.num_running or self.ledger.num_waiting)

    @property
    def only_compiles(self) -> bool:
        """True while all there is waits for grammars, none of which is ready."""
        grammars = self._grammars
        return grammars.num_held > 0 and not self._has_sequences and not grammars.has_ready

    @property
    def slack_ms(self) -> float:
        """How long requests may still be awaited before ``step`` is due; 0 or less: it is."""
        if self.only_compiles:
            return _COMPILING_MS
        if not self._flights or not self._has_room:
            return 0.0
        return self._pace.slack_ms(self._clock())

    @property
    def rules(self) -> Rules:
        """What the batcher's configuration comes to here."""
        return self._schedule.rules

    def can_queue(self, count: int) -> bool:
        """True unless ``count`` more sequences would find the queue full now."""
        return self._admission.has_room(count) or not self.has_work

    def add(self, request: Request) -> list[TokenEvent]:
        """Queue a request. One that can never be served, or is not let in, ends here: its error
        events are returned."""
        self.ledger.now_s = self._clock()
        prices = self.profile.prices.table
        try:
            self._admission.arrive(request, prices)
            if request.params.constraint is not None and not self._grammars.knows(request):
                return []
            group = self.ledger.make(request)
            self._grammars.follow(group)
            self._classify(group)
            self._admission.admit(group, prices)
        except RequestError as error:
            return refusals(request, error)
        self.ledger.queue(group)
        self._decisions.news()
        self._gauges.prompt_tokens += len(request.prompt_ids)
        return []

    def _classify(self, group: list[Sequence]) -> None:
        """Its choices share a prompt; only the first of them has to compute it."""
        prices, chunk = self.profile.prices.table, self._schedule.max_step_tokens
        first = group[0]
        cached, end = self.ledger.match(first).num_tokens, first.num_prompt
        token_ms = prompt_ms(prices, 0, end, chunk) / end
        first_ms = prompt_ms(prices, cached, end, chunk)
        prediction = self._lessons.predict(first.request, in_a_hurry=self._has_sequences)
        for seq in group:
            seq.prediction = prediction
            seq.token_ms = token_ms
            self._classifier.arrived(seq, first_ms if seq is first else token_ms)

    def abort(self, uid: int) -> list[TokenEvent]:
        """End a request's unfinished choices; their slots and blocks are free on return, or as
        soon as the steps under way have run."""
        if (request := self._grammars.take(uid)) is not None:
            return aborted(request)
        unfinished = [seq for seq in self.ledger.group(uid) if not seq.finish_reason]
        return [self._finish(seq, "abort") for seq in unfinished]

    def truncate(self, uid: int, index: int, num_tokens: int) -> list[TokenEvent]:
        """End a choice that the text layer stopped. Unknown or finished ones are left alone: the
        message may cross the sequence's own end on the way."""
        for seq in self.ledger.group(uid):
            if seq.index == index and not seq.finish_reason:
                self._gauges.wasted_tokens += max(seq.num_output - num_tokens, 0)
                return [self._finish(seq, "stop", keep=num_tokens)]
        return []

    def forget_prefixes(self) -> None:
        """Whoever comes from now on finds nothing cached."""
        num_blocks = self.ledger.pool.forget()
        logger.info("the prefix cache forgot %d blocks", num_blocks)

    def abort_all(self) -> list[TokenEvent]:
        held = [event for request in self._grammars.take_all() for event in aborted(request)]
        return held + [self._finish(seq, "abort") for seq in self.ledger.all_unfinished()]

    def step(self) -> list[TokenEvent]:
        """One turn: end what is past its deadline, plan a step and submit it, then commit the
        oldest under way, unless the runner has room for one more. Returns at most one event per
        sequence."""
        events = self._expire() + self._enter_ready()
        submitted = self._submit()
        if not self._flights or (submitted and self._has_room):
            return events
        return events + self._commit(self._flights.popleft())

    @property
    def _has_room(self) -> bool:
        """True if one more step may be under way."""
        return len(self._flights) < (self.runner.depth if self._overlap else 1)

    def _enter_ready(self) -> list[TokenEvent]:
        """Those whose grammar is compiled; with nothing else to do, wait for one a little."""
        if not self._grammars.num_held:
            return []
        if not self._has_sequences:
            self._grammars.wait(_COMPILING_MS / 1e3)
        return [event for ready in self._grammars.take_ready() for event in self.add(ready)]

    def _expire(self) -> list[TokenEvent]:
        self.ledger.now_s = self._clock()
        due = self._admission.expired(self.profile.prices.table)
        return [self._finish(seq, "error", refusal=refusal) for seq, refusal in due]

    def _submit(self) -> bool:
        """Plan a step and start it, if anything can be done now. A plan that evicts waits until
        nothing is under way: memory may come home by itself."""
        start_s = self.ledger.now_s = self._clock()
        self.runner.upkeep()
        if self.profile.follow(self.runner.prices):
            self._decisions.news()
        plan = self._decisions.next(self.ledger, self.profile.prices.table)
        if not (plan.launches or plan.leaves) or (plan.leaves and self._flights):
            return False
        plan = self.ledger.bind(plan)
        self._decisions.taken()
        if plan.runs:
            self.runner.submit(plan)
        if self._flights:
            self._pace.submitted(self._clock())
        else:
            self._pace.started(self._clock(), plan.price_ms)
        self._flights.append(_Flight(plan, start_s))
        return True

    def _commit(self, flight: _Flight) -> list[TokenEvent]:
        plan = flight.plan
        output = self.runner.collect() if plan.runs else StepOutput((), ())
        begun_s = max(flight.start_s, self._collected_s)
        self._collected_s = self.ledger.now_s = self._clock()
        if self._flights:
            self._pace.ended(output.run_ms)
            self._pace.started(self._collected_s, self._flights[0].plan.price_ms)
        rows = (row for launch in plan.launches for row in launch.rows)
        seqs = {row.seq_id: self.ledger.settle(row) for row in rows}
        prices = self.profile.prices.table
        self.ledger.fairness.charge_step(plan.launches, output.actual_ms, seqs, prices)
        for part in output.prompt_logprobs:
            if (seq := seqs[part.seq_id]) is not None:
                collect_prompt_logprobs(seq, part)
        events = []
        for token in output.sampled:
            if (seq := seqs[token.seq_id]) is not None:
                events.append(self._append(seq, token))
            else:
                self._gauges.wasted_tokens += 1
        for found in output.embeddings:
            if (seq := seqs[found.seq_id]) is not None:
                events.append(self._embedded(seq, found))
        self.ledger.end_step()
        self._lessons.after_step()
        self._account(plan, output, begun_s)
        return events

    def _append(self, seq: Sequence, sampled: Sampled) -> TokenEvent:
        if sampled.ends == "error":
            return self._finish(seq, "error", error=match_error(seq))
        seq.token_ids.append(sampled.token_id)
        was = seq.service_class
        self._classifier.appended(seq, sampled.token_id)
        self._gauges.output_tokens += 1
        now_s = self.ledger.now_s
        is_first = seq.first_token_s is None
        if is_first:
            self._answered(seq, was)
        reason, stop_id = end_of(seq, sampled)
        if reason:
            self._end(seq, reason)
        else:
            self._lessons.survived(seq.request, seq.num_output)
        is_news = reason or is_first or seq.service_class != was
        if is_news:
            self._decisions.news()
        timings = timings_of(seq, now_s) if is_news else None
        return token_event(seq, sampled, reason, stop_id, timings)

    def _embedded(self, seq: Sequence, found: Embedding) -> TokenEvent:
        self._answered(seq, seq.service_class)
        self._end(seq, "stop")
        return last_event(seq, "stop", self.ledger.now_s, embedding=found.data)

    def _answered(self, seq: Sequence, waited_as: ServiceClass) -> None:
        """Its first token, or all that it wanted, is here."""
        seq.first_token_s = self.ledger.now_s
        seq.waited_as = waited_as
        self._admission.answered(seq)
        self._gauges.cached_prompt_tokens += seq.num_cached_tokens if seq.leader is None else 0

    def _finish(
        self,
        seq: Sequence,
        reason: FinishReason,
        keep: int | None = None,
        refusal: Refusal | None = None,
        error: str | None = None,
    ) -> TokenEvent:
        if reason != "stop":
            self._gauges.wasted_tokens += seq.num_output
        self._end(seq, reason, keep)
        return last_event(seq, reason, self.ledger.now_s, refusal, error=error)

    def _end(self, seq: Sequence, reason: FinishReason, keep: int | None = None) -> None:
        self.ledger.finish(seq, reason, keep)
        self._decisions.news()
        self._admission.ended(seq)
        self._lessons.ended(seq.request, seq.num_output, reason)
        self.log.ended(seq, self.ledger.now_s)

    def _account(self, plan: Plan, output: StepOutput, begun_s: float) -> None:
        """A step lasts from its planning, or the end of the one before it if that came later, to
        its own end; with nothing else under way, until it is committed."""
        gauges = self._gauges
        gauges.num_steps += 1
        if gauges.num_steps % _STEPS_A_SAVE == 0:
            self._save_profile()
        for launch, actual_ms in zip(plan.launches, output.actual_ms, strict=True):
            self.profile.observe(launch, actual_ms)
        end_s = self._collected_s if self._flights else self._clock()
        step_ms = (end_s - begun_s) * 1e3
        overhead_ms = max(step_ms - output.run_ms, 0.0)
        gauges.last = LastStep(step_ms, plan.price_ms, overhead_ms, plan.budget_ms)
        self.log.append(
            StepRecord.of(gauges.num_steps, begun_s, overhead_ms, plan, output, self.ledger)
        )

    def learn(self) -> bool:
        """From what has ended, while nothing else is to be done; False if nothing is left."""
        return self._lessons.learn()

    def _save_profile(self) -> None:
        self._lessons.finish()
        programs = self.runner.programs
        self.profile.save(compiled=programs.ready == programs.total)

    def stats(self) -> EngineStats:
        queue_full, *others = self._admission.refused
        refused = (queue_full + self._grammars.num_refused, *others)
        return self._gauges.stats(self.runner.programs, self.profile.prices, refused)

    def close(self) -> None:
        self._grammars.close()
        self._save_profile()
        self.runner.close()
        self.log.close()
