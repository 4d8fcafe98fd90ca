"""One engine on a simulated clock: the engine's own core, queues, ledger and policy; only the
runner is replaced.
"""

import time
from dataclasses import dataclass, field
from math import inf

import numpy as np

from prelude.batcher.view import Policy, PolicyState, ScheduleConfig, SystemView
from prelude.conf.schema import BatcherConfig, CacheConfig
from prelude.conf.simulate import SimDevice
from prelude.engine.policies import POLICIES
from prelude.engine.profile import Profile
from prelude.engine.steplog import StepLog
from prelude.simulate.prices import buckets_of, price_list
from prelude.simulate.prompts import EOS_ID
from prelude.simulate.records import Gaps, Life, Recorder
from prelude.simulate.repeat import RepeatingCore
from prelude.simulate.runner import SimClock, SimRunner, Truth
from prelude.simulate.traffic import SimRequest
from prelude.types.plan import Plan
from prelude.types.prices import PriceTable, Sums

_PATIENCE_S = 600.0  # without a step, though there is work
_NAP_S = 1e-3
_SAMPLE_EVERY = 16  # decisions: how often one is timed
_ROWS, _CONTEXT = 64, 512  # of the step whose price stands for all, where a router asks


@dataclass(slots=True)
class Timed:
    """A policy, and what some of its decisions cost on this machine, in microseconds of a core."""

    policy: Policy
    us: list[float] = field(default_factory=list)
    num: int = 0

    def __call__(
        self, view: SystemView, state: PolicyState, prices: PriceTable, config: ScheduleConfig
    ) -> tuple[Plan, PolicyState]:
        self.num += 1
        if self.num % _SAMPLE_EVERY:
            return self.policy(view, state, prices, config)
        start_ns = time.thread_time_ns()
        decision = self.policy(view, state, prices, config)
        self.us.append((time.thread_time_ns() - start_ns) / 1e3)
        return decision


@dataclass(slots=True)
class StepCounts:
    """Steps of one replica; their milliseconds are kept in bins."""

    num: int = 0
    repeated: int = 0
    ms: Gaps = field(default_factory=Gaps)


class _Unlearning(Profile):
    """Prices that nothing corrects."""

    def observe(self, launch: object, actual_ms: float) -> None:
        """The list is what it is."""


def truth_of(device: SimDevice) -> Truth:
    """What steps take on this device."""
    return Truth(
        table=price_list(device),
        buckets=buckets_of(device),
        bias=device.bias,
        noise=device.noise,
        overhead_ms=device.overhead_ms,
        overhead_row_ms=device.overhead_row_ms,
    )


class Replica:
    """``number`` is its place in the fleet. ``advance`` runs it; ``recorder`` is told of it all.
    ``truth`` takes the place of what ``device`` says of steps."""

    def __init__(
        self,
        number: int,
        device: SimDevice,
        batcher: BatcherConfig,
        recorder: Recorder,
        *,
        seed: int = 0,
        log: StepLog | None = None,
        truth: Truth | None = None,
    ) -> None:
        self.number = number
        self.clock = SimClock()
        self.truth = truth or truth_of(device)
        self.runner = SimRunner(
            self.truth,
            self.clock,
            prices=self.truth.table,
            num_blocks=device.num_blocks,
            num_host_blocks=device.host_blocks if batcher.use.swap else 0,
            swap_ms=device.swap_ms,
            block_size=device.block_size,
            max_len=min(device.max_len, (device.num_blocks - 1) * device.block_size),
            rng=np.random.default_rng((seed, number)),
        )
        self.policy = Timed(POLICIES[batcher.policy])
        self.steps = StepCounts()
        self.work_ms = 0.0  # what a router may believe is still to do here
        profile = Profile if device.learn else _Unlearning
        self.core = RepeatingCore(
            self.runner,
            batcher=batcher,
            cache=CacheConfig(block_size=device.block_size, prefix=device.prefix),
            max_seqs=device.max_seqs,
            eos_ids=(EOS_ID,),
            clock=self.clock,
            log=log,
            seed=seed,
            buckets=self.truth.buckets,
            profile=profile(self.runner.prices, padded=self.truth.buckets.is_static),
            policy=self.policy,
        )
        self._recorder = recorder
        self._is_logged = log is not None
        self._chunk = batcher.max_step_tokens
        self._seqs: dict[int, int] = {}  # uid -> seq_id
        self._believed_ms: dict[int, float] = {}  # uid -> its part of work_ms
        self._outputs = (0, 0)  # tokens and requests that ended here

    @property
    def has_work(self) -> bool:
        return self.core.has_work

    def add(self, request: SimRequest) -> None:
        """Queue it. Call ``advance`` to its arrival first."""
        self._recorder.arrived(request, self.number)
        refused = self.core.add(request.request())
        if refused:
            self._recorder.events(refused, self.clock.now_s)
            return
        seq_id = self.core.ledger.group(request.uid)[0].seq_id
        is_exact = request.max_tokens == request.num_output
        end = None if is_exact else request.num_prompt + request.num_output
        self.runner.expect(seq_id, 1 + request.answer, end)
        self._seqs[request.uid] = seq_id
        self._believed_ms[request.uid] = self._believe_ms(request)
        self.work_ms += self._believed_ms[request.uid]

    def advance(self, until_s: float) -> None:
        """Run steps that begin before ``until_s``; then the clock is there, or past it."""
        idle_s = 0.0
        while self.core.has_work and self.clock.now_s < until_s:
            if self._step():
                idle_s = 0.0
                self._repeat(until_s)
                continue
            idle_s += _NAP_S  # a policy that waits for something is asked again
            self.clock.now_s += _NAP_S
            if idle_s > _PATIENCE_S:
                raise RuntimeError(f"there is work, and for {idle_s:.0f} s nothing was done")
        while not self.core.has_work and self.core.learn():
            pass
        if until_s < inf:
            self.clock.now_s = max(self.clock.now_s, until_s)

    def _step(self) -> bool:
        """True if time passed."""
        start_s = self.clock.now_s
        events = self.core.step()
        now_s = self.clock.now_s
        if now_s > start_s:
            self.steps.num += 1
            self.steps.ms.add((now_s - start_s) * 1e3)
        for life in self._recorder.events(events, now_s):
            self._ended(life)
        return now_s > start_s

    def _repeat(self, until_s: float) -> None:
        """Steps that need no new decision. A step log wants every one of them by itself."""
        if self._is_logged:
            return
        seqs, step_s = self.core.repeat_last(until_s)
        if len(step_s):
            self.steps.num += len(step_s)
            self.steps.repeated += len(step_s)
            for seconds in step_s.tolist():
                self.steps.ms.add(seconds * 1e3)
            uids = [seq.request.uid for seq in seqs]
            self._recorder.repeated(uids, step_s, self.clock.now_s)

    def _believe_ms(self, request: SimRequest) -> float:
        """Its prompt, and an answer as long as others were, at its share of a full step."""
        tokens, ended = self._outputs
        decodes = Sums().plus_decodes(_ROWS * _CONTEXT, ["greedy"] * _ROWS)
        row_ms = self.truth.table.step_ms(decodes) / _ROWS
        answer_ms = row_ms * tokens / ended if ended else 0.0
        return self.truth.prompt_ms(request.num_prompt, self._chunk) + answer_ms

    def _ended(self, life: Life) -> None:
        uid = life.truth.uid
        self.runner.forget(self._seqs.pop(uid))
        self.work_ms -= self._believed_ms.pop(uid)
        self._outputs = (self._outputs[0] + life.num_tokens, self._outputs[1] + 1)
