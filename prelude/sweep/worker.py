"""One point in a worker process: whatever goes wrong with it becomes part of its outcome."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing import parent_process
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from prelude.bench import machine
from prelude.sweep.measures import curves_of, measures_of
from prelude.sweep.outcome import Outcome
from prelude.sweep.targets import TARGETS, samples_of


class Task(msgspec.Struct, frozen=True):
    """A point on its way to a worker. ``arguments`` is its command line."""

    target: str
    config: Any
    arguments: list[str]
    overrides: list[str]
    digest: str
    timeout_s: float


class OutOfTime(BaseException):
    """No target may mistake this for an error of its own and go on."""


def start_worker(log: str) -> None:
    """What a worker and its children print goes to one file beside the results. An interrupt from
    the terminal, which reaches everybody, ends it at once: it must not become a point's outcome.
    Nor does it outlive who would have taken that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def run_task(task: Task) -> Outcome:
    """Measure a point. Never raises what a target can raise: the outcome carries it."""
    begun_s, started = time.perf_counter(), datetime.now(UTC)
    result, error = None, ""
    try:
        with limit(task.timeout_s):
            result = TARGETS[task.target].measure(task.config, task.arguments)
    except (Exception, OutOfTime) as caught:
        error = f"{type(caught).__name__}: {caught}"
    outcome = Outcome(
        digest=task.digest,
        overrides=task.overrides,
        wall_s=round(time.perf_counter() - begun_s, 3),
        started_utc=started.isoformat(timespec="seconds"),
        versions=machine.versions(),
        error=error,
    )
    return outcome if result is None else filled(outcome, result)


def filled(outcome: Outcome, result: msgspec.Struct) -> Outcome:
    """The outcome with what the result says."""
    document = msgspec.to_builtins(result)
    document.pop("samples", None)
    return msgspec.structs.replace(
        outcome,
        measures=measures_of(result),
        curves=curves_of(samples_of(result)),
        warnings=list(getattr(result, "warnings", [])),
        result=document,
    )


def lost(task: Task, error: str) -> Outcome:
    """The outcome of a point whose worker did not come back."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Outcome(task.digest, task.overrides, 0.0, now, machine.versions(), error)


@contextmanager
def limit(timeout_s: float) -> Iterator[None]:
    """Raises ``OutOfTime`` inside the block when the time is up. Main thread only."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime(f"not finished in sweep.timeout_s={timeout_s:g}")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def log_path(folder: Path) -> Path:
    return folder / "workers.log"
