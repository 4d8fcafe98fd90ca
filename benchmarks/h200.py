"""What a first run on an H200 must bring home, in one command of less than ten minutes:

    python -m benchmarks.h200 --out FOLDER          (on the device; see h200.sh)
    python -m benchmarks.h200 --out FOLDER --dry-run  (anywhere: tiny shapes on the CPU)

Each part is a process of its own with a share of the time; what it leaves over, later parts may
use, and a part that overruns is ended. ``h200.json`` is written again after every part (command,
seconds, status, the last line of JSON it printed, its last words), ``h200.log`` has all output, so
that whatever happens the parts done so far are there.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
TAIL = 4000
KILL_S = 5.0


@dataclass(frozen=True, slots=True)
class Part:
    """A command and its seconds; ``words`` follow the interpreter, or are a shell's if one."""

    name: str
    words: tuple[str, ...]
    seconds: float

    @property
    def command(self) -> list[str]:
        if len(self.words) == 1:
            return ["sh", "-c", self.words[0]]
        return [sys.executable, *self.words]


@dataclass(frozen=True, slots=True)
class Outcome:
    """``status`` is the exit status, or null where the part was ended or never started."""

    command: str
    seconds: float
    status: int | None
    result: Any
    tail: str


ENVIRONMENT = """
nvidia-smi -L; nvidia-smi --query-gpu=clocks.sm,clocks.mem,power.draw,memory.used --format=csv
nproc; uname -r; nvcc --version | tail -2
python3 -c "
from importlib.metadata import version
for name in ('torch', 'triton', 'transformers', 'numpy', 'flashinfer-python', 'apache-tvm-ffi'):
    try: print(name, version(name))
    except Exception as error: print(name, 'is missing')"
true
"""


def cuda_tests() -> list[str]:
    """The tests that need a GPU, by the files that have some: others import what the device's
    image may not have."""
    files = [p for p in (ROOT / "tests").rglob("test_*.py") if "mark.cuda" in p.read_text()]
    options = ("-q", "-m", "cuda", "--continue-on-collection-errors")
    return ["-m", "pytest", *options, *(str(path.relative_to(ROOT)) for path in sorted(files))]


def device_parts() -> list[Part]:
    """570 seconds of an H200, what matters most first."""
    cuda = ("runner.device=cuda", "cache.memory_gib=60")
    decode = ("-m", "prelude", "bench", "engine", "workload=decode", *cuda, "bench.contexts=[1024]")
    service = ["-m", "benchmarks.service", "--model", "qwen3_4b"]
    for override in (*cuda, "batcher.max_step_tokens=8192"):
        service += ["--override", override]
    return [
        Part("environment", (ENVIRONMENT,), 10),
        Part("ceilings", ("-m", "prelude.bench.probe", "cuda", "16", "bfloat16"), 30),
        Part("correctness", (*cuda_tests(), "--timeout=100", "-W", "default"), 130),
        Part("decode_4b", (*decode, "model=qwen3_4b", "bench.batches=[1,8,32,128]"), 90),
        Part("prefill_512", (*service, "--loads", "1", "96", "--max-s", "40"), 90),
        Part("decode_8b", (*decode, "model=qwen3_8b", "bench.batches=[1,32]"), 70),
        Part("idle", ("-m", "benchmarks.idle", *cuda, "model=qwen3_8b"), 50),
        Part("kernels", ("-m", "benchmarks.kernels_triton", "--seconds", "0.1"), 100),
    ]


def dry_parts() -> list[Part]:
    """The same parts on a tiny shape, as far as a CPU can go."""
    eager = ("runner.threads=1", "graphs.capture=eager")
    small = ("bench.batches=[1,2]", "bench.contexts=[16]", "bench.steps=2", "bench.probe=false")
    decode = ("-m", "prelude", "bench", "engine", "workload=decode", "model=tiny", *eager, *small)
    prompt = "classes.prefill.prompt.value=40"
    service = ("-m", "benchmarks.service", "--small", "--override", eager[1], "--set", prompt)
    return [
        Part("environment", (ENVIRONMENT,), 15),
        Part("ceilings", ("-m", "prelude.bench.probe", "cpu", "1", "float32"), 60),
        Part("correctness", (*cuda_tests(), "--collect-only"), 120),
        Part("decode_4b", decode, 60),
        Part("prefill_512", service, 120),
        Part("decode_8b", decode, 60),
        Part("idle", ("-m", "benchmarks.idle", "--context", "16", "model=tiny", *eager), 60),
        Part("kernels", ("-m", "benchmarks.kernels_triton", "--check", "--only", "decode"), 120),
    ]


def run_all(
    parts: Sequence[Part],
    out: Path,
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Outcome]:
    """Run the parts in order within ``budget_s``; what is left of a share goes to later parts."""
    out.mkdir(parents=True, exist_ok=True)
    start_s, due_s = clock(), 0.0
    outcomes: dict[str, Outcome] = {}
    with (out / "h200.log").open("w") as log:
        for part in parts:
            due_s += part.seconds
            left_s = min(due_s, budget_s) - (clock() - start_s)
            outcomes[part.name] = run_part(part, left_s, log)
            print(summary(part.name, outcomes[part.name]), flush=True)
            save(out / "h200.json", outcomes)
    return outcomes


def run_part(part: Part, limit_s: float, log: IO[str]) -> Outcome:
    """Run one part for at most ``limit_s``; its whole process group ends with it."""
    command = shlex.join(["python", *part.words]) if len(part.words) > 1 else "a shell's commands"
    if limit_s <= 0:
        return Outcome(command, 0.0, None, None, "no time was left")
    start = time.monotonic()
    child = subprocess.Popen(
        part.command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, status = child.communicate(timeout=limit_s)[0], child.returncode
    except subprocess.TimeoutExpired:
        output, status = end_group(child), None
    output = output.replace(str(ROOT), ".")
    log.write(f"==== {part.name}: {command}\n{output}\n")
    log.flush()
    return Outcome(
        command, round(time.monotonic() - start, 1), status, last_json(output), output[-TAIL:]
    )


def end_group(child: subprocess.Popen[str]) -> str:
    """Ask the process group to end, then make it; what it had printed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        try:
            return child.communicate(timeout=KILL_S)[0]
        except subprocess.TimeoutExpired:
            continue
    raise RuntimeError(f"process group {child.pid} does not end")


def last_json(output: str) -> Any:
    """The last line that is a JSON object, or None."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                return json.loads(line)
    return None


def summary(name: str, outcome: Outcome) -> str:
    state = "ended or not started" if outcome.status is None else f"status {outcome.status}"
    last = outcome.tail.strip().splitlines()[-1:] or [""]
    return f"{name:<12} {outcome.seconds:6.1f} s  {state}  {last[0][:80]}"


def save(path: Path, outcomes: dict[str, Outcome]) -> None:
    """Whole or not at all: whoever reads it while a part runs sees the parts before."""
    document = {
        "benchmark": "h200",
        "version": 1,
        "parts": {name: asdict(outcome) for name, outcome in outcomes.items()},
    }
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(document) + "\n")
    unfinished.rename(path)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for h200.json and h200.log")
    parser.add_argument("--budget-s", type=float, default=570.0, help="of all parts together")
    parser.add_argument("--only", nargs="+", help="names of parts")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    args = parser.parse_args(argv)
    parts = dry_parts() if args.dry_run else device_parts()
    unknown = set(args.only or ()) - {part.name for part in parts}
    if unknown:
        parser.error(f"--only: no part {', '.join(sorted(unknown))}")
    chosen = [part for part in parts if args.only is None or part.name in args.only]
    outcomes = run_all(chosen, args.out, args.budget_s)
    return int(any(outcome.status != 0 for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
