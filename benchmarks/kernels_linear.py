"""Our linear of few rows beside F.linear, weights streamed from memory: interleaved, minima.

Weights are used in turn from a set larger than any cache, as the layers of a model are. The probe
is the same number of bytes read by torch.sum. Prints a Markdown table, then JSON.

    python -m benchmarks.kernels_linear [--threads 1 2] [--rounds 5]
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from prelude.kernels.linear import CpuLinear

SET_BYTES = 640_000_000
SHAPES = ((1024, 3072), (3072, 1024), (151_936, 1024))  # outputs, inputs
ROWS = (1, 2, 4, 8, 16, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class Result:
    outputs: int
    inputs: int
    rows: int
    threads: int
    ours_ms: float
    torch_ms: float
    read_ms: float  # torch.sum of the same weights

    @property
    def gbytes_s(self) -> float:
        return 4e-6 * self.outputs * self.inputs / self.ours_ms

    @property
    def gflops(self) -> float:
        return 2e-6 * self.outputs * self.inputs * self.rows / self.ours_ms


def measure(
    streamed: CpuLinear, weights: list[Tensor], rows: int, threads: int, rounds: int
) -> Result:
    torch.set_num_threads(threads)
    outputs, inputs = weights[0].shape
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(rows))
    torch.testing.assert_close(
        streamed(x, weights[0], None), F.linear(x, weights[0]), atol=1e-4, rtol=1e-3
    )
    best = [float("inf")] * 3
    for _ in range(rounds):
        for w in weights:
            calls: tuple[Callable[[Tensor], object], ...] = (
                lambda w: streamed(x, w, None),
                lambda w: F.linear(x, w),
                torch.sum,
            )
            # Each weight is read once a call, and the set lies between two calls of one kind.
            for i, call in enumerate(calls):
                best[i] = min(best[i], _time_ms(call, w if i == 0 else _other(weights, w, i)))
    return Result(outputs, inputs, rows, threads, *best)


def _other(weights: list[Tensor], w: Tensor, step: int) -> Tensor:
    """A weight that the previous call did not just leave in cache."""
    at = next(i for i, other in enumerate(weights) if other is w)
    return weights[(at + step * len(weights) // 3) % len(weights)]


def _time_ms(call: Callable[[Tensor], object], w: Tensor) -> float:
    start = time.perf_counter()
    call(w)
    return (time.perf_counter() - start) * 1e3


def render(results: list[Result]) -> str:
    lines = [
        "| outputs x inputs | rows | threads | ours ms | F.linear ms | reading alone ms "
        "| ours GB/s | GFLOP/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.outputs} x {r.inputs} | {r.rows} | {r.threads} | {r.ours_ms:.2f} "
        f"| {r.torch_ms:.2f} | {r.read_ms:.2f} | {r.gbytes_s:.1f} | {r.gflops:.0f} |"
        for r in results
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        streamed = CpuLinear(Path(folder))
        for outputs, inputs in SHAPES:
            count = max(1, SET_BYTES // (4 * outputs * inputs))
            weights = [torch.randn(outputs, inputs) * inputs**-0.5 for _ in range(count)]
            for threads in args.threads:
                results += [measure(streamed, weights, rows, threads, args.rounds) for rows in ROWS]
    print(render(results))
    record = {
        "benchmark": "kernels_linear",
        "torch": torch.__version__,
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "rounds": args.rounds,
        "results": [asdict(r) for r in results],
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
