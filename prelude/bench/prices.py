"""``prelude bench prices``: a mixed load on one engine in this process, and how far the price of
every launch, said before it ran, was from what it took."""

import gc
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from statistics import median
from typing import Any

import torch

from prelude.bench.engine import spec_of
from prelude.bench.floor import floor_of, step_work
from prelude.bench.observer import Observer
from prelude.bench.probe import probe_apart
from prelude.bench.prompts import draw_length
from prelude.bench.result import KeyPrice, PriceError, PricesResult, Probe
from prelude.bench.serve import publish
from prelude.conf.bench import PricesBenchConfig, PricesWorkload
from prelude.engine.build import build_engine
from prelude.engine.core import EngineCore
from prelude.engine.steplog import LaunchRecord
from prelude.models.spec import ModelSpec
from prelude.types.request import Request, SamplingParams
from prelude.types.wire import EngineInfo


def run(config: PricesBenchConfig) -> dict[str, Any]:
    """Build the engine, load it, print tables on stderr and the result as one line of JSON on
    stdout (and into ``config.bench.result``), and return it as a dictionary.

    Raises ``ValueError`` for a workload or an engine that cannot be.
    """
    validate(config.bench)
    core, info = build_engine(replace(config, graphs=replace(config.graphs, background=False)))
    try:
        result = measure(config, core, info)
    finally:
        core.close()
    return publish(result, config.bench.result)


def measure(config: PricesBenchConfig, core: EngineCore, info: EngineInfo) -> PricesResult:
    """Load an idle engine; what its launches were priced at and what they took."""
    workload, spec = config.bench, spec_of(config, info)
    probe = (
        probe_apart(info.device, torch.get_num_threads(), info.dtype) if workload.probe else None
    )
    gc.collect()
    gc.freeze()
    observer = Observer(probe)
    try:
        launches = list(MixedLoad(core, info, workload).launches())
    finally:
        gc.unfreeze()
    measured = launches[int(workload.warmup_share * len(launches)) :]
    if not measured:
        raise ValueError("bench.seconds: too short, not one launch was measured")
    programs = core.runner.programs
    return PricesResult(
        environment=observer.finish(),
        config=asdict(config),
        model=info.model_name,
        programs=(programs.ready, programs.total),
        error=_error(measured),
        errors=_errors_by_kind(measured),
        keys=_by_key(measured, spec, info, probe),
        num_warmup=len(launches) - len(measured),
        samples=[
            (launch.key, round(launch.price_ms, 4), round(launch.actual_ms, 4))
            for launch in measured
        ],
    )


@dataclass(slots=True)
class MixedLoad:
    """Chats of all lengths with a long prompt now and then, some greedy, some drawn, some with
    penalties; so many at a time for a while, then as many as chance says."""

    core: EngineCore
    info: EngineInfo
    workload: PricesWorkload

    def launches(self) -> Iterator[LaunchRecord]:
        """The records of every step, while the load lasts; the engine is idle afterwards."""
        rng, core, log = Random(self.workload.seed), self.core, self.core.log
        now = start = time.perf_counter()
        streams, until, step = 0, start, 0
        while now - start < self.workload.seconds:
            if now >= until:
                streams, until = rng.choice(self.workload.streams), now + self.workload.hold_s
            while core.ledger.num_running + core.ledger.num_waiting < streams:
                refused = core.add(self._request(rng))
                assert not refused, refused[0].error
            core.step()
            if (record := log.last) is not None and record.step > step:
                step = record.step
                yield from record.launches
            now = time.perf_counter()
        core.abort_all()

    def _request(self, rng: Random) -> Request:
        workload, info = self.workload, self.info
        is_long = rng.random() < workload.long_share
        num_output = draw_length(workload.output, rng)
        longest = info.max_len - num_output - 1
        num_prompt = min(draw_length(workload.long if is_long else workload.prompt, rng), longest)
        return Request(
            uid=rng.getrandbits(62),
            prompt_ids=[rng.randrange(info.vocab_size) for _ in range(num_prompt)],
            params=self._params(rng, num_output),
        )

    def _params(self, rng: Random, max_tokens: int) -> SamplingParams:
        chance = rng.random() - self.workload.greedy_share
        if chance < 0:
            return SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        penalty = 0.5 if chance < self.workload.penalty_share else 0.0
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=0.8,
            top_p=0.95,
            presence_penalty=penalty,
            ignore_eos=True,
        )


def _errors_by_kind(launches: Sequence[LaunchRecord]) -> dict[str, PriceError]:
    kinds = defaultdict(list)
    for launch in launches:
        kinds[launch.key.partition("[")[0]].append(launch)
    return {kind: _error(group) for kind, group in sorted(kinds.items())}


def _error(launches: Sequence[LaunchRecord]) -> PriceError:
    errors = sorted(abs(x.price_ms - x.actual_ms) / x.actual_ms for x in launches)
    ratios = sorted(launch.actual_ms / launch.price_ms for launch in launches)
    return PriceError(
        num=len(launches),
        median=median(errors),
        p90=errors[int(0.9 * len(errors))],
        ratio_p50=median(ratios),
        ratio_p90=ratios[int(0.9 * len(ratios))],
    )


def _by_key(
    launches: Sequence[LaunchRecord], spec: ModelSpec, info: EngineInfo, probe: Probe | None
) -> list[KeyPrice]:
    keys = defaultdict(list)
    for launch in launches:
        keys[launch.key].append(launch)
    return [
        KeyPrice(
            key=key,
            num=len(group),
            price_ms=median(launch.price_ms for launch in group),
            actual_ms=median(launch.actual_ms for launch in group),
            error=_error(group).median,
            floor_share=_floor_share(group, spec, info, probe) if probe else None,
        )
        for key, group in sorted(keys.items(), key=lambda item: -len(item[1]))
    ]


def _floor_share(
    launches: Sequence[LaunchRecord], spec: ModelSpec, info: EngineInfo, probe: Probe
) -> float:
    """Of the least these launches could have taken, in the median."""
    shares = []
    for launch in launches:
        rows = [(start, count) for _, start, count in launch.rows]
        work = step_work(spec, info.dtype, rows, info.weights)
        shares.append(floor_of(work, probe).ms / launch.actual_ms)
    return median(shares)


def validate(workload: PricesWorkload) -> None:
    """Raises ``ValueError`` naming the field that is out of bounds."""
    if not workload.streams or min(workload.streams) < 1:
        raise ValueError("bench.streams: needs numbers of at least 1")
    if not 0.0 < workload.seconds <= 3600.0 or workload.hold_s <= 0.0:
        raise ValueError("bench.seconds and bench.hold_s: must be positive, an hour at most")
    if not 0.0 <= workload.warmup_share < 1.0:
        raise ValueError("bench.warmup_share: must be in [0, 1)")
