"""Ours and the peers, interleaved (A B A B), on the same weights, cores and prompts.

``python -m benchmarks.peers.compare --shape qwen3_0_6b --cache FOLDER`` writes the weights into
the folder once, runs every engine in a process of its own, turn after turn, and prints the ratios
(tables on stderr, the result as one line of JSON on stdout).
"""

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.peers.checkpoint import checkpoint, shape_of
from benchmarks.peers.task import MARK, Task
from prelude.bench import machine
from prelude.bench.observer import Observer
from prelude.bench.probe import probe_apart
from prelude.bench.result import Interval, PeerResult, PeerRun
from prelude.bench.serve import publish
from prelude.bench.stats import summarise
from prelude.openmp import SPIN_COUNT

OURS = "prelude"
PHASES = ("prefill", "decode", "streams")
ROOT = Path(__file__).resolve().parents[2]


class Runner:
    """Starts workers; an engine that failed once is not asked again."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.skipped: dict[str, str] = {}
        self._args = args
        self._folder = folder

    def run(self, engine: str, task: Task) -> PeerRun | None:
        """One turn of one engine, or None with the reason in ``skipped``."""
        if engine in self.skipped:
            return None
        python = self._python(engine)
        if python is None:
            self.skipped[engine] = "not installed; see benchmarks/README.md"
            return None
        overrides = {OURS: self._args.override, "vllm": self._args.vllm_override}.get(engine, [])
        command = [python, "-m", "benchmarks.peers.worker", engine, str(self._folder)]
        command += [task.dumps(), *overrides]
        print(f"turn {task.turn}: {engine}", file=sys.stderr, flush=True)
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, **environment_of(engine)},
                stdout=subprocess.PIPE,
                text=True,
                timeout=self._args.max_s,
            )
        except subprocess.TimeoutExpired:
            self.skipped[engine] = f"not done in --max-s {self._args.max_s:g} seconds"
            return None
        if done.returncode:
            print(done.stdout[-4000:], file=sys.stderr)  # some engines log to stdout
            self.skipped[engine] = f"ended with status {done.returncode}; its words are above"
            return None
        return read_run(done.stdout)

    def _python(self, engine: str) -> str | None:
        if engine == "vllm":
            path = self._args.vllm_python
            return str(path) if path is not None and path.exists() else None
        module = "prelude" if engine == OURS else engine
        return sys.executable if importlib.util.find_spec(module) is not None else None


def read_run(stdout: str) -> PeerRun:
    """The run that a worker printed, whatever its engine printed before and after."""
    (line,) = [line for line in stdout.splitlines() if line.startswith(MARK)]
    return msgspec.json.decode(line.removeprefix(MARK), type=PeerRun)


def environment_of(engine: str) -> dict[str, str]:
    """What an engine reads from its environment and has no argument for."""
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if engine == "vllm":
        return quiet | {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1"}
    if engine == OURS:  # as its command line does; the worker loads torch before it
        return quiet | {"GOMP_SPINCOUNT": SPIN_COUNT}
    return quiet


def compare(args: argparse.Namespace) -> PeerResult:
    """All turns of all engines. Raises ``RuntimeError`` when ours fails."""
    folder = checkpoint(args.shape, args.cache, args.seed)
    task = Task(
        prefill_len=args.prefill,
        prompt_len=args.prompt,
        decode_len=args.decode,
        streams=args.streams,
        repeats=args.repeats,
        threads=args.threads,
        seed=args.seed,
    )
    probe = probe_apart("cpu", args.threads, "float32")
    observer = Observer(probe)
    runner = Runner(args, folder)
    runs = []
    for turn in range(args.turns):
        for engine in [OURS, *args.peers]:
            run = runner.run(engine, replace(task, turn=turn))
            if run is not None:
                runs.append(run)
            elif engine == OURS:
                raise RuntimeError(f"{OURS}: {runner.skipped[OURS]}")
    return PeerResult(
        environment=observer.finish(),
        config=asdict(task)
        | {"turns": args.turns, "override": args.override}
        | {"vllm_override": args.vllm_override},
        shape=shape_of(args.shape),
        runs=runs,
        ratios={peer: ratios(runs, peer) for peer in args.peers if peer not in runner.skipped},
        equal_ids={peer: equal_ids(runs, peer) for peer in args.peers},
        skipped=runner.skipped,
    )


def ratios(runs: Sequence[PeerRun], peer: str) -> dict[str, Interval]:
    """How many times faster ours is than ``peer``, by phase: the median over pairs of equal
    prompts, with its bootstrap interval."""
    found = {}
    for phase in PHASES:
        pairs = [
            (theirs, ours)
            for turn in {run.turn for run in runs}
            for theirs, ours in zip(
                _samples(runs, peer, turn, phase), _samples(runs, OURS, turn, phase), strict=True
            )
        ]
        summary = summarise([theirs / ours for theirs, ours in pairs])
        assert summary is not None
        found[phase] = summary.p50
    return found


def equal_ids(runs: Sequence[PeerRun], peer: str) -> tuple[int, int]:
    """Greedy tokens that agree before the first that does not, and how many there were, over all
    turns that both took."""
    equal, total = 0, 0
    for theirs in (run for run in runs if run.engine == peer):
        (ours,) = [run for run in runs if run.engine == OURS and run.turn == theirs.turn]
        pairs = list(zip(ours.first_ids, theirs.first_ids, strict=True))
        total += len(pairs)
        equal += next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    return equal, total


def _samples(runs: Sequence[PeerRun], engine: str, turn: int, phase: str) -> list[float]:
    (run,) = [run for run in runs if run.engine == engine and run.turn == turn]
    samples: list[float] = getattr(run, f"{phase}_samples_ms")
    return samples


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = len(machine.my_cores())
    parser.add_argument("--shape", default="qwen3_0_6b", help="a model=NAME with random weights")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the weights")
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=["transformers", "vllm"],
        help="default: transformers, and vllm where --vllm-python is given",
    )
    parser.add_argument("--turns", type=int, default=2, help="of each engine")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs in a turn")
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--prefill", type=int, default=512, help="tokens of the long prompt")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of the short prompts")
    parser.add_argument("--decode", type=int, default=32, help="tokens to generate")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-s", type=float, default=900.0, help="limit of one turn")
    parser.add_argument("--vllm-python", type=Path, help="interpreter of vLLM's environment")
    parser.add_argument("--override", action="append", default=[], help="of our configuration")
    parser.add_argument(
        "--vllm-override", action="append", default=[], help="argument of vLLM's LLM as NAME=JSON"
    )
    parser.add_argument("--result", help="file for the result")
    args = parser.parse_args(argv)
    if args.peers is None:
        args.peers = ["transformers"] + ["vllm"] * (args.vllm_python is not None)
    for name in ("turns", "repeats", "threads", "prefill", "prompt", "decode", "streams"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    return publish(compare(args), args.result)


if __name__ == "__main__":
    main()
