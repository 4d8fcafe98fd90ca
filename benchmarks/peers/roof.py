"""What the machine's roof allows for the comparison's task, and how much of it was reached."""

import statistics
from collections.abc import Sequence

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
    """By engine and phase: the share of the roof that was probed before the same turn, median
    over turns."""
    found = {}
    for name in dict.fromkeys(run.engine for run in runs):
        mine = [run for run in runs if run.engine == name]
        size = ENGINES[name].weight_bytes
        roofs = [roof_tok_s(spec, task, probes[run.turn], size) for run in mine]
        found[name] = {
            phase: statistics.median(
                getattr(run, f"{phase}_tok_s") / roof[phase]
                for run, roof in zip(mine, roofs, strict=True)
            )
            for phase in PHASES
        }
    return found
