"""The captured programs of a runner: declared at start, captured between steps, then replayed.

Until a program is captured the same code runs uncaptured, so a server answers at once. The largest
are captured first: smaller ones then fit into the memory that those have used.
"""

import logging
import time
from collections.abc import Hashable
from dataclasses import dataclass

from prelude.graphs.queue import DeviceQueue, Work
from prelude.types.plan import ProgramCount

logger = logging.getLogger(__name__)

_STALL_S = 0.15  # a step boundary may take that long: the next capture may double it


@dataclass(slots=True)
class _Program:
    work: Work
    prepare: Work
    size: int
    replay: Work | None = None


class GraphPool:
    """Programs by key. Without ``captures`` all stay as they are (``graphs.capture=eager``)."""

    def __init__(self, queue: DeviceQueue, *, captures: bool = True) -> None:
        self._queue = queue
        self._programs: dict[Hashable, _Program] = {}
        self._pending: list[Hashable] = []
        self._captures = captures
        self._missed: set[Hashable] = set()
        self._num_missed = 0

    def declare(self, key: Hashable, work: Work, prepare: Work, size: int) -> None:
        """``work`` launches kernels on static buffers; ``prepare`` fills those with a harmless
        step, outside the capture. ``size`` orders programs by the memory they use."""
        self._programs[key] = _Program(work, prepare, size)
        if self._captures:
            self._pending.append(key)
            self._pending.sort(key=lambda k: self._programs[k].size)

    def run(self, key: Hashable) -> None:
        """Enqueue a declared program."""
        program = self._programs[key]
        self._queue.run(program.replay or program.work)

    def run_undeclared(self, key: Hashable, work: Work) -> None:
        """Enqueue a step that no program was made for. Counted, and said once for every key."""
        self._num_missed += 1
        if key not in self._missed:
            self._missed.add(key)
            logger.warning(
                "no captured program for %s: it runs uncaptured, slower; see graphs.buckets", key
            )
        self._queue.run(work)

    @property
    def count(self) -> ProgramCount:
        """Programs whose code always runs uncaptured are ready as they are."""
        return ProgramCount(
            ready=len(self._programs) - len(self._pending),
            total=len(self._programs),
            missed=self._num_missed,
        )

    def capture_some(self, seconds: float = _STALL_S) -> list[Hashable]:
        """Capture the largest pending programs for about ``seconds``; returns their keys."""
        start = time.perf_counter()
        done: list[Hashable] = []
        while self._pending and (not done or time.perf_counter() - start < seconds):
            key = self._pending.pop()
            program = self._programs[key]
            program.prepare()
            program.replay = self._queue.capture(program.work)
            done.append(key)
        if done and not self._pending:
            logger.info("all %d programs are captured", len(self._programs))
        return done
