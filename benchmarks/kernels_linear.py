"""Bake-off of linear layers on CPU: the library, Inductor's C++ GEMM template, and our kernel.

Weights are used in turn from a set larger than any cache, as the layers of a model are; contenders
take turns, and the minimum counts. The shapes are those of Qwen3-0.6B. Beside them, in the same
turns: the weights of the set read by torch.sum; before all, the peak of a dense product. Writes a
Markdown table and JSON.

    python -m benchmarks.kernels_linear [--threads 1 2] [--rounds 7] [--out FOLDER]
"""

import argparse
import json
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._inductor import config

from prelude.kernels.int8 import dequantize
from prelude.kernels.linear import linear, select_linear
from prelude.models.linear import empty_matrix, store

SET_BYTES = 120_000_000  # of float32; the last cache of the machine has 32 MiB
SHAPES = {  # outputs, inputs
    "qkv": (4096, 1024),
    "o": (1024, 2048),
    "gate_up": (6144, 1024),
    "down": (1024, 3072),
    "head": (151_936, 1024),
}
ROWS = (1, 4, 16, 64, 128, 512)
CPU = torch.device("cpu")

Run = Callable[[Tensor], object]  # all weights of the set, once


@dataclass(frozen=True, slots=True)
class Result:
    """Milliseconds per weight. ``read_ms`` and ``inductor_ms`` are null where not measured."""

    name: str
    outputs: int
    inputs: int
    rows: int
    threads: int
    library_ms: float
    inductor_ms: float | None
    ours_ms: float
    int8_ms: float
    read_ms: float

    def gflops(self, ms: float) -> float:
        return 2e-6 * self.outputs * self.inputs * self.rows / ms

    @property
    def gbytes_s(self) -> float:
        return 4e-6 * self.outputs * self.inputs / self.ours_ms


class Library(torch.nn.Module):
    """F.linear over a set of weights; frozen and compiled, also Inductor's contender."""

    def __init__(self, weights: Sequence[torch.nn.Parameter]) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList(weights)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [F.linear(x, w) for w in self.weights]


def inductor(module: Library, x: Tensor) -> Run:
    """Compiled for this number of rows, weights packed at compile time."""
    torch.compiler.reset()
    compiled: Run = torch.compile(module.eval(), dynamic=False)
    with config.patch(freezing=True, max_autotune=True, max_autotune_gemm_backends="CPP"):
        compiled(x)
    return compiled


def weight_set(outputs: int, inputs: int) -> tuple[list[torch.nn.Parameter], list[Tensor]]:
    """The same weights as float32 and as int8."""
    generator = torch.Generator().manual_seed(0)
    floats, bytes_ = [], []
    for _ in range(max(1, round(SET_BYTES / (4 * outputs * inputs)))):
        floats.append(empty_matrix(outputs, inputs, torch.float32, CPU))
        floats[-1].data.normal_(0.0, inputs**-0.5, generator=generator)
        bytes_.append(empty_matrix(outputs, inputs, torch.int8, CPU).data)
        store(bytes_[-1], floats[-1].data)
    return floats, bytes_


def measure(name: str, rows: int, threads: int, rounds: int, with_inductor: bool) -> Result:
    torch.set_num_threads(threads)
    outputs, inputs = SHAPES[name]
    weights, rounded = weight_set(outputs, inputs)
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(rows))
    library = Library(weights)
    contenders: dict[str, Run] = {
        "library": library,
        "ours": lambda x: [linear(x, w) for w in weights],
        "int8": lambda x: [linear(x, w) for w in rounded],
        "read": lambda x: [w.sum() for w in weights],
    }
    check(linear(x, weights[0]), F.linear(x, weights[0]))
    check(linear(x, rounded[0]), F.linear(x, dequantize(rounded[0])))
    if with_inductor:
        contenders["inductor"] = inductor(library, x)
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for contender, run in contenders.items():
            best[contender] = min(best[contender], time_ms(run, x) / len(weights))
    return Result(
        *(name, outputs, inputs, rows, threads),
        library_ms=best["library"],
        inductor_ms=best.get("inductor"),
        ours_ms=best["ours"],
        int8_ms=best["int8"],
        read_ms=best["read"],
    )


def check(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def time_ms(run: Run, x: Tensor) -> float:
    start = time.perf_counter()
    run(x)
    return (time.perf_counter() - start) * 1e3


def peak_gflops(threads: int, size: int = 2048) -> float:
    torch.set_num_threads(threads)
    x = torch.rand(size, size)
    return max(2e-6 * size**3 / time_ms(lambda x: x @ x, x) for _ in range(6))


def render(results: list[Result]) -> str:
    lines = [
        "| weight | rows | threads | library ms | Inductor ms | ours ms | ours int8 ms "
        "| reading alone ms | ours GB/s | ours GFLOP/s | library GFLOP/s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        compiled = "-" if r.inductor_ms is None else f"{r.inductor_ms:.2f}"
        lines.append(
            f"| {r.name} {r.outputs} x {r.inputs} | {r.rows} | {r.threads} | {r.library_ms:.2f} "
            f"| {compiled} | {r.ours_ms:.2f} | {r.int8_ms:.2f} | {r.read_ms:.2f} "
            f"| {r.gbytes_s:.1f} | {r.gflops(r.ours_ms):.0f} | {r.gflops(r.library_ms):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--no-inductor", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for linear_table.md and linear.json")
    args = parser.parse_args()
    peaks = {threads: peak_gflops(threads) for threads in args.threads}
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        select_linear("cpu", Path(folder))
        for name in args.shapes:
            for rows in args.rows:
                for threads in args.threads:
                    compiled = not args.no_inductor
                    results.append(measure(name, rows, threads, args.rounds, compiled))
                    print(render(results[-1:]).splitlines()[-1], flush=True)
    record = {
        "benchmark": "kernels_linear",
        "command": shlex.join(["python", "-m", "benchmarks.kernels_linear", *sys.argv[1:]]),
        "torch": torch.__version__,
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "peak_gflops": peaks,
        "results": [asdict(r) for r in results],
    }
    if args.out:
        (args.out / "linear.json").write_text(json.dumps(record, indent=1) + "\n")
        (args.out / "linear_table.md").write_text(render(results) + "\n")


if __name__ == "__main__":
    main()
