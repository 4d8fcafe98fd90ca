"""Times the steps of an engine by driving it through shapes that a benchmark names: prompts, in one
step where they fit into ``step_tokens``, and decode steps of a given batch and context."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from prelude.bench.result import Probe
from prelude.conf.bench import EngineWorkload
from prelude.engine.core import EngineCore
from prelude.types.request import Request, SamplingParams

Clock = Callable[[], float]


@dataclass(slots=True)
class Shape:
    """Measured steps of one shape. ``rows`` are (context before, new tokens) of a typical step;
    ``roofs`` is what the machine could do right before each, if that was asked for."""

    kind: str
    rows: list[tuple[int, int]]
    step_ms: list[float] = field(default_factory=list)
    overhead_ms: list[float] = field(default_factory=list)
    roofs: list[Probe] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine can hold."""

    max_len: int
    max_seqs: int
    num_kv_tokens: int
    vocab_size: int


def early_tokens(batch: int, context: int, step_tokens: int) -> int:
    """How far the first of ``batch`` prompts decodes while the others are still prefilled, in
    steps of ``step_tokens`` new tokens."""
    if batch * context <= step_tokens:
        return 0
    return -(-batch * context // max(step_tokens - batch, 1))


class StepBench:
    """Runs a workload on an idle engine and leaves it idle. ``skipped`` names, with the reason,
    the shapes that were not measured: too large for the engine, or beyond ``max_s``. ``roof``
    says what the machine can do now: it is asked right before each timed step."""

    def __init__(
        self,
        core: EngineCore,
        limits: Limits,
        workload: EngineWorkload,
        clock: Clock = time.perf_counter,
        roof: Callable[[], Probe] | None = None,
    ) -> None:
        self.skipped: list[str] = []
        self._core = core
        self._limits = limits
        self._workload = workload
        self._clock = clock
        self._roof = roof
        self._deadline_s = clock() + workload.max_s
        self._rng = Random(workload.seed)
        self._uid = 0
        self._lengths: dict[int, int] = {}

    def run(self) -> Iterator[Shape]:
        """Prefill shapes first, then decode shapes by context, the largest batch first."""
        for length in self._workload.prefills:
            if self._fits(f"prefill {length}", 1, length + 1):
                yield from self._prefill(length)
        for context in self._workload.contexts:
            yield from self._decode_at(context)

    @property
    def decode_tokens(self) -> int:
        """How far contexts grow while all batches of one context are timed."""
        workload = self._workload
        return (workload.warmup + workload.steps) * len(workload.batches) + 1

    def _prefill(self, length: int) -> Iterator[Shape]:
        shape = Shape("prefill", [(0, length)])
        for turn in range(self._workload.warmup + self._workload.repeats):
            (uid,) = self._add(1, length, 1)
            roofs = [self._roof()] if self._roof else []
            start = self._clock()
            overhead_ms = 0.0
            num_steps = self._core.stats().num_steps
            while self._core.has_work:
                self._core.step()
                stats = self._core.stats()
                overhead_ms += stats.overhead_ms * (stats.num_steps - num_steps)
                num_steps = stats.num_steps
                if self._is_late(f"prefill {length}"):
                    self._core.abort(uid)
                    self._core.step()
                    return
            if turn >= self._workload.warmup:
                shape.step_ms.append((self._clock() - start) * 1e3)
                shape.overhead_ms.append(overhead_ms)
                shape.roofs += roofs
        yield shape

    def _decode_at(self, context: int) -> Iterator[Shape]:
        batches = self._batches(context)
        if not batches:
            return
        early = early_tokens(batches[0], context, self._workload.step_tokens)
        uids = self._add(batches[0], context, self.decode_tokens + early + 1)
        self._lengths = dict.fromkeys(uids, context)
        while min(self._lengths.values()) == context:
            self._step()
            if self._is_late(f"decode at context {context}"):
                break
        else:
            yield from self._shrink(uids, batches, context)
        for uid in uids:
            self._core.abort(uid)
        while self._core.has_work:  # a step may still be under way
            self._core.step()

    def _shrink(self, uids: Sequence[int], batches: Sequence[int], context: int) -> Iterator[Shape]:
        """One prompt phase serves all batches: rows leave as the batch shrinks."""
        for batch in batches:
            for uid in uids[batch:]:
                self._core.abort(uid)
            for _ in range(self._workload.warmup):
                self._step()
            middle = self._workload.steps // 2 - 1
            rows = [(self._lengths[uid] + middle, 1) for uid in uids[:batch]]
            shape = Shape("decode", rows)
            for _ in range(self._workload.steps):
                if self._is_late(f"decode {batch} at context {context}"):
                    return
                if self._roof:
                    shape.roofs.append(self._roof())
                start = self._clock()
                num_events = self._step()
                shape.step_ms.append((self._clock() - start) * 1e3)
                shape.overhead_ms.append(self._core.stats().overhead_ms)
                assert num_events == batch, f"a step of {batch} rows gave {num_events} tokens"
            yield shape

    def _step(self) -> int:
        """One turn of the engine; how many rows got a token."""
        events = self._core.step()
        for event in events:
            self._lengths[event.uid] += len(event.token_ids)
        return len(events)

    def _batches(self, context: int) -> list[int]:
        fitting = []
        for batch in sorted(set(self._workload.batches), reverse=True):
            early = early_tokens(batch, context, self._workload.step_tokens)
            length = context + self.decode_tokens + early + 1
            if self._fits(f"decode {batch} at context {context}", batch, length):
                fitting.append(batch)
        return fitting

    def _fits(self, name: str, batch: int, length: int) -> bool:
        limits = self._limits
        reason = None
        if self._clock() > self._deadline_s:
            reason = f"bench.max_s={self._workload.max_s:g} was over"
        elif length > limits.max_len:
            reason = f"needs {length} tokens of context, model.max_len is {limits.max_len}"
        elif batch > limits.max_seqs:
            reason = f"needs {batch} sequences, runner.max_seqs is {limits.max_seqs}"
        elif batch * length > limits.num_kv_tokens:
            reason = f"needs {batch * length} KV tokens, the cache holds {limits.num_kv_tokens}"
        if reason is not None:
            self.skipped.append(f"{name}: {reason}")
        return reason is None

    def _is_late(self, name: str) -> bool:
        if self._clock() <= self._deadline_s:
            return False
        self.skipped.append(f"{name}: bench.max_s={self._workload.max_s:g} was over")
        return True

    def _add(self, count: int, length: int, max_tokens: int) -> list[int]:
        """Random prompts: no prefix of one is cached for another."""
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        uids = []
        for _ in range(count):
            self._uid += 1
            prompt = [self._rng.randrange(self._limits.vocab_size) for _ in range(length)]
            refused = self._core.add(Request(uid=self._uid, prompt_ids=prompt, params=params))
            assert not refused, refused[0].error
            uids.append(self._uid)
        return uids
