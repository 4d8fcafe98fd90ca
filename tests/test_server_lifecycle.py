"""Draining: finished work ends it, time ends it, a second signal ends it."""

import asyncio

from prelude.server.lifecycle import Lifecycle


class Work:
    def __init__(self, lifecycle: Lifecycle) -> None:
        self.interrupted = 0
        self.lifecycle = lifecycle
        lifecycle.opened(self)

    def interrupt(self) -> None:
        self.interrupted += 1
        self.lifecycle.closed(self)


async def test_nothing_open_ends_at_once() -> None:
    lifecycle = Lifecycle()
    assert not lifecycle.draining
    await lifecycle.drain(1000)
    assert lifecycle.draining


async def test_open_work_may_finish() -> None:
    lifecycle = Lifecycle()
    works = [Work(lifecycle), Work(lifecycle)]
    assert lifecycle.num_open == 2
    task = asyncio.create_task(lifecycle.drain(1000))
    for work in works:
        await asyncio.sleep(0)
        assert not task.done()
        lifecycle.closed(work)
    await task
    assert [work.interrupted for work in works] == [0, 0]


async def test_time_runs_out() -> None:
    lifecycle = Lifecycle()
    work = Work(lifecycle)
    await lifecycle.drain(0)
    assert work.interrupted == 1
    assert lifecycle.num_open == 0


async def test_a_second_signal_ends_it_now() -> None:
    lifecycle = Lifecycle()
    work = Work(lifecycle)
    task = asyncio.create_task(lifecycle.drain(1000))
    await asyncio.sleep(0)
    lifecycle.hurry()
    await task
    assert work.interrupted == 1


async def test_closing_twice_is_harmless() -> None:
    lifecycle = Lifecycle()
    work = Work(lifecycle)
    lifecycle.closed(work)
    lifecycle.closed(work)
    assert lifecycle.num_open == 0
