"""The traffic of a cell, with real token ids: from the simulator's mixes, after the crowd that a
long run settles in; or what the bundled model was really asked and how it answered.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

import msgspec

from benchmarks.predictor_traffic import Traffic as Recorded
from benchmarks.predictor_traffic import read_traffic
from benchmarks.scheduling_cells import (
    FAST,
    LONG,
    PROBATION_TOKENS,
    Regime,
    Variant,
    simulation,
)
from benchmarks.scheduling_play import real_requests
from prelude.conf.simulate import Labels, SimDevice, SimulateConfig, Traffic
from prelude.simulate.prompts import Part
from prelude.simulate.replica import truth_of
from prelude.simulate.stationary import Crowd, crowd_of
from prelude.simulate.traffic import SimRequest, draw, numbered
from prelude.types.request import Request
from prelude.types.service import Hints

LONG_AFTER_S = 2.0
ANSWERS = Path(__file__).parent / "results/cpu/predictor_traffic.jsonl"
MAX_LEN = 2048

Pairs = list[tuple[SimRequest, Request]]


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival, numbered in that order; the first ``num_before`` are there
    when it begins."""

    requests: Pairs
    num_before: int = 0


def config_of(
    regime: Regime, variant: Variant, *, rate: float, seed: int, prices: Path
) -> SimulateConfig:
    """A cell as the simulator sees it: on the price list that the engine has learned."""
    extra = (f"device.prices={prices}", f"device.max_len={MAX_LEN}", "resamples=0")
    return simulation(regime, variant, rate=rate, seed=seed, extra=extra)


def trace(
    regime: Regime, variant: Variant, *, rate: float, seed: int, vocab_size: int, prices: Path
) -> Trace:
    """Equal for all variants but for what requests say of themselves."""
    if regime.is_real:
        return Trace(answers(regime.num_requests, variant, rate, seed))
    config = config_of(regime, variant, rate=rate, seed=seed, prices=prices)
    requests = draw(config.traffic, rate)
    before, ready_s = crowd(config, rate, seed)
    requests = [replace(r, arrival_s=r.arrival_s + ready_s) for r in requests]
    if regime.long_prompt:
        requests = with_long(requests, regime.long_prompt)
    found = numbered([*before, *requests])
    return Trace(real_requests(found, seed, vocab_size), len(before))


def crowd(config: SimulateConfig, rate: float, seed: int) -> tuple[list[SimRequest], float]:
    """Who is running when the traffic begins, and the seconds that it takes to get them there."""
    found = _long_run(config)
    before = found.found(found.num_running(rate), Random(f"{seed}/crowd"))
    truth, chunk = truth_of(config.device), config.batcher.max_step_tokens
    return before, sum(truth.prompt_ms(r.num_prompt, chunk) for r in before) / 1e3


def saturating(
    regime: Regime, variant: Variant, *, vocab_size: int, prices: Path, count: int
) -> tuple[Trace, float]:
    """Traffic that never ends before its queue does, and the mean length of an answer."""
    if regime.is_real:
        found = answers(count, variant, 1.0, 0)
        return Trace(found), sum(truth.num_output for truth, _ in found) / len(found)
    config = config_of(regime, variant, rate=1.0, seed=0, prices=prices)
    long_run = _long_run(config)
    before = long_run.found(regime.max_seqs, Random(0))
    requests = numbered([*before, *long_run.typical(count)])
    return Trace(real_requests(requests, 0, vocab_size), len(before)), long_run.mean_output


def _long_run(config: SimulateConfig) -> Crowd:
    plain = replace(config.traffic, seed=0, load=None, rate=1.0, num_requests=1)
    return _crowd_of(msgspec.json.encode((plain, config.device)).decode())


@cache
def _crowd_of(key: str) -> Crowd:
    return crowd_of(*msgspec.json.decode(key, type=tuple[Traffic, SimDevice]))


def with_long(requests: list[SimRequest], length: int) -> list[SimRequest]:
    """One more request, with a long prompt and a short answer."""
    long = replace(
        requests[0],
        kind=LONG,
        arrival_s=requests[0].arrival_s + LONG_AFTER_S,
        prompt=(Part(len(requests), length),),
        num_output=4,
        max_tokens=4,
        hints=Hints(service_class="doc", client="doc-0", template="doc", priority=1),
    )
    return sorted([*requests, long], key=lambda request: request.arrival_s)


def answers(count: int, variant: Variant, rate: float, seed: int) -> Pairs:
    """Real prompts, answered to the model's own end of sequence. The kind of a request is what its
    answer turned out to be; nobody labels them, but for the policy that needs it."""
    recorded = _recorded()
    rng = Random(f"{seed}/answers")
    first = rng.randrange(len(recorded.requests) - count)
    now_s = 0.0
    found: Pairs = []
    for uid in range(count):
        now_s += rng.expovariate(rate)
        request, length = recorded.requests[first + uid], recorded.lengths[first + uid]
        is_deep = length > PROBATION_TOKENS
        label = int(is_deep != (variant.labels is Labels.lies))
        hints = msgspec.structs.replace(request.hints, priority=label)
        truth = SimRequest(
            uid=uid,
            kind="deep" if is_deep else FAST,
            arrival_s=now_s,
            prompt=(Part(uid, len(request.prompt_ids)),),
            num_output=length,
            max_tokens=request.params.max_tokens,
            hints=hints,
            answer=uid,
        )
        found.append((truth, msgspec.structs.replace(request, uid=uid, hints=hints)))
    return found


@cache
def _recorded() -> Recorded:
    return read_traffic(ANSWERS)
