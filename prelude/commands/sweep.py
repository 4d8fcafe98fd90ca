"""Sweeps: every combination of the values that overrides list, each in a process of its own, so
that no run inherits another's memory, threads or compiled programs.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prelude.conf.command import Command
from prelude.conf.compose import ConfigError, parse_overrides
from prelude.conf.load import load

MAX_POINTS = 1000


@dataclass(frozen=True, slots=True)
class Point:
    """One finished run: its overrides, its exit code and the file that holds its result."""

    overrides: list[str]
    exit_code: int
    result: str


def expand(lines: Sequence[str]) -> list[list[str]]:
    """The product of Hydra's choice and range sweeps, last one fastest. Raises ``ConfigError``."""
    axes = []
    for override in parse_overrides(lines):
        if not override.is_sweep_override():
            assert override.input_line is not None
            axes.append([override.input_line])
        elif override.is_discrete_sweep() and "glob(" not in str(override.input_line):
            key = override.get_key_element()
            axes.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            raise ConfigError(f"{override.input_line}: only A,B,C and range(a,b) can be swept")
    return [list(point) for point in itertools.product(*axes)]


def sweep(
    name: str,
    command: Command,
    overrides: Sequence[str],
    config_dirs: Sequence[str],
    out: Path | None,
) -> int:
    """Run ``prelude bench NAME`` for every point; all are checked before the first one starts.

    Writes ``N/result.json`` for each and ``sweep.json`` over all; 1 if any run failed.
    """
    points = expand(overrides)
    if len(points) > MAX_POINTS:
        raise ConfigError(f"{len(points)} runs in this sweep; at most {MAX_POINTS}")
    for point in points:
        load(command, command.schema, point, config_dirs=config_dirs)
    folder = out or Path("runs") / f"bench-{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True, exist_ok=True)
    flags = [flag for item in config_dirs for flag in ("--config-dir", item)]
    base = [sys.executable, "-m", "prelude", "bench", name, *flags]
    done = []
    for number, point in enumerate(points):
        print(f"[{number + 1}/{len(points)}] {' '.join(point)}", file=sys.stderr, flush=True)
        done.append(_run_point([*base, *point], point, folder / str(number)))
        text = json.dumps([_record(item) for item in done], indent=1)
        (folder / "sweep.json").write_text(text + "\n")
    print(folder / "sweep.json")
    return 1 if any(point.exit_code for point in done) else 0


def _run_point(command: Sequence[str], point: list[str], folder: Path) -> Point:
    """The child's stdout, whose last line is the result, goes to a file; its stderr is ours."""
    folder.mkdir(exist_ok=True)
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    path = folder / "result.json"
    path.write_text("".join(run.stdout.splitlines(keepends=True)[-1:]))
    return Point(point, run.returncode, str(path))


def _record(point: Point) -> dict[str, object]:
    return {
        "overrides": point.overrides,
        "exit_code": point.exit_code,
        "result": point.result,
    }
