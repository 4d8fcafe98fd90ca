"""What planning a step while another runs wins:

    python -m benchmarks.overlap --output benchmarks/results/cpu

The real engine loop serves 32 streams and newcomers, beside a device that takes 5 ms a step and
nothing of the host, with and without overlap: a trace of both (``overlap.png``), how long the
device waits between two steps, and how long newcomers wait for a step that includes them. Then a
CPU model of which the host is the device: plain steps against steps on a thread, in turns.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import msgspec
import torch

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from benchmarks.host_runner import VOCAB, HostRunner
from prelude.bench.observer import Observer
from prelude.conf.load import load_config
from prelude.conf.schema import BatcherConfig, CacheConfig
from prelude.engine.build import build_engine
from prelude.engine.core import EngineCore
from prelude.engine.loop import run_loop
from prelude.runner.threaded import ThreadedRunner
from prelude.types.request import Request, SamplingParams
from prelude.types.wire import FromEngine, Shutdown, StepEvents, Submit, ToEngine, encode

STREAMS, STEPS, DEVICE_MS, JITTER = 32, 1500, 5.0, 0.03
NEWCOMERS_PER_S = 60.0
CPU_CASES = {
    "demo, 1 thread": (["model=demo", "runner.threads=1"], (1, 16, 32), 150),
    "0.6B shape, 2 threads": (["model=qwen3_0_6b", "runner.threads=2"], (1, 16), 12),
}


@dataclass(slots=True)
class Trace:
    """What the host did when: (part, start, end) in seconds."""

    spans: list[tuple[str, float, float]] = field(default_factory=list)

    def wrap(self, owner: Any, method: str, part: str) -> None:
        call: Callable[..., Any] = getattr(owner, method)

        def traced(*args: Any) -> Any:
            start = time.perf_counter()
            result = call(*args)
            self.spans.append((part, start, time.perf_counter()))
            return result

        setattr(owner, method, traced)


class Newcomers:
    """A channel on which short requests arrive at random moments beside endless streams, until
    the engine has run ``STEPS`` steps."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._waiting: list[ToEngine] = [
            Submit(_request(uid, max_tokens=4 * STEPS)) for uid in range(STREAMS)
        ]
        self._uid = STREAMS
        self._next_s = time.perf_counter() + 0.2
        self._steps = 0
        self.wait_ms: list[float] = []

    def receive(self, timeout_ms: float) -> list[ToEngine]:
        until_s = time.perf_counter() + timeout_ms / 1e3
        if (wait_s := min(until_s, self._next_s) - time.perf_counter()) > 0.0:
            time.sleep(wait_s)
        messages, self._waiting = self._waiting, []
        while self._next_s <= time.perf_counter():
            messages.append(Submit(_request(self._uid, max_tokens=1, arrival_s=self._next_s)))
            self._uid += 1
            self._next_s += self._rng.expovariate(NEWCOMERS_PER_S)
        return [Shutdown()] if self._steps >= STEPS else messages

    def send(self, message: FromEngine) -> None:
        encode(message)
        assert isinstance(message, StepEvents)
        self._steps = message.stats.num_steps
        for event in message.events:
            if event.uid >= STREAMS and event.timings and event.finish_reason == "length":
                self.wait_ms.append(event.timings.queue_ms + event.timings.prefill_ms)


def _request(uid: int, max_tokens: int, arrival_s: float = 0.0) -> Request:
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    prompt_ids = [1 + uid % (VOCAB - 1), *range(10, 26)]
    return Request(uid=uid, prompt_ids=prompt_ids, params=params, arrival_s=arrival_s)


def serve(depth: int, seed: int) -> tuple[Trace, HostRunner, list[float]]:
    """The loop over a device beside the host; what happened, and how long newcomers took."""
    trace, rng = Trace(), random.Random(seed)
    runner = HostRunner(
        depth=depth,
        max_seqs=2 * STREAMS,
        num_blocks=STREAMS * 500,
        max_len=8 * STEPS,
        device_ms=DEVICE_MS,
        jitter=lambda: rng.uniform(1.0 - JITTER, 1.0 + JITTER),
    )
    core = EngineCore(
        runner,
        batcher=BatcherConfig(),
        cache=CacheConfig(),
        max_seqs=2 * STREAMS,
        eos_ids=(0,),
        clock=time.perf_counter,
    )
    newcomers = Newcomers(seed)
    for owner, method, part in (
        (core, "_policy", "schedule"),
        (core.ledger, "bind", "bind"),
        (runner, "submit", "inputs"),
        (runner, "collect", "wait for the device"),
        (core, "_commit", "commit"),
        (newcomers, "send", "send events"),
        (newcomers, "receive", "wait for requests"),
    ):
        trace.wrap(owner, method, part)
    run_loop(core, newcomers)
    return trace, runner, newcomers.wait_ms


def gaps_ms(runner: HostRunner) -> list[float]:
    """How long the device had nothing to do before each step."""
    runs = runner.runs[100:]
    return [(b[0] - a[1]) * 1e3 for a, b in pairwise(runs)]


def percentiles(values: Iterable[float]) -> dict[str, float]:
    ordered = sorted(values)
    points = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    found = {k: ordered[min(int(q * len(ordered)), len(ordered) - 1)] for k, q in points.items()}
    return {"num": len(ordered), "mean": statistics.fmean(ordered), **found}


def beside_a_device(rounds: int) -> tuple[dict[str, Any], dict[str, tuple[Trace, HostRunner]]]:
    """With and without overlap in turns, all rounds pooled; the last trace of each."""
    gaps: dict[str, list[float]] = {"without": [], "with": []}
    waits: dict[str, list[float]] = {"without": [], "with": []}
    traces = {}
    for seed in range(rounds):
        for depth, name in ((1, "without"), (2, "with")):
            trace, runner, wait_ms = serve(depth, seed)
            gaps[name] += gaps_ms(runner)
            waits[name] += wait_ms
            traces[name] = (trace, runner)
    result = {
        name: {
            "gap_ms": percentiles(gaps[name]),
            "idle_share": sum(gaps[name]) / (sum(gaps[name]) + DEVICE_MS * len(gaps[name])),
            "newcomer_ms": percentiles(waits[name]),
        }
        for name in gaps
    }
    return result, traces


def draw(traces: dict[str, tuple[Trace, HostRunner]], path: Path, num_steps: int = 5) -> None:
    parts = ("schedule", "bind", "inputs", "commit", "send events", "wait for requests", "program")
    colours = {part: f"C{i}" for i, part in enumerate(parts)}
    figure, axes = plt.subplots(2, 1, figsize=(11, 4.2), layout="constrained", sharex=True)
    for axis, (name, (trace, runner)) in zip(axes, traces.items(), strict=True):
        first = len(runner.runs) // 2
        zero = runner.runs[first][0] - 0.001
        until = runner.runs[first + num_steps][1]
        for i, (start, end) in enumerate(runner.runs[first : first + num_steps + 1]):
            box = ((start - zero) * 1e3, (end - start) * 1e3)
            axis.broken_barh([box], (0, 0.8), color=colours["program"], alpha=1.0 - 0.4 * (i % 2))
        waits = [(s, e) for part, s, e in trace.spans if part == "wait for the device"]
        for part, start, end in trace.spans:
            if part in colours and end > zero and start < until:
                # A commit begins with the wait for its step, which is nobody's work.
                start = max([start, *(e for s, e in waits if start <= s and e <= end)])
                box = ((start - zero) * 1e3, (end - start) * 1e3)
                axis.broken_barh([box], (1, 0.8), color=colours[part])
        axis.set(yticks=[0.4, 1.4], yticklabels=["device", "host"], title=f"{name} overlap")
    axes[-1].set(xlabel="ms", xlim=(0.0, (DEVICE_MS + 0.4) * num_steps))
    handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    figure.legend(handles, list(colours), loc="outside lower center", ncols=7, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def on_the_host(rounds: int) -> dict[str, Any]:
    """Milliseconds of a decode step of a CPU model, plain and on a thread, and their ratios."""
    result: dict[str, Any] = {}
    for name, (overrides, batches, steps) in CPU_CASES.items():
        core, _ = build_engine(load_config([*overrides, "graphs.background=false"]))
        runners = {"plain": core.runner, "thread": ThreadedRunner(core.runner)}
        for rows in batches:
            times: dict[str, list[float]] = {kind: [] for kind in runners}
            _decode_ms(core, rows, 4)
            for _ in range(rounds):
                for kind, runner in runners.items():
                    core.runner = runner
                    times[kind].append(_decode_ms(core, rows, steps))
            ratios = [b / a for a, b in zip(times["plain"], times["thread"], strict=True)]
            result[f"{name}, {rows} rows"] = {
                "plain_ms": min(times["plain"]),
                "thread_ms": min(times["thread"]),
                "thread_over_plain": statistics.median(ratios),
                "ratios": ratios,
            }
        core.close()
    return result


def _decode_ms(core: EngineCore, rows: int, steps: int) -> float:
    for uid in range(rows):
        core.add(_request(uid, max_tokens=steps + 20))
    for _ in range(6):
        core.step()
    start = time.perf_counter()
    for _ in range(steps):
        encode(StepEvents(core.step(), core.stats()))
    ms = (time.perf_counter() - start) / steps * 1e3
    while core.has_work:
        core.step()
    return ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="folder for overlap.json and overlap.png")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    observer = Observer(None)
    beside, traces = beside_a_device(options.rounds)
    result = {"beside_a_device": beside, "on_the_host": on_the_host(options.rounds)}
    result["environment"] = msgspec.to_builtins(observer.finish())
    line = json.dumps(result)
    print(line)
    if options.output:
        (options.output / "overlap.json").write_text(line + "\n")
        draw(traces, options.output / "overlap.png")


if __name__ == "__main__":
    main()
