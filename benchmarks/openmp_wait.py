"""What it costs and wins to let OpenMP threads wait less at barriers:

    python -m benchmarks.openmp_wait --output benchmarks/results/cpu/openmp_wait.json

Each setting runs in a process of its own, in turns, alone and beside a neighbour that keeps one
core busy: decode steps of 1 and 16 rows and prefill steps of 256 tokens on eight layers of the
Qwen3-0.6B shape with its whole head, compiled, two threads.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "GOMP_SPINCOUNT=100000": {"GOMP_SPINCOUNT": "100000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}
OVERRIDES = [
    "model=qwen3_0_6b",
    "model.hf_config.num_hidden_layers=8",
    "graphs.background=false",
    "batcher.step_ms=100000",
    "batcher.idle_step_ms=100000",
    "model.max_len=1024",
    "runner.max_seqs=16",
    "runner.threads=2",
]
CASES = {"decode 1": (1, 8, 24), "decode 16": (16, 8, 14), "prefill 256": (1, 256, 1)}


def child() -> None:
    """One setting: median milliseconds of each case's steps."""
    from prelude.conf.load import load_config
    from prelude.engine.build import build_engine

    core, _ = build_engine(load_config(OVERRIDES))
    print(json.dumps({name: _median_ms(core, *case) for name, case in CASES.items()}))


def _median_ms(core: Any, rows: int, prompt_len: int, num_tokens: int) -> float:
    from prelude.types.request import Request, SamplingParams

    rng = random.Random(0)
    params = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
    times_ms: list[float] = []
    for uid in range(rows if num_tokens > 1 else 4):
        prompt = [rng.randrange(1, 150_000) for _ in range(prompt_len)]
        core.add(Request(uid=uid, prompt_ids=prompt, params=params))
        while num_tokens == 1 and core.has_work:  # prompts one after the other
            times_ms.append(_step_ms(core))
    while core.has_work:
        times_ms.append(_step_ms(core))
    return round(statistics.median(times_ms[1:]), 2)


def _step_ms(core: Any) -> float:
    start = time.perf_counter()
    core.step()
    return (time.perf_counter() - start) * 1e3


@contextmanager
def neighbour(wanted: bool) -> Iterator[None]:
    """A process that does nothing but keep a core busy, for as long as the block runs."""
    command = [sys.executable, "-c", "while True: pass"]
    process = subprocess.Popen(command) if wanted else None
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


def measure(turns: int) -> list[dict[str, Any]]:
    rows = []
    for turn in range(turns):
        for busy in (False, True):
            for name, setting in SETTINGS.items():
                with neighbour(busy):
                    done = subprocess.run(
                        [sys.executable, "-m", "benchmarks.openmp_wait", "--child"],
                        env=os.environ | setting,
                        capture_output=True,
                        text=True,
                        check=True,
                        timeout=300,
                    )
                result = json.loads(done.stdout.splitlines()[-1])
                rows.append({"turn": turn, "setting": name, "busy_neighbour": busy, **result})
                print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.child:
        return child()
    result = {
        "command": f"python -m benchmarks.openmp_wait --turns {arguments.turns}",
        "unit": "median milliseconds a step",
        "overrides": OVERRIDES,
        "load_average_before": os.getloadavg(),
        "rows": measure(arguments.turns),
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
