"""Our Triton kernels beside the best known of each kind, and beside what the device can do.

On a GPU: every kernel at the shapes of Qwen3 4B against FlashInfer (attention, if installed),
cuBLAS (linear layers) and plain torch (the rest), the two replayed in turn from CUDA graphs on
inputs that do not fit the cache, minima; a Markdown table, then JSON. Without a GPU, and first of
all on one: a small correctness check, in Triton's interpreter where there is no device.

    python -m benchmarks.kernels_triton [--check] [--seconds 0.2] [--only decode] [--out FILE]
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels_triton_cases import Case, all_cases, small_cases

ROOF_GB_S = 4300.0  # measured on an H200
ROOF_TFLOP_S = 790.0  # bfloat16


@dataclass(frozen=True, slots=True)
class Result:
    kernel: str
    shape: str
    peer: str
    ours_us: float
    peer_us: float | None
    gb_s: float
    tflop_s: float
    share_of_roof: float  # the larger of both shares
    error: float | None  # of ours against the peer, relative to its largest value


def error_between(ours: Tensor, theirs: Tensor) -> float:
    scale = theirs.double().abs().max().clamp(min=1e-6)
    return float((ours.double() - theirs.double()).abs().max() / scale)


def check(cases: Iterator[Case]) -> bool:
    """Print each kernel's error against its plain version; whether all are small."""
    good = True
    for case in cases:
        error = error_between(case.ours(0), case.plain(0))
        good &= error < case.tolerance
        print(f"{case.kernel:12} {case.shape:32} error {error:.1e} (at most {case.tolerance:.0e})")
    return good


def captured(call: Callable[[int], Tensor], copies: int) -> torch.cuda.CUDAGraph:
    """One replay calls ``call`` once for each of the copies of its inputs."""
    for copy in range(copies):
        call(copy)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for copy in range(copies):
            call(copy)
    return graph


def replay_us(graph: torch.cuda.CUDAGraph, copies: int) -> float:
    event: Any = torch.cuda.Event  # untyped in torch
    start, end = event(enable_timing=True), event(enable_timing=True)
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3 / copies


def measure(case: Case, seconds: float) -> Result:
    graphs = {"ours": captured(case.ours, case.copies)}
    if case.peer is not None:
        graphs["peer"] = captured(case.peer, case.copies)
    best = dict.fromkeys(graphs, float("inf"))
    spent = 0.0
    while spent < seconds * 1e6:
        for name, graph in graphs.items():
            us = replay_us(graph, case.copies)
            best[name] = min(best[name], us)
            spent += us * case.copies
    ours = best["ours"]
    gb_s, tflop_s = case.num_bytes / ours / 1e3, case.flops / ours / 1e6
    error = None if case.peer is None else error_between(case.ours(0), case.peer(0))
    share = max(gb_s / ROOF_GB_S, tflop_s / ROOF_TFLOP_S)
    return Result(
        case.kernel,
        case.shape,
        case.peer_name,
        ours,
        best.get("peer"),
        gb_s,
        tflop_s,
        share,
        error,
    )


def render(results: list[Result]) -> str:
    lines = [
        "| kernel | shape | ours µs | peer µs | peer | GB/s | TFLOP/s | share of roof |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        peer = "" if r.peer_us is None else f"{r.peer_us:.1f}"
        lines.append(
            f"| {r.kernel} | {r.shape} | {r.ours_us:.1f} | {peer} | {r.peer} "
            f"| {r.gb_s:.0f} | {r.tflop_s:.0f} | {r.share_of_roof:.0%} |"
        )
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="correctness alone")
    parser.add_argument("--seconds", type=float, default=0.2, help="device time per case")
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    return parser.parse_args(arguments)


def main() -> int:
    args = parse()
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # before the first import of Triton
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not check(c for c in small_cases(device) if args.only in c.kernel):
        return 1
    if args.check or device.type != "cuda":
        return 0
    results = [measure(c, args.seconds) for c in all_cases(device) if args.only in c.kernel]
    print(render(results))
    record = {
        "benchmark": "kernels_triton",
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "roof_gb_s": ROOF_GB_S,
        "roof_tflop_s": ROOF_TFLOP_S,
        "results": [asdict(r) for r in results],
    }
    line = json.dumps(record)
    print(line)
    if args.out is not None:
        args.out.write_text(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
