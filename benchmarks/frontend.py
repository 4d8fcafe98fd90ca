"""What the HTTP front end can stream, and what it costs the engine beside it:

    python -m benchmarks.frontend --output benchmarks/results/cpu/frontend.json

First the null engine (``benchmarks/null_engine.py``) behind a server that has one core to itself:
64 chat streams to a client that only counts, which shares the other core with the engine. Steps get
longer until the server keeps up, which is to say sends each token in a chunk of its own. Then the
bundled model with 32 streams: the engine's decode steps without any server, beside one on the same
cores, and with one core for each.
"""

import argparse
import asyncio
import gc
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from benchmarks.stream_client import Streamed, stream
from prelude.bench import machine
from prelude.bench.frontend import running_server
from prelude.bench.observer import Observer
from prelude.conf.load import load_config
from prelude.engine.steplog import Record, StepRecord, read_step_log
from prelude.openmp import share_cores

STREAMS = 64
PACES_MS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)
KEEPS_UP = 0.99  # chunks a token
SCAN_S = 2.0
NULL_TOKENS = 15_000  # more than a stream gets
SETTLE_S = 0.5
NULL_ARGUMENTS = (f"runner.max_seqs={STREAMS}", "log.level=ERROR", "server.drain_s=1")

ROWS = 32
MODEL_TOKENS = 800
MODEL_MOST_S = 20.0
POSITIONS = (64, 600)  # of all rows of a step that counts
PROMPT = "Write a long list of things and what they cost."
MODEL_ARGUMENTS = (
    "model=demo",
    "graphs.background=false",
    f"runner.max_seqs={ROWS}",
    "log.level=ERROR",
    "server.drain_s=1",
)


@dataclass(frozen=True, slots=True)
class Placement:
    """Engine threads, whether there is a server, and whether it has a core of its own: the engine
    is then on the other."""

    threads: int
    serves: bool
    is_split: bool


PLACEMENTS = {
    "two threads, no server": Placement(2, serves=False, is_split=False),
    "two threads, cores shared": Placement(2, serves=True, is_split=False),
    "one thread, no server": Placement(1, serves=False, is_split=True),
    "one thread, cores shared": Placement(1, serves=True, is_split=False),
    "one thread, cores split": Placement(1, serves=True, is_split=True),
}


def pin(pid: int, cores: Sequence[int]) -> None:
    """Every thread that the process has now; those to come inherit it."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), cores)


def pin_server(pid: int, server_core: int, engine_core: int) -> None:
    pin(pid, [server_core])
    for child in machine.family([pid])[1:]:
        pin(child, [engine_core])


def port_of(base_url: str) -> int:
    return int(base_url.rsplit(":", 1)[1].split("/")[0])


def bodies(count: int, num_tokens: int) -> list[dict[str, Any]]:
    body = {
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": num_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    return [body] * count


def load(base_url: str, pid: int, count: int, num_tokens: int, most_s: float) -> Streamed:
    def cpu_s() -> float:
        return machine.process(pid, "server").cpu_s

    work = stream(port_of(base_url), bodies(count, num_tokens), cpu_s, most_s)
    streamed: Streamed = uvloop.run(asyncio.wait_for(work, most_s + 30.0))
    return streamed


def null_turns(step_ms: float, seconds: Sequence[float], cores: Sequence[int]) -> list[Any]:
    """Runs of so many seconds on one server, with its core and the other."""
    arguments = [*NULL_ARGUMENTS, f"batcher.step_ms={step_ms}"]
    with running_server(arguments, module=("benchmarks.null_engine",)) as (base_url, pid):
        pin_server(pid, cores[0], cores[-1])
        load(base_url, pid, STREAMS, NULL_TOKENS, 0.1)  # what is made once, is made
        turns = []
        for most_s in seconds:
            time.sleep(SETTLE_S)
            turns.append(null_turn(load(base_url, pid, STREAMS, NULL_TOKENS, most_s)))
            shown = {name: value for name, value in turns[-1].items() if name != "live_ms"}
            print(f"step {step_ms:g} ms: {shown}", file=sys.stderr)
    return turns


def null_turn(streamed: Streamed) -> dict[str, Any]:
    steady = streamed.steady
    return {
        "tok_s": round(steady.num_tokens / steady.wall_s),
        "server_us_token": round(steady.cpu_s / steady.num_tokens * 1e6, 2),
        "server_cores": round(steady.cpu_s / steady.wall_s, 3),
        "chunks_per_token": round(steady.num_events / steady.num_tokens, 4),
        "seconds": round(steady.wall_s, 2),
        "live_ms": [round(one, 3) for one in streamed.probe_ms],
    }


def measure_null(turns: int, seconds: float, cores: Sequence[int]) -> dict[str, Any]:
    scan = []
    for step_ms in PACES_MS:
        (turn,) = null_turns(step_ms, [SCAN_S], cores)
        scan.append({"step_ms": step_ms, **turn})
        if turn["chunks_per_token"] >= KEEPS_UP:
            break
    found = null_turns(scan[-1]["step_ms"], [seconds] * turns, cores)
    live_ms = [one for turn in found for one in turn["live_ms"]]
    names = ("tok_s", "server_us_token", "server_cores", "chunks_per_token")
    medians = {name: statistics.median(turn[name] for turn in found) for name in names}
    live = {"live_p50_ms": quantile(live_ms, 0.5), "live_p99_ms": quantile(live_ms, 0.99)}
    step_ms = scan[-1]["step_ms"]
    counts = {"streams": STREAMS, "step_ms": step_ms, "num_probes": len(live_ms)}
    return {**counts, **medians, **live, "scan": scan, "turns": found}


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of all does not exceed."""
    ordered = sorted(values)
    return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 3)


def measure_model(turns: int, cores: Sequence[int]) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in PLACEMENTS}
    for _ in range(turns):
        for name, placement in PLACEMENTS.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "steps"
                used = model_turn(placement, path, cores)
                found[name].append({**steps(list(read_step_log(path)), ROWS), **used})
            print(f"{name}: {found[name][-1]}", file=sys.stderr)
    medians = {
        name: {key: statistics.median(turn[key] for turn in rows) for key in rows[0]}
        for name, rows in found.items()
    }
    kinds = {name: asdict(placement) for name, placement in PLACEMENTS.items()}
    rows = {name: {**kinds[name], **medians[name]} for name in PLACEMENTS}
    return {"rows": ROWS, "placements": rows, "turns": found}


def model_turn(placement: Placement, path: Path, cores: Sequence[int]) -> dict[str, Any]:
    """Writes the step log; the cores that the server used, 0 where there was none."""
    arguments = [*MODEL_ARGUMENTS, f"runner.threads={placement.threads}", f"log.steps={path}"]
    if not placement.serves:
        own = [cores[-1]] if placement.is_split else cores
        command = [sys.executable, "-m", "benchmarks.frontend", "--engine", *arguments]
        pinned = ["taskset", "-c", ",".join(map(str, own)), *command]
        subprocess.run(pinned, check=True, timeout=120)
        return {"server_cores": 0.0}
    with running_server(arguments) as (base_url, pid):
        if placement.is_split:
            pin_server(pid, cores[0], cores[-1])
        os.sched_setaffinity(0, [cores[0]] if placement.is_split else cores)
        streamed = load(base_url, pid, ROWS, MODEL_TOKENS, MODEL_MOST_S)
    steady = streamed.steady
    return {"server_cores": round(steady.cpu_s / steady.wall_s, 3)}


def steps(records: Sequence[Record], rows: int) -> dict[str, Any]:
    """Milliseconds of the steps that decoded for so many rows and nothing else, and from one's
    start to that of the next."""
    found = [one for one in records if isinstance(one, StepRecord) and is_decode(one, rows)]
    times = [step_ms(one) for one in found]
    pairs = itertools.pairwise(found)
    periods = [(b.start_s - a.start_s) * 1e3 for a, b in pairs if b.step == a.step + 1]
    return {
        "steps": len(found),
        "step_p50_ms": quantile(times, 0.5),
        "step_p99_ms": quantile(times, 0.99),
        "period_p50_ms": quantile(periods, 0.5),
        "period_p99_ms": quantile(periods, 0.99),
    }


def is_decode(step: StepRecord, rows: int) -> bool:
    """One token for each of so many rows, none of them at the beginning or the end."""
    found = [row for launch in step.launches for row in launch.rows]
    low, high = POSITIONS
    return len(found) == rows and all(n == 1 and low <= at < high for _, at, n in found)


def step_ms(step: StepRecord) -> float:
    return sum(launch.actual_ms for launch in step.launches) + step.overhead_ms + step.copy_ms


def engine_alone(overrides: Sequence[str]) -> None:
    """The same rows on an engine in this process."""
    from prelude.engine.build import build_engine
    from prelude.models.tokenizer import load_tokenizer
    from prelude.types.request import Request, SamplingParams

    config = load_config(list(overrides))
    core, _ = build_engine(config)
    prompt = load_tokenizer(config.model).encode(PROMPT)
    gc.collect()
    gc.freeze()
    params = SamplingParams(temperature=0.0, max_tokens=MODEL_TOKENS, ignore_eos=True)
    for row in range(ROWS):
        core.add(Request(uid=row, prompt_ids=prompt, params=params))
    while core.has_work:
        core.step()
    core.close()


def measure(turns: int, model_turns: int, seconds: float) -> dict[str, Any]:
    """Raises ``ValueError`` where there are no two cores to place things on."""
    cores = machine.my_cores()[:2]
    if len(cores) < 2:
        raise ValueError("this benchmark needs two cores")
    share_cores()
    observer = Observer(None)
    os.sched_setaffinity(0, cores[1:])
    try:
        null = measure_null(turns, seconds, cores)
        os.sched_setaffinity(0, cores)
        model = measure_model(model_turns, cores)
    finally:
        os.sched_setaffinity(0, cores)
    environment = msgspec.to_builtins(observer.finish())
    return {
        "benchmark": "frontend",
        "version": 1,
        "environment": environment,
        "null_engine": null,
        "model": model,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=3, help="of the null engine")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one of them")
    parser.add_argument("--model-turns", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--engine", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.engine:
        engine_alone(args.engine)
        return 0
    result = measure(args.turns, args.model_turns, args.seconds)
    if args.output is not None:
        args.output.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    print(msgspec.json.encode(result).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
