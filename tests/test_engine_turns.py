"""Threads that owners share: in turn, never all for one, and nothing for those who left."""

import threading
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from prelude.engine.turns import Job, Turns


class Gated:
    """Work that says when it begins and ends when it is told to."""

    def __init__(self, name: str, begun: list[str]) -> None:
        self.gate = threading.Event()
        self.is_begun = threading.Event()
        self._name = name
        self._begun = begun

    def __call__(self) -> str:
        self._begun.append(self._name)
        self.is_begun.set()
        assert self.gate.wait(20)
        return self._name


class Inline(Turns[str]):
    """Nothing runs until ``run_next``: schedules without threads."""

    def __init__(self, num_threads: int, most_each: int) -> None:
        super().__init__(num_threads, most_each, "test")
        self.begun: list[tuple[Job[str], str]] = []
        self._threads.submit = lambda run, *args: self.begun.append(args)  # type: ignore

    def run(self, at: int) -> str:
        job, owner = self.begun.pop(at)
        self._run(job, owner)
        return owner


def test_owners_take_turns_and_one_thread_is_left_for_others() -> None:
    turns = Inline(3, 2)
    jobs = {name: Job(lambda: "") for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1")}
    for name in ("a1", "a2", "a3", "a4"):
        turns.want(jobs[name], "a")
    assert [job for job, _ in turns.begun] == [jobs["a1"], jobs["a2"]]
    for name in ("b1", "b2", "c1"):
        turns.want(jobs[name], name[0])
    assert turns.begun[-1] == (jobs["b1"], "b"), "at once, whatever a waits for"
    order = [turns.run(0) for _ in range(7)]
    assert order == ["a", "a", "b", "a", "b", "c", "a"]
    assert all(job.future.done() for job in jobs.values())
    turns.close()


def test_what_others_want_too_comes_at_the_first_ones_turn() -> None:
    turns = Inline(1, 1)
    first, shared = Job(lambda: ""), Job(lambda: "it")
    others = [Job(lambda: "") for _ in range(5)]
    turns.want(first, "a")
    for job in (*others, shared):
        turns.want(job, "a")
    turns.want(shared, "b")
    turns.run(0)
    assert turns.begun == [(others[0], "a")]
    turns.run(0)
    assert turns.begun == [(shared, "b")]
    for _ in range(5):
        turns.run(0)
    assert turns.begun == []
    assert shared.future.result() == "it"


def test_what_nobody_wants_any_more_is_not_begun() -> None:
    turns = Inline(1, 1)
    jobs = [Job(lambda: "") for _ in range(3)]
    for job in jobs:
        turns.want(job, "a")
    turns.want(jobs[1], "b")
    assert not turns.leave(jobs[0], "a"), "it runs"
    assert not turns.leave(jobs[1], "a")
    assert turns.leave(jobs[1], "b")
    assert turns.leave(jobs[2], "a")
    turns.run(0)
    assert turns.begun == []


def test_real_threads_and_errors() -> None:
    turns: Turns[str] = Turns(2, 1, "test")
    begun: list[str] = []
    slow, quick = Gated("slow", begun), Gated("quick", begun)

    def fails() -> str:
        raise MemoryError("no room")

    jobs = [Job(slow), Job(quick), Job(fails)]
    for job, owner in zip(jobs, "abc", strict=True):
        turns.want(job, owner)
    assert slow.is_begun.wait(20) and quick.is_begun.wait(20)
    quick.gate.set()
    assert isinstance(jobs[2].future.exception(20), MemoryError)
    assert not jobs[0].future.done()
    turns.close()
    late = Job(Gated("late", begun))
    turns.want(late, "d")
    slow.gate.set()
    assert jobs[0].future.result(20) == "slow"
    assert "late" not in begun


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["want", "run", "leave"])), max_size=80),
)
def test_no_job_is_lost_and_no_owner_gets_more_than_its_share(
    num_threads: int, most_each: int, moves: list[tuple[int, str]]
) -> None:
    turns = Inline(num_threads, most_each)
    wanted: list[tuple[Job[str], str]] = []
    dropped = set()
    for number, move in moves:
        owner = str(number)
        if move == "want":
            wanted.append((Job(lambda: ""), owner))
            turns.want(*wanted[-1])
        elif move == "run" and turns.begun:
            turns.run(number % len(turns.begun))
        elif move == "leave" and wanted:
            job, owner = wanted[number % len(wanted)]
            if job.owners and turns.leave(job, owner):
                dropped.add(job)
        running = Counter(owner for _, owner in turns.begun)
        assert len(turns.begun) <= num_threads
        assert max(running.values(), default=0) <= most_each
        waiting = {owner for job, owner in wanted if not job.is_begun and job not in dropped}
        if len(turns.begun) < num_threads:
            assert all(running[owner] == most_each for owner in waiting), "no thread idles"
    while turns.begun:
        turns.run(0)
    assert all(job.future.done() != (job in dropped) for job, _ in wanted)
    assert not turns._lanes and not turns._running
