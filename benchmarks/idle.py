"""How long the device has nothing to do while it decodes, from a trace of its kernels:

    python -m benchmarks.idle --batch 32 --context 1024 model=qwen3_8b

Runs decode steps of a full batch under torch's profiler and adds up the time in which no kernel and
no copy ran. Gaps of less than 5 µs are those between the kernels of one program; longer ones lie
between programs and steps: these are the idle share. On a CPU, operators stand for kernels.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from torch.profiler import ProfilerActivity, profile

from prelude.bench.engine import sized
from prelude.bench.observer import Observer
from prelude.conf.bench import EngineBenchConfig
from prelude.conf.command import BENCH_ENGINE
from prelude.conf.load import load
from prelude.engine.build import build_engine
from prelude.engine.core import EngineCore
from prelude.types.request import Request, SamplingParams

LEAST_GAP_US = 5.0
NUM_LARGEST = 10


@dataclass(frozen=True, slots=True)
class Span:
    """Something the device did; microseconds."""

    name: str
    start_us: float
    end_us: float


@dataclass(frozen=True, slots=True)
class Gap:
    """Nothing ran for so long, between two spans."""

    us: float
    after: str
    before: str


def gaps_of(spans: Sequence[Span]) -> list[Gap]:
    """The gaps in the union of the spans, in order of time."""
    found = []
    latest: Span | None = None
    for span in sorted(spans, key=lambda span: span.start_us):
        if latest is not None and span.start_us > latest.end_us:
            found.append(Gap(span.start_us - latest.end_us, latest.name, span.name))
        if latest is None or span.end_us > latest.end_us:
            latest = span
    return found


def report(spans: Sequence[Span], num_steps: int) -> dict[str, Any]:
    """Idle share and the gaps behind it. Raises ``ValueError`` without spans."""
    if not spans:
        raise ValueError("the trace has no kernels: is the device the one that was traced?")
    wall_us = max(span.end_us for span in spans) - min(span.start_us for span in spans)
    gaps = gaps_of(spans)
    long = sorted((gap for gap in gaps if gap.us >= LEAST_GAP_US), key=lambda gap: -gap.us)
    return {
        "step_us": wall_us / num_steps,
        "spans_a_step": len(spans) / num_steps,
        "idle_share": sum(gap.us for gap in long) / wall_us,
        "idle_us_a_step": sum(gap.us for gap in long) / num_steps,
        "short_gaps_us_a_step": sum(gap.us for gap in gaps if gap.us < LEAST_GAP_US) / num_steps,
        "least_gap_us": LEAST_GAP_US,
        "largest_gaps": [
            {"us": round(gap.us, 2), "after": gap.after[:80], "before": gap.before[:80]}
            for gap in long[:NUM_LARGEST]
        ],
    }


def trace(core: EngineCore, device: str, num_steps: int) -> list[Span]:
    """What the device did in ``num_steps`` turns of the engine."""
    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities = [ProfilerActivity.CUDA]
    with profile(activities=activities) as profiler:
        for _ in range(num_steps):
            core.step()
    return [
        Span(event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type.name == device.upper()
    ]


def start(core: EngineCore, batch: int, context: int, vocab_size: int) -> None:
    """Bring ``batch`` sequences past prompts of ``context`` tokens, and some steps further."""
    rng = Random(0)
    params = SamplingParams(max_tokens=100_000, temperature=0.0, ignore_eos=True)
    for uid in range(batch):
        prompt = [rng.randrange(vocab_size) for _ in range(context)]
        refused = core.add(Request(uid=uid, prompt_ids=prompt, params=params))
        assert not refused, refused[0].error
    started: set[int] = set()
    while len(started) < batch:
        started |= {event.uid for event in core.step()}
    for _ in range(3):
        core.step()


def measure(config: EngineBenchConfig, num_steps: int) -> dict[str, Any]:
    """Build the engine that ``config`` describes and trace it."""
    batch, context = config.bench.batches[0], config.bench.contexts[0]
    core, info = build_engine(sized(config))
    try:
        start(core, batch, context, info.vocab_size)
        observer = Observer(None)
        spans = trace(core, info.device, num_steps)
        environment = observer.finish()
    finally:
        core.close()
    return {
        "benchmark": "idle",
        "version": 1,
        "environment": msgspec.to_builtins(environment),
        "model": info.model_name,
        "device": info.device,
        "dtype": info.dtype,
        "batch": batch,
        "context": context,
        "steps": num_steps,
        **report(spans, num_steps),
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--output", type=Path)
    parser.add_argument("overrides", nargs="*", help="of the engine's configuration")
    args = parser.parse_intermixed_args(argv)
    shape = [f"bench.batches=[{args.batch}]", f"bench.contexts=[{args.context}]"]
    counts = ["bench.prefills=[]", f"bench.steps={args.steps + 8}"]
    config = load(BENCH_ENGINE, EngineBenchConfig, [*shape, *counts, *args.overrides])
    result = measure(config, args.steps)
    line = json.dumps(result)
    if args.output is not None:
        args.output.write_text(line + "\n")
    print(f"idle {result['idle_share']:.1%} of {result['step_us']:.0f} us a step", file=sys.stderr)
    print(line, flush=True)
    return result


if __name__ == "__main__":
    main()
