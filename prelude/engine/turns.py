"""A few threads for the work of many owners: in turn, and never all of them for one owner."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Job(Generic[T]):
    """``future`` is what ``work`` comes to, for everybody who wants it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work
        self.future: Future[T] = Future()
        self.owners: Counter[str] = Counter()
        self.is_begun = False


class Turns(Generic[T]):
    """At most ``num_threads`` jobs run at once, and at most ``most_each`` on one owner's account.
    Where more wait, owners take turns; each one's come in the order it wanted them. A job that
    several owners want is begun at the first one's turn. Safe to use from several threads."""

    def __init__(self, num_threads: int, most_each: int, name: str) -> None:
        self._most_each = most_each
        self._num_free = num_threads
        self._threads = ThreadPoolExecutor(num_threads, name)
        self._lock = threading.Lock()
        self._lanes: OrderedDict[str, dict[Job[T], None]] = OrderedDict()
        self._running: Counter[str] = Counter()

    def want(self, job: Job[T], owner: str) -> None:
        """Once for each who waits for it."""
        with self._lock:
            job.owners[owner] += 1
            if not job.is_begun:
                self._lanes.setdefault(owner, {})[job] = None
                self._begin()

    def leave(self, job: Job[T], owner: str) -> bool:
        """One who wanted it does no longer. True if nobody else does and it will not be begun."""
        with self._lock:
            job.owners[owner] -= 1
            if job.owners[owner] <= 0:
                del job.owners[owner]
                if not job.is_begun:
                    self._leave_lane(job, owner)
            return not (job.is_begun or job.owners)

    def close(self) -> None:
        """Nothing is begun any more; what runs is not waited for."""
        with self._lock:
            self._most_each = 0
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> None:
        while self._num_free > 0 and (found := self._next()) is not None:
            job, owner = found
            job.is_begun = True
            self._num_free -= 1
            self._running[owner] += 1
            self._threads.submit(self._run, job, owner)

    def _next(self) -> tuple[Job[T], str] | None:
        for owner, lane in self._lanes.items():
            if self._running[owner] < self._most_each:
                self._lanes.move_to_end(owner)
                job = next(iter(lane))
                for other in job.owners:
                    self._leave_lane(job, other)
                return job, owner
        return None

    def _leave_lane(self, job: Job[T], owner: str) -> None:
        lane = self._lanes[owner]
        del lane[job]
        if not lane:
            del self._lanes[owner]

    def _run(self, job: Job[T], owner: str) -> None:
        try:
            job.future.set_result(job.work())
        except BaseException as error:  # whoever waits has to hear of it
            job.future.set_exception(error)
        with self._lock:
            self._num_free += 1
            self._running[owner] -= 1
            if self._running[owner] <= 0:
                del self._running[owner]
            self._begin()
