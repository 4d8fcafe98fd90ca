"""``run``: options and overrides in; table, plot and report out."""

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from prelude.conf.compose import ConfigError
from prelude.conf.sweep import Search, SweepOptions
from prelude.sweep.outcome import Outcome, load_outcome, save
from prelude.sweep.points import Point, Space, grid, space_of, without_secret
from prelude.sweep.pool import MakePool, processes, run_all
from prelude.sweep.report import write
from prelude.sweep.search import after_search, problem, search
from prelude.sweep.study import check_choices
from prelude.sweep.targets import TARGETS
from prelude.sweep.worker import Task

MAX_JOBS = 1024


class Watch(Protocol):
    """Told of every point that is there."""

    def __call__(self, outcome: Outcome, *, is_new: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """A sweep that has been checked."""

    space: Space
    options: SweepOptions
    folder: Path
    command: str
    make: MakePool
    jobs: int


def sweep(
    name: str,
    options: SweepOptions,
    lines: Sequence[str],
    config_dirs: Sequence[str] = (),
    command: Sequence[str] = (),
) -> int:
    """Run a sweep of ``TARGETS[name]``; prints the report's path. 1 if a point failed.

    ``lines`` are overrides of the target; ``command`` is what the report says it was made by.
    Raises ``ValueError`` for what cannot run, before anything has.
    """
    space = space_of(name, TARGETS[name], [*options.params, *lines], config_dirs)
    check(options)
    found = problem(space, options) if options.search is Search.optuna else None
    points = [] if found else grid(space, options.max_points)
    if found is None:
        check_choices(space, options, points)
    plan = planned(space, options, shlex.join(map(without_secret, command)))
    total = options.trials * len(found.rest) if found else len(points)
    with _bar(options, total) as watch:
        if found is None:
            outcomes = gather(plan, points, watch)
        else:
            at_once = max(plan.jobs // len(found.rest), 1)
            points, outcomes = search(found, at_once, lambda some: gather(plan, some, watch))
            options = after_search(options, space, points, outcomes)
    print(write(plan.folder, plan.space, options, points, outcomes, plan.command))
    failed = sum(bool(outcome.error) for outcome in outcomes)
    if failed:
        print(f"{failed} of {len(outcomes)} points failed; see the report", file=sys.stderr)
    return 1 if failed else 0


def check(options: SweepOptions) -> None:
    """Raises ``ConfigError`` naming the key that is out of bounds."""
    for name, value, low, high in (
        ("jobs", options.jobs or 1, 1, MAX_JOBS),
        ("timeout_s", options.timeout_s, 0.001, 7 * 86400),
        ("max_points", options.max_points, 1, 1_000_000),
        ("trials", options.trials, 1, 1_000_000),
        ("resamples", options.resamples, 0, 1_000_000),
    ):
        if not low <= value <= high:
            raise ConfigError(f"sweep.{name}: must be between {low} and {high}, not {value}")
    if len(options.pareto) not in (0, 2):
        raise ConfigError("sweep.pareto: two metrics, as [chat.ttft_ms.p99,total.output_tok_s]")


def planned(space: Space, options: SweepOptions, command: str) -> Plan:
    """Makes the folder."""
    folder = Path(options.out or f"runs/sweep-{space.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    folder.mkdir(parents=True, exist_ok=True)
    jobs = options.jobs or _default_jobs(space)
    make = processes(jobs, folder, is_alone=space.target.is_alone)
    return Plan(space, options, folder, command, make, jobs)


def gather(plan: Plan, points: Sequence[Point], watch: Watch) -> list[Outcome]:
    """An outcome for each point, in their order: those on disk, and then those that had to be
    run. Points of one configuration are run once."""
    folder = plan.folder / "points"
    found: dict[str, Outcome] = {}
    for digest in dict.fromkeys(point.digest for point in points):
        if (outcome := load_outcome(folder, digest)) is not None:
            found[digest] = outcome
            watch(outcome, is_new=False)
    missing = {point.digest: point for point in points if point.digest not in found}
    tasks = [_task(plan, point) for point in missing.values()]
    for outcome in run_all(tasks, plan.jobs, plan.make):
        save(folder, outcome)
        found[outcome.digest] = outcome
        watch(outcome, is_new=True)
    return [found[point.digest] for point in points]


def _task(plan: Plan, point: Point) -> Task:
    space = plan.space
    return Task(
        target=space.name,
        config=point.config,
        arguments=space.arguments(point),
        overrides=list(point.overrides),
        digest=point.digest,
        timeout_s=plan.options.timeout_s,
    )


def _default_jobs(space: Space) -> int:
    """Simulations share nothing; whatever is timed wants the machine to itself."""
    return 1 if space.target.is_alone else max(len(os.sched_getaffinity(0)) - 1, 1)


@contextmanager
def _bar(options: SweepOptions, total: int) -> Iterator[Watch]:
    """A bar on a terminal, a line for each point elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("sweep"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    is_shown = options.progress and console.is_terminal
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not is_shown
    ) as bar:
        task = bar.add_task("sweep", total=total or None)

        def watch(outcome: Outcome, *, is_new: bool) -> None:
            bar.advance(task)
            if outcome.error or (is_new and options.progress and not is_shown):
                words = outcome.error or f"{outcome.wall_s:.1f} s"
                bar.console.print(
                    f"{' '.join(outcome.overrides)}: {words}", markup=False, soft_wrap=True
                )

        yield watch
