"""From what became of requests to the numbers of a report, by the definitions of
``prelude.bench.metrics``."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from prelude.bench.metrics import meets
from prelude.bench.result import RequestSample, Summary
from prelude.bench.stats import summarise
from prelude.conf.bench import Slo
from prelude.conf.simulate import SimulateConfig
from prelude.simulate.records import Gaps, Life, Recorder
from prelude.simulate.result import SimReport

Alone = Callable[[Life], float]


def sample_of(life: Life, slo: Slo) -> RequestSample:
    """One request as a row of ``prelude bench serve``; gaps are only in the histograms."""
    truth, done = life.truth, life.is_done
    ttft_ms = (life.ready_s - truth.arrival_s) * 1e3 if life.ready_s >= 0 else None
    e2e_ms = (life.end_s - truth.arrival_s) * 1e3 if done else None
    tpot_ms = None
    if done and life.num_tokens > 1:
        tpot_ms = (life.end_s - life.ready_s) * 1e3 / (life.num_tokens - 1)
    stall_ms = life.max_gap_s * 1e3 if life.num_tokens > 1 else None
    return RequestSample(
        index=truth.uid,
        kind=truth.kind,
        scheduled_ms=truth.arrival_s * 1e3,
        slip_ms=0.0,
        failure=None if done else life.failure or "unfinished",
        prompt_tokens=truth.num_prompt,
        output_tokens=life.num_tokens,
        cached_tokens=life.num_cached,
        ttft_ms=ttft_ms,
        e2e_ms=e2e_ms,
        tpot_ms=tpot_ms,
        stall_ms=stall_ms,
        good=done and meets(slo, ttft_ms, tpot_ms, stall_ms, e2e_ms),
    )


class Reporter:
    """Reports on groups of the requests that count, over ``measured_s`` of traffic. ``alone_ms``
    says how long a request takes on an empty machine."""

    def __init__(
        self, config: SimulateConfig, recorder: Recorder, measured_s: float, alone_ms: Alone
    ) -> None:
        self._config = config
        self._recorder = recorder
        self._measured_s = measured_s
        self._alone_ms = alone_ms
        slos = {name: kind.slo for name, kind in config.traffic.classes.items()}
        self.lives = [life for uid, life in recorder.lives.items() if recorder.counts(uid)]
        self.samples = [sample_of(life, slos.get(life.truth.kind, Slo())) for life in self.lives]

    def report(self, chosen: Callable[[Life], bool], gaps: Gaps | None) -> SimReport:
        """Of the chosen ones. ``gaps`` are theirs, where they were counted."""
        pairs = [(li, s) for li, s in zip(self.lives, self.samples, strict=True) if chosen(li)]
        samples = [sample for _, sample in pairs]
        done = [(life, sample) for life, sample in pairs if sample.failure is None]
        num_good = sum(sample.good for sample in samples)
        prompt_tokens = sum(sample.prompt_tokens for sample in samples)
        output_tokens = sum(sample.output_tokens for sample in samples)
        measured_s = self._measured_s
        return SimReport(
            num_sent=len(samples),
            num_completed=len(done),
            failures=dict(Counter(sample.failure for sample in samples if sample.failure)),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            cached_tokens=sum(sample.cached_tokens for sample in samples),
            req_s=len(done) / measured_s,
            prompt_tok_s=prompt_tokens / measured_s,
            output_tok_s=output_tokens / measured_s,
            goodput_req_s=num_good / measured_s,
            attainment=num_good / len(samples) if samples else 0.0,
            ttft_ms=self._summary([s.ttft_ms for _, s in done]),
            first_content_ms=None,
            tpot_ms=self._summary([s.tpot_ms for _, s in done]),
            itl_ms=gaps.summary() if gaps else None,
            stall_ms=self._summary([s.stall_ms for _, s in done]),
            e2e_ms=self._summary([s.e2e_ms for _, s in done]),
            slowdown=self._summary([self._slowdown(life, s) for life, s in done]),
            queue_ms=self._summary([life.queue_ms for life, _ in done]),
            num_preemptions=sum(life.num_preemptions for life, _ in pairs),
        )

    def all_gaps(self) -> Gaps:
        return Gaps().merged(self._recorder.gaps.values())

    def fairness(self) -> float | None:
        """Jain's index of the clients' mean slowdowns, inverted: 1 where all are served alike."""
        by_client = defaultdict[str, list[float]](list)
        for life, sample in zip(self.lives, self.samples, strict=True):
            if sample.failure is None:
                slowdown = self._slowdown(life, sample)
                assert slowdown is not None
                by_client[life.truth.hints.client].append(1.0 / slowdown)
        return jain([sum(shares) / len(shares) for shares in by_client.values()])

    def _slowdown(self, life: Life, sample: RequestSample) -> float | None:
        return None if sample.e2e_ms is None else sample.e2e_ms / self._alone_ms(life)

    def _summary(self, values: Sequence[float | None]) -> Summary | None:
        present = [value for value in values if value is not None]
        config = self._config
        return summarise(present, resamples=config.resamples, seed=config.traffic.seed)


def jain(shares: Sequence[float]) -> float | None:
    """(sum x)^2 / (n sum x^2): 1 where all are equal, 1/n where one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else None
