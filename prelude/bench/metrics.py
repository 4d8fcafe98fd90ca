"""From exchanges to numbers, by the definitions that other load generators use:

TTFT runs from sending to the first chunk with choices (even an empty one); ``first_content`` to
the first with text. ITL is the gap between chunks with choices, the longest is the stall. E2E ends
with the last of them. TPOT is (E2E - TTFT) / (output tokens - 1), none for a single token. A
request is good when it is complete and meets every target of its class.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from prelude.bench.exchange import Exchange
from prelude.bench.load import Job, Load
from prelude.bench.result import ClassReport, RequestSample, Summary
from prelude.bench.stats import summarise
from prelude.conf.bench import Slo


def samples_of(load: Load, slos: Mapping[str, Slo]) -> list[RequestSample]:
    """One record per request that was sent, in order of sending."""
    return [_sample(job, exchange, load.start_s, slos[job.kind]) for job, exchange in load.sent]


def _sample(job: Job, exchange: Exchange, start_s: float, slo: Slo) -> RequestSample:
    sent_s = exchange.sent_s
    chunks = exchange.chunk_s
    gaps = [(after - before) * 1e3 for before, after in pairwise(chunks)]
    output_tokens = exchange.output_tokens
    ttft_ms = (chunks[0] - sent_s) * 1e3 if chunks else None
    e2e_ms = None if exchange.end_s is None else (exchange.end_s - sent_s) * 1e3
    tpot_ms = None
    if ttft_ms is not None and e2e_ms is not None and output_tokens > 1:
        tpot_ms = (e2e_ms - ttft_ms) / (output_tokens - 1)
    content_s = exchange.first_content_s
    stall_ms = max(gaps, default=None)
    is_good = exchange.failure is None and meets(slo, ttft_ms, tpot_ms, stall_ms, e2e_ms)
    due_s = sent_s if job.arrival_s is None else start_s + job.arrival_s
    return RequestSample(
        index=job.index,
        kind=job.kind,
        scheduled_ms=(due_s - start_s) * 1e3,
        slip_ms=(sent_s - due_s) * 1e3,
        failure=exchange.failure,
        detail=exchange.detail,
        prompt_tokens=exchange.usage.prompt_tokens if exchange.usage is not None else 0,
        output_tokens=output_tokens,
        cached_tokens=exchange.cached_tokens,
        finish_reason=exchange.finish_reason,
        ttft_ms=ttft_ms,
        first_content_ms=None if content_s is None else (content_s - sent_s) * 1e3,
        e2e_ms=e2e_ms,
        tpot_ms=tpot_ms,
        stall_ms=stall_ms,
        itl_ms=gaps,
        good=is_good,
    )


def meets(
    slo: Slo,
    ttft_ms: float | None,
    tpot_ms: float | None,
    stall_ms: float | None,
    e2e_ms: float | None,
) -> bool:
    """A latency that a request does not have (no second token) cannot miss its target."""
    pairs = (
        (ttft_ms, slo.ttft_ms),
        (tpot_ms, slo.tpot_ms),
        (stall_ms, slo.stall_ms),
        (e2e_ms, slo.e2e_ms),
    )
    return all(value is None or target is None or value <= target for value, target in pairs)


def report(
    samples: Sequence[RequestSample], measured_s: float, *, resamples: int, seed: int
) -> ClassReport:
    """Pooled numbers of these requests. Latencies are those of completed requests; tokens are
    counted for all, because the server made them."""
    completed = [sample for sample in samples if sample.failure is None]
    num_good = sum(sample.good for sample in completed)
    prompt_tokens = sum(sample.prompt_tokens for sample in samples)
    output_tokens = sum(sample.output_tokens for sample in samples)

    def pooled(name: str) -> Summary | None:
        pairs = [(getattr(sample, name), index) for index, sample in enumerate(completed)]
        present = [(value, index) for value, index in pairs if value is not None]
        values, groups = [value for value, _ in present], [index for _, index in present]
        return summarise(values, groups, resamples=resamples, seed=seed)

    gaps = [gap for sample in completed for gap in sample.itl_ms]
    owners = [index for index, sample in enumerate(completed) for _ in sample.itl_ms]
    return ClassReport(
        num_sent=len(samples),
        num_completed=len(completed),
        failures=dict(Counter(sample.failure for sample in samples if sample.failure)),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        cached_tokens=sum(sample.cached_tokens for sample in samples),
        req_s=len(completed) / measured_s,
        prompt_tok_s=prompt_tokens / measured_s,
        output_tok_s=output_tokens / measured_s,
        goodput_req_s=num_good / measured_s,
        attainment=num_good / len(samples) if samples else 0.0,
        ttft_ms=pooled("ttft_ms"),
        first_content_ms=pooled("first_content_ms"),
        tpot_ms=pooled("tpot_ms"),
        itl_ms=summarise(gaps, owners, resamples=resamples, seed=seed),
        stall_ms=pooled("stall_ms"),
        e2e_ms=pooled("e2e_ms"),
    )
