"""Points over worker processes, a few at a time, and no point lost to another's end."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import active_children, get_context
from pathlib import Path

from prelude.sweep.outcome import Outcome
from prelude.sweep.worker import Task, log_path, lost, run_task, start_worker

MakePool = Callable[[], Executor]


def processes(jobs: int, folder: Path, *, is_alone: bool) -> MakePool:
    """Pools of ``jobs`` fresh interpreters, whose output goes to a log in ``folder``; with
    ``is_alone`` none of them runs two points."""

    def make() -> Executor:
        return ProcessPoolExecutor(
            jobs,
            mp_context=get_context("spawn"),
            initializer=start_worker,
            initargs=(str(log_path(folder)),),
            max_tasks_per_child=1 if is_alone else None,
        )

    return make


def run_all(tasks: Iterable[Task], jobs: int, make: MakePool) -> Iterator[Outcome]:
    """Outcomes as they come, in any order. A worker that dies fails the points that were running,
    and the others go on in new ones. Nobody waits for points whose outcome nobody will take."""
    waiting = iter(tasks)
    others = set(active_children())
    running: dict[Future[Outcome], Task] = {}
    pool = make()
    try:
        while True:
            for task in islice(waiting, jobs - len(running)):
                running[pool.submit(run_task, task)] = task
            if not running:
                return
            done = wait(running, return_when=FIRST_COMPLETED).done
            if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
                done = set(running)  # it takes all of them along
                pool.shutdown(wait=True)
                pool = make()
            for future in done:
                yield _outcome(future, running.pop(future))
    except BaseException:
        for worker in set(active_children()) - others:
            worker.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _outcome(future: Future[Outcome], task: Task) -> Outcome:
    error = future.exception()
    if isinstance(error, BrokenProcessPool):
        return lost(task, "a worker process died while this point ran")
    return future.result() if error is None else lost(task, f"{type(error).__name__}: {error}")
