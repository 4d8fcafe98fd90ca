"""Ours and the peers, interleaved (A B A B), on the same weights, cores and prompts.

``python -m benchmarks.peers.compare --shape qwen3_0_6b --cache FOLDER`` writes the weights into
the folder once, runs every engine in a process of its own, turn after turn, and prints the ratios
(tables on stderr, the result as one line of JSON on stdout). The roof is probed before and after
each run, because memory bandwidth of a shared host changes within minutes.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.peers.checkpoint import checkpoint, shape_of
from benchmarks.peers.engines import ENGINES, PEERS, QUIET, lineup
from benchmarks.peers.gguf_file import gguf_file
from benchmarks.peers.roof import PHASES, roof_shares
from benchmarks.peers.task import MARK, Task
from prelude.bench import machine
from prelude.bench.observer import Observer
from prelude.bench.probe import probe_apart
from prelude.bench.result import Interval, PeerResult, PeerRun
from prelude.bench.serve import publish
from prelude.bench.stats import summarise
from prelude.models.spec import read_spec

REFERENCE = "transformers"
ROOT = Path(__file__).resolve().parents[2]


class Runner:
    """Starts workers; an engine that failed once is not asked again."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.skipped: dict[str, str] = {}
        self._args = args
        self._folder = folder

    def run(self, name: str, task: Task) -> PeerRun | None:
        """One turn of one engine, or None with the reason in ``skipped``."""
        if name in self.skipped:
            return None
        python = self._python(ENGINES[name].module)
        if python is None:
            self.skipped[name] = "not installed; see benchmarks/README.md"
            return None
        print(f"turn {task.turn}: {name}", file=sys.stderr, flush=True)
        try:
            done = subprocess.run(
                [python, "-m", "benchmarks.peers.worker", *self._arguments(name, task)],
                cwd=ROOT,
                env={**os.environ, **QUIET, **ENGINES[name].environment},
                stdout=subprocess.PIPE,
                text=True,
                timeout=self._args.max_s,
            )
        except subprocess.TimeoutExpired:
            self.skipped[name] = f"not done in --max-s {self._args.max_s:g} seconds"
            return None
        if done.returncode:
            print(done.stdout[-4000:], file=sys.stderr)  # some engines log to stdout
            self.skipped[name] = f"ended with status {done.returncode}; its words are above"
            return None
        return msgspec.structs.replace(read_run(done.stdout), engine=name)

    def _arguments(self, name: str, task: Task) -> list[str]:
        engine = ENGINES[name]
        if engine.gguf is not None:
            gguf_file(self._folder, engine.gguf)
        extra = {
            "prelude": self._args.override,
            "vllm": self._args.vllm_override,
            "llamacpp": self._args.llamacpp_override,
        }.get(engine.module, [])
        return [engine.module, str(self._folder), task.dumps(), *engine.overrides, *extra]

    def _python(self, module: str) -> str | None:
        apart = {"vllm": self._args.vllm_python, "llamacpp": self._args.llamacpp_python}
        if module in apart:
            path = apart[module]
            return str(path) if path is not None and path.exists() else None
        return sys.executable if importlib.util.find_spec(module) is not None else None


def read_run(stdout: str) -> PeerRun:
    """The run that a worker printed, whatever its engine printed before and after."""
    (line,) = [line for line in stdout.splitlines() if line.startswith(MARK)]
    return msgspec.json.decode(line.removeprefix(MARK), type=PeerRun)


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
    probes = [probe_apart("cpu", args.threads, "float32")]
    observer = Observer(probes[0])
    runner = Runner(args, folder)
    runs: list[PeerRun] = []
    start_s = time.monotonic()
    for turn in range(args.turns):
        if turn and time.monotonic() - start_s > args.budget_s:
            break
        for name in lineup(args.peers):
            run = runner.run(name, replace(task, turn=turn))
            if run is not None:
                runs.append(run)
                probes.append(probe_apart("cpu", args.threads, "float32"))
            elif name == "prelude":
                raise RuntimeError(f"prelude: {runner.skipped[name]}")
    complete = [peer for peer in args.peers if not {peer, ENGINES[peer].rival} & {*runner.skipped}]
    return PeerResult(
        environment=observer.finish(),
        config=asdict(task)
        | {"turns": args.turns, "override": args.override}
        | {"vllm_override": args.vllm_override, "llamacpp_override": args.llamacpp_override},
        shape=shape_of(args.shape),
        runs=runs,
        ratios={peer: ratios(runs, peer) for peer in complete},
        equal_ids=equal_ids(runs),
        skipped=runner.skipped,
        probes=probes,
        roof_shares=roof_shares(runs, read_spec(shape_of(args.shape)), task, probes),
    )


def ratios(runs: Sequence[PeerRun], peer: str) -> dict[str, Interval]:
    """How many times faster ours is than ``peer``, by phase: the median over pairs of equal
    prompts, with its bootstrap interval."""
    ours_name = ENGINES[peer].rival
    found = {}
    for phase in PHASES:
        pairs = [
            (theirs, ours)
            for turn in {run.turn for run in runs}
            for theirs, ours in zip(
                _samples(runs, peer, turn, phase),
                _samples(runs, ours_name, turn, phase),
                strict=True,
            )
        ]
        summary = summarise([theirs / ours for theirs, ours in pairs])
        assert summary is not None
        found[phase] = summary.p50
    return found


def equal_ids(runs: Sequence[PeerRun]) -> dict[str, tuple[int, int]]:
    """By engine: greedy tokens that agree with the reference (transformers if it ran, else ours)
    before the first that does not, and how many there were, over all turns that both took."""
    names = list(dict.fromkeys(run.engine for run in runs))
    reference = REFERENCE if REFERENCE in names else "prelude"
    expected = {run.turn: run.first_ids for run in runs if run.engine == reference}
    return {
        name: _agreement([run for run in runs if run.engine == name], expected)
        for name in names
        if name != reference
    }


def _agreement(runs: Sequence[PeerRun], expected: dict[int, list[int]]) -> tuple[int, int]:
    equal, total = 0, 0
    for run in (run for run in runs if run.turn in expected):
        pairs = list(zip(expected[run.turn], run.first_ids, strict=True))
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
        choices=PEERS,
        help="default: transformers, and those whose interpreter is given",
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
    parser.add_argument(
        "--budget-s", type=float, default=3600.0, help="after it no further turn begins"
    )
    parser.add_argument("--vllm-python", type=Path, help="interpreter of vLLM's environment")
    parser.add_argument("--llamacpp-python", type=Path, help="interpreter of llama.cpp's")
    parser.add_argument("--override", action="append", default=[], help="of our configuration")
    parser.add_argument(
        "--vllm-override", action="append", default=[], help="argument of vLLM's LLM as NAME=JSON"
    )
    parser.add_argument(
        "--llamacpp-override",
        action="append",
        default=[],
        help="field of llama.cpp's context as NAME=JSON",
    )
    parser.add_argument("--result", help="file for the result")
    args = parser.parse_args(argv)
    if args.peers is None:
        args.peers = ["transformers"] + ["vllm"] * (args.vllm_python is not None)
        args.peers += ["llamacpp", "llamacpp-q8_0"] * (args.llamacpp_python is not None)
    for name in ("turns", "repeats", "threads", "prefill", "prompt", "decode", "streams"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    return publish(compare(args), args.result)


if __name__ == "__main__":
    main()
