"""``prelude bench engine``: step times of one engine in this process, held against the floor of
the machine it runs on."""

import gc
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from prelude.bench.floor import Work, floor_of, step_work
from prelude.bench.frontend import frontend_us_per_token
from prelude.bench.observer import Observer
from prelude.bench.probe import Roof, probe_apart
from prelude.bench.result import EngineResult, Probe, StepFloor, StepTiming, Summary
from prelude.bench.serve import publish
from prelude.bench.stats import summarise
from prelude.bench.steps import Limits, Shape, StepBench, early_tokens
from prelude.conf.bench import EngineBenchConfig, EngineWorkload
from prelude.conf.schema import BatcherConfig, CacheConfig, Config
from prelude.engine.build import build_engine
from prelude.engine.core import EngineCore
from prelude.models.spec import ModelSpec, read_config, read_spec
from prelude.types.wire import EngineInfo

UNLIMITED_MS = 1e9
NUMBERS = (("steps", 1), ("repeats", 1), ("step_tokens", 1), ("warmup", 0), ("frontend_tokens", 0))
MAX_SECONDS = 24 * 3600.0


def run(config: EngineBenchConfig) -> dict[str, Any]:
    """Build the engine, time its steps, print tables on stderr and the result as one line of JSON
    on stdout (and into ``config.bench.result``), and return it as a dictionary.

    Raises ``ValueError`` for a workload or an engine that cannot be.
    """
    validate(config.bench)
    core, info = build_engine(sized(config))
    try:
        result = measure(config, core, info)
    finally:
        core.close()
    return publish(result, config.bench.result)


def measure(config: EngineBenchConfig, core: EngineCore, info: EngineInfo) -> EngineResult:
    """Time an idle engine that was built from ``sized(config)``."""
    workload = config.bench
    spec = spec_of(config, info)
    threads = torch.get_num_threads()  # the engine's: one for a tiny model
    probe = probe_apart(info.device, threads, info.dtype) if workload.probe else None
    limits = Limits(
        max_len=info.max_len,
        max_seqs=info.max_seqs,
        num_kv_tokens=info.num_blocks * info.block_size,
        vocab_size=info.vocab_size,
    )
    roof = None
    if probe is not None and workload.paired:
        roof = partial(Roof(info.device, info.dtype).of_now, probe)
    bench = StepBench(core, limits, workload, roof=roof)
    gc.collect()
    gc.freeze()
    observer = Observer(probe)
    try:
        timings = [_timing(shape, spec, info, probe) for shape in bench.run()]
    finally:
        gc.unfreeze()
    environment = observer.finish()
    programs = core.runner.programs
    return EngineResult(
        environment=environment,
        config=asdict(config),
        model=info.model_name,
        weights_mib=spec.weight_bytes(info.weights or info.dtype) / 2**20,
        startup_s=dict(info.startup_s),
        timings=timings,
        programs=(programs.ready, programs.total),
        frontend_us_token=_frontend(config, info),
        skipped=bench.skipped,
    )


def sized(config: EngineBenchConfig) -> EngineBenchConfig:
    """The configuration of an engine that can hold the workload: steps of ``bench.step_tokens``,
    whatever they last, and slots and blocks for the largest batch, unless the configuration says
    how many blocks."""
    workload = config.bench
    grown = (workload.warmup + workload.steps) * len(workload.batches) + 2
    batch = max(workload.batches, default=1)
    context = max(workload.contexts, default=0)
    length = context + grown + early_tokens(batch, context, workload.step_tokens)
    longest = max(*workload.prefills, length, 1)
    return replace(
        config,
        runner=replace(config.runner, max_seqs=max(config.runner.max_seqs, batch)),
        cache=_cache(config.cache, batch, length, longest),
        batcher=_batcher(config.batcher, min(max(longest, batch * length), workload.step_tokens)),
        graphs=replace(config.graphs, background=False),
    )


def _cache(cache: CacheConfig, batch: int, length: int, longest: int) -> CacheConfig:
    if cache.num_blocks is not None or cache.memory_gib is not None:
        return cache
    size = cache.block_size
    blocks = max(batch * -(-length // size), -(-longest // size))
    return replace(cache, num_blocks=blocks + 2)  # the dummy, and one to spare


def _batcher(batcher: BatcherConfig, num_tokens: int) -> BatcherConfig:
    """All prompts of a batch are computed in one step, if it holds their tokens."""
    return replace(
        batcher,
        max_step_tokens=max(batcher.max_step_tokens, num_tokens),
        headroom=0,
        step_ms=UNLIMITED_MS,
        idle_step_ms=UNLIMITED_MS,
        use=replace(batcher.use, split=False),
    )


def spec_of(config: Config, info: EngineInfo) -> ModelSpec:
    """The shape of the model that the engine runs."""
    if config.model.hf_config:
        return read_spec(config.model.hf_config)
    return read_spec(read_config(Path(info.model_path)))


def _timing(shape: Shape, spec: ModelSpec, info: EngineInfo, probe: Probe | None) -> StepTiming:
    work = step_work(spec, info.dtype, shape.rows, info.weights)
    step_ms = _summary(shape.step_ms)
    floor = None
    if probe is not None:
        floor = _floor(work, probe, shape, step_ms.p50.value)
    num_tokens = sum(new for _, new in shape.rows)
    return StepTiming(
        kind=shape.kind,
        batch=len(shape.rows),
        tokens=num_tokens,
        context=shape.rows[0][0],
        step_ms=step_ms,
        tok_s=num_tokens / step_ms.p50.value * 1e3,
        overhead_ms=_summary(shape.overhead_ms),
        work_mib=work.num_bytes / 2**20,
        work_gflop=work.flops / 1e9,
        floor=floor,
        samples_ms=shape.step_ms,
    )


def _floor(work: Work, probe: Probe, shape: Shape, p50_ms: float) -> StepFloor:
    """Where steps have roofs of their own, the medians of what they were held against."""
    if not shape.roofs:
        least = floor_of(work, probe)
        return StepFloor(least.ms, least.bound, least.ms / p50_ms)
    floors = [floor_of(work, roof) for roof in shape.roofs]
    shares = [floor.ms / ms for floor, ms in zip(floors, shape.step_ms, strict=True)]
    bound = statistics.mode(floor.bound for floor in floors)
    return StepFloor(statistics.median(f.ms for f in floors), bound, statistics.median(shares))


def _summary(values: Sequence[float]) -> Summary:
    summary = summarise(values)
    assert summary is not None
    return summary


def _frontend(config: EngineBenchConfig, info: EngineInfo) -> float | None:
    workload = config.bench
    if not workload.frontend_tokens:
        return None
    folder = config.model.tokenizer or config.model.path
    return frontend_us_per_token(workload.frontend_tokens, max_s=workload.max_s, tokenizer=folder)


def validate(workload: EngineWorkload) -> None:
    """Raises ``ValueError`` naming the field that is out of bounds."""
    for name in ("batches", "contexts", "prefills"):
        if any(value < 1 for value in getattr(workload, name)):
            raise ValueError(f"bench.{name}: must all be at least 1")
    for name, least in NUMBERS:
        if getattr(workload, name) < least:
            raise ValueError(f"bench.{name}: must be at least {least}")
    if workload.paired and not workload.probe:
        raise ValueError("bench.paired: needs bench.probe=true")
    if not 0.0 < workload.max_s <= MAX_SECONDS:
        raise ValueError(f"bench.max_s: must be positive and at most {MAX_SECONDS:g} seconds")
