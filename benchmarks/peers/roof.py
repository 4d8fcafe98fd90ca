"""What the machine's roof allows for the comparison's task, and how much of it was reached."""

import statistics
from collections.abc import Sequence

import msgspec

from benchmarks.peers.engines import ENGINES
from benchmarks.peers.task import Task
from prelude.bench.floor import Work, floor_of, step_work
from prelude.bench.result import PeerRun, Probe
from prelude.models.spec import ModelSpec

PHASES = ("prefill", "decode", "streams")


def roof_tok_s(spec: ModelSpec, task: Task, probe: Probe, weight_bytes: float) -> dict[str, float]:
    """Tokens a second of each phase if every step took its floor. Matrices of ``weight_bytes``
    a value are read once a step; KV and arithmetic are fp32."""

    def step_ms(rows: Sequence[tuple[int, int]]) -> float:
        work = step_work(spec, "float32", rows)
        num_values = spec.num_layers * spec.num_layer_params + spec.vocab_size * spec.hidden_size
        num_bytes = work.num_bytes - num_values * (4 - weight_bytes)
        return floor_of(Work(num_bytes, work.flops), probe).ms

    middle = task.prompt_len + task.decode_len // 2
    prompts_ms = step_ms([(0, task.prompt_len)] * task.streams)
    streams_ms = step_ms([(middle, 1)] * task.streams) * (task.decode_len - 1)
    return {
        "prefill": task.prefill_len / step_ms([(0, task.prefill_len)]) * 1e3,
        "decode": 1e3 / step_ms([(middle, 1)]),
        "streams": task.streams * task.decode_len / (prompts_ms + streams_ms) * 1e3,
    }


def roof_shares(
    runs: Sequence[PeerRun], spec: ModelSpec, task: Task, probes: Sequence[Probe]
) -> dict[str, dict[str, float]]:
    """By engine and phase: the share of the roof, median over turns. There is a probe before each
    run and one after the last; the better of the two around a run is its roof."""
    shares: dict[str, dict[str, list[float]]] = {}
    for run, before, after in zip(runs, probes, probes[1:], strict=False):
        roof = roof_tok_s(spec, task, better(before, after), ENGINES[run.engine].weight_bytes)
        found = shares.setdefault(run.engine, {phase: [] for phase in PHASES})
        for phase in PHASES:
            found[phase].append(getattr(run, f"{phase}_tok_s") / roof[phase])
    return {
        name: {phase: statistics.median(values) for phase, values in found.items()}
        for name, found in shares.items()
    }


def better(one: Probe, other: Probe) -> Probe:
    """The higher bandwidth and the higher peak of both."""
    return msgspec.structs.replace(
        one,
        read_gb_s=max(one.read_gb_s, other.read_gb_s),
        gemm_gflop_s=max(one.gemm_gflop_s, other.gemm_gflop_s),
    )
