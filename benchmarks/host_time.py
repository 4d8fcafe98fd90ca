"""Where the engine's own time of a step goes, that is everything but the programs:

    python -m benchmarks.host_time --output benchmarks/results/cpu/host_time.json

The real engine decodes with a runner that builds the input tensors of every launch and makes up
the tokens. Microseconds of a step by part, medians of 40 steps in the best of 20 turns (others may
use the machine). What ``schedule`` takes where many wait: ``benchmarks.scheduling_decide``.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch

from benchmarks.host_runner import HostRunner
from prelude.bench.observer import Observer
from prelude.conf.schema import BatcherConfig, CacheConfig
from prelude.engine.core import EngineCore
from prelude.types.request import Request, SamplingParams
from prelude.types.wire import StepEvents, encode

PARTS = ("schedule", "bind", "inputs", "outputs", "commit", "events")
ROWS = (1, 16, 32, 64)
CONTEXT, BLOCK, BLOCKS = 512, 40, 20


class Timers:
    """Microseconds spent in wrapped calls, by name and step."""

    def __init__(self) -> None:
        self.samples_us: dict[str, list[float]] = defaultdict(list)

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            start = time.perf_counter()
            result = call(*args)
            self.samples_us[name].append((time.perf_counter() - start) * 1e6)
            return result

        return timed


def engine(timers: Timers, max_seqs: int, num_blocks: int) -> EngineCore:
    runner = HostRunner(depth=1, max_seqs=max_seqs, num_blocks=num_blocks)
    core = EngineCore(
        runner,
        batcher=BatcherConfig(max_step_tokens=10**6, step_ms=1e9, idle_step_ms=1e9, headroom=0),
        cache=CacheConfig(),
        max_seqs=max_seqs,
        eos_ids=(0,),
    )
    for owner, method, name in (
        (core._decisions, "next", "schedule"),
        (core.ledger, "bind", "bind"),
        (runner, "inputs", "inputs"),
        (runner, "outputs", "outputs"),
    ):
        setattr(owner, method, timers.wrap(name, getattr(owner, method)))
    return core


def add(core: EngineCore, count: int, length: int) -> None:
    """Prompts of which no two begin alike."""
    params = SamplingParams(max_tokens=2000, temperature=0.0, ignore_eos=True)
    base = core.ledger.num_running + core.ledger.num_waiting
    for uid in range(base, base + count):
        prompt = [uid + 1, *range(100, 99 + length)]
        assert not core.add(Request(uid=uid, prompt_ids=prompt, params=params))


def blocks_us(rows: int) -> Iterator[dict[str, float]]:
    """Median microseconds of each part of a decode step and of all of them, block by block."""
    timers = Timers()
    core = engine(timers, rows, 300 + rows * 100)
    add(core, rows, CONTEXT)
    send = timers.wrap("events", lambda events: encode(StepEvents(events, core.stats())))
    turn = timers.wrap("total", lambda: send(core.step()))
    while True:
        timers.samples_us.clear()
        for _ in range(BLOCK):
            turn()
        found = {name: statistics.median(values) for name, values in timers.samples_us.items()}
        found["commit"] = 2 * found["total"] - sum(found.values())
        yield {name: found[name] for name in (*PARTS, "total")}


def steps_us() -> dict[str, dict[str, float]]:
    """All batches in turns; the best block of each, the first one aside."""
    runs = {str(rows): blocks_us(rows) for rows in ROWS}
    turns = [{rows: next(run) for rows, run in runs.items()} for _ in range(BLOCKS + 1)]
    return {
        rows: min((turn[rows] for turn in turns[1:]), key=lambda block: block["total"])
        for rows in runs
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    observer = Observer(None)
    result = {"step_us": steps_us()}
    environment = msgspec.to_builtins(observer.finish())
    line = json.dumps({"environment": environment, **result})
    print(line)
    if options.output:
        options.output.write_text(line + "\n")


if __name__ == "__main__":
    main()
