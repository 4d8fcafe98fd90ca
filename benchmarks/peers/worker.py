"""One engine in one process: build it, do the task, print the run as one line.

``python -m benchmarks.peers.worker ENGINE FOLDER TASK [OVERRIDE ...]``, with the task as JSON. It
is started by ``compare`` with the interpreter of the engine's own environment.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.task import MARK, Engine, Task, measure


def build(name: str) -> Callable[[Path, Task, list[str]], Engine]:
    """The engine's class, imported only when it is wanted."""
    match name:
        case "prelude":
            from benchmarks.peers.prelude_peer import PreludeEngine

            return PreludeEngine
        case "transformers":
            from benchmarks.peers.transformers_peer import TransformersEngine

            return TransformersEngine
        case "llamacpp":
            from benchmarks.peers.llamacpp_peer import LlamaCppEngine

            return LlamaCppEngine
        case "vllm":
            from benchmarks.peers.vllm_peer import VllmEngine

            return VllmEngine
    raise ValueError(f"unknown engine {name!r}: choose prelude, transformers, vllm or llamacpp")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine")
    parser.add_argument("folder", type=Path)
    parser.add_argument("task")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    task = Task(**json.loads(args.task))
    cores = pin(task.threads)
    start = time.perf_counter()
    engine = build(args.engine)(args.folder, task, args.overrides)
    startup_s = time.perf_counter() - start
    try:
        run = measure(engine, task, startup_s)
    finally:
        engine.close()
    print(MARK + json.dumps({**run, "cores": cores}), flush=True)


def pin(threads: int) -> list[int]:
    """Keep this process on its first ``threads`` cores. Raises ``ValueError`` if it has fewer."""
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(cores):
        raise ValueError(f"threads: {threads} wanted, this process may use {len(cores)} cores")
    os.sched_setaffinity(0, cores[:threads])
    return cores[:threads]


if __name__ == "__main__":
    main()
