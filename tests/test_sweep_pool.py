"""Workers: what goes wrong in one point stays there."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from prelude.sweep import worker
from prelude.sweep.outcome import Outcome, load_outcome, save
from prelude.sweep.pool import processes, run_all
from prelude.sweep.targets import TARGETS
from prelude.sweep.worker import OutOfTime, Task, limit, run_task
from tests.simulations import small


def task(digest: str = "d", **changes: Any) -> Task:
    plain = Task("simulate", small(num_requests=40), [], ["a=1"], digest, 60.0)
    return Task(
        **{name: changes.get(name, getattr(plain, name)) for name in plain.__struct_fields__}
    )


def test_a_point_leaves_its_measures_curves_and_result() -> None:
    outcome = run_task(task())
    assert outcome.error == "" and outcome.overrides == ["a=1"] and outcome.wall_s > 0
    values = outcome.values()
    assert {"total.output_tok_s", "chat.ttft_ms.p99", "run.fairness", "run.busy"} <= set(values)
    assert outcome.result is not None and "samples" not in outcome.result
    assert outcome.result["total"]["output_tok_s"] == values["total.output_tok_s"]
    curve = outcome.curves["chat"]["ttft_ms"]
    assert curve == sorted(curve)
    assert curve[0] <= values["chat.ttft_ms.p50"] <= curve[-1]
    assert any("asked for" in warning for warning in outcome.warnings)


def test_an_error_becomes_the_outcomes() -> None:
    config = small()
    outcome = run_task(task(config=replace(config, warmup_share=2.0)))
    assert outcome.error.startswith("ValueError: warmup_share")
    assert (outcome.measures, outcome.result) == ([], None)


def test_a_point_has_so_long_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    def stubborn(config: object, arguments: object) -> None:
        while True:
            try:
                os.kill(os.getpid(), signal.SIGALRM)
            except Exception:  # targets may go on after errors of their own
                continue

    never = replace(TARGETS["simulate"], measure=stubborn)  # type: ignore[arg-type]
    monkeypatch.setattr(worker, "TARGETS", {"simulate": never})
    assert run_task(task(timeout_s=50.0)).error == "OutOfTime: not finished in sweep.timeout_s=50"


def test_the_limit_is_gone_after_the_block() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(OutOfTime), limit(1e-6):
        while True:
            time.perf_counter()
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def done(number: int) -> Outcome:
    return Outcome(str(number), [], 0.0, "", {})


class Rig:
    """Threads for processes; tasks named in ``deadly`` take their whole pool along."""

    def __init__(self, deadly: frozenset[str] = frozenset()) -> None:
        self.deadly, self.pools, self.most, self.running = deadly, 0, 0, 0

    def make(self) -> Executor:
        self.pools += 1
        return _Pool(self)


class _Pool(ThreadPoolExecutor):
    def __init__(self, rig: Rig) -> None:
        super().__init__(1)
        self.rig, self.is_broken = rig, False
        self.open: list[Future[Any]] = []

    def submit(self, function: Any, item: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:  # type: ignore[override]
        future: Future[Any] = Future()
        self.open.append(future)
        self.rig.most = max(self.rig.most, sum(not future.done() for future in self.open))
        if item.digest in self.rig.deadly:
            for other in self.open:
                if not other.done():
                    other.set_exception(BrokenProcessPool("gone"))
        else:
            future.set_result(done(int(item.digest)))
        return future


def ran(rig: Rig, num: int, jobs: int) -> Iterator[Outcome]:
    return run_all([task(str(number)) for number in range(num)], jobs, rig.make)


def test_every_task_has_one_outcome_and_no_more_run_than_should() -> None:
    rig = Rig()
    assert sorted(outcome.digest for outcome in ran(rig, 7, 3)) == [str(n) for n in range(7)]
    assert rig.pools == 1 and rig.most <= 3


def test_a_dead_worker_fails_its_point_and_the_others_go_on() -> None:
    rig = Rig(frozenset("2"))
    outcomes = {outcome.digest: outcome.error for outcome in ran(rig, 6, 2)}
    assert sorted(outcomes) == [str(number) for number in range(6)]
    assert outcomes["2"] == "a worker process died while this point ran"
    assert [digest for digest, error in outcomes.items() if error] == ["2"]
    assert rig.pools == 2


def test_nothing_to_run() -> None:
    assert list(ran(Rig(), 0, 2)) == []


def test_real_workers_and_their_log(tmp_path: Path) -> None:
    bad = replace(small(), warmup_share=2.0)
    tasks = [task("good"), task("bad", config=bad)]
    found = {o.digest: o for o in run_all(tasks, 1, processes(1, tmp_path, is_alone=True))}
    assert found["good"].error == "" and found["bad"].error.startswith("ValueError")
    assert (tmp_path / "workers.log").exists()
    again = run_task(task("good"))
    assert again.values()["chat.ttft_ms.p99"] == found["good"].values()["chat.ttft_ms.p99"]


def test_who_is_interrupted_waits_for_no_point(tmp_path: Path) -> None:
    others = set(active_children())
    tasks = [task("quick"), task("endless", config=small(num_requests=10**6))]
    outcomes = run_all(tasks, 2, processes(2, tmp_path, is_alone=False))
    assert isinstance(outcomes, Generator)
    assert next(outcomes).digest == "quick"
    with pytest.raises(KeyboardInterrupt):
        outcomes.throw(KeyboardInterrupt())
    assert set(active_children()) <= others


def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    """However that ends: killed, it says nothing to anybody."""
    code = f"""
from pathlib import Path
from prelude.sweep.pool import processes, run_all
from tests.simulations import small
from tests.test_sweep_pool import task
if __name__ == "__main__":
    tasks = [task("quick"), task("endless", config=small(num_requests=10**6))]
    outcomes = run_all(tasks, 2, processes(2, Path({str(tmp_path)!r}), is_alone=False))
    next(outcomes)
    from multiprocessing import active_children
    print(*[child.pid for child in active_children()], flush=True)
    next(outcomes)
"""
    (script := tmp_path / "script.py").write_text(code)
    command = [sys.executable, str(script)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        workers = [os.pidfd_open(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert workers
    for ended in workers:  # readable once the process has ended
        assert select.select([ended], [], [], 60.0)[0]
        os.close(ended)


def test_outcomes_are_found_again_unless_they_failed(tmp_path: Path) -> None:
    good = run_task(task("good"))
    save(tmp_path / "points", good)
    assert load_outcome(tmp_path / "points", "good") == good
    assert [path.name for path in (tmp_path / "points").iterdir()] == ["good.json"]
    save(tmp_path / "points", worker.lost(task("bad"), "died"))
    assert load_outcome(tmp_path / "points", "bad") is None
    assert load_outcome(tmp_path / "points", "never") is None
    (tmp_path / "points" / "torn.json").write_text('{"digest": "to')
    assert load_outcome(tmp_path / "points", "torn") is None
