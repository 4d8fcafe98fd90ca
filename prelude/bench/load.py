"""Sending the load: open loop (each request at its own time, whatever the server does) or closed
loop (a fixed number in flight), bounded in count and in time.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prelude.bench.connection import ConnectionLostError, HttpClient
from prelude.bench.exchange import Exchange


class Timer(Protocol):
    """A clock in seconds and a way to wait for it."""

    def now(self) -> float: ...
    async def sleep_until(self, time_s: float) -> None: ...


class WallTimer:
    """The performance counter. An event loop's own clock will not do: uvloop's has a resolution
    of a millisecond, stands still within a turn, and wakes sleepers early by as much."""

    def now(self) -> float:
        return time.perf_counter()

    async def sleep_until(self, time_s: float) -> None:
        while (left_s := time_s - time.perf_counter()) > 0.0:
            await asyncio.sleep(left_s)


@dataclass(frozen=True, slots=True)
class Job:
    """One request, rendered before the run. ``arrival_s`` counts from the start of the run; a
    closed loop has none."""

    index: int
    kind: str
    arrival_s: float | None
    request: bytes


@dataclass(slots=True)
class Load:
    """What a run produced: exchanges by job, in the order they were sent."""

    start_s: float = 0.0
    end_s: float = 0.0
    sent: list[tuple[Job, Exchange]] = field(default_factory=list)
    in_flight: int = 0
    max_in_flight: int = 0


class Sender:
    """Sends jobs until ``deadline_s``; what is still open then is cut off."""

    def __init__(
        self,
        client: HttpClient,
        timer: Timer,
        *,
        stream: bool,
        request_timeout_s: float,
        duration_s: float,
    ) -> None:
        self._client = client
        self._timer = timer
        self._stream = stream
        self._timeout_s = request_timeout_s
        self._duration_s = duration_s
        self._load = Load()

    async def open_loop(self, jobs: Sequence[Job]) -> Load:
        """Every job at its arrival time."""
        self._begin()
        async with asyncio.TaskGroup() as tasks:
            for job in jobs:
                assert job.arrival_s is not None
                due = self._load.start_s + job.arrival_s
                if due >= self._deadline_s:
                    break
                if due > self._timer.now():
                    await self._timer.sleep_until(due)
                tasks.create_task(self._send(job))
        return self._end()

    async def closed_loop(self, jobs: Sequence[Job], concurrency: int) -> Load:
        """``concurrency`` jobs in flight, the next one as soon as one ends."""
        self._begin()
        queue = iter(jobs)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(concurrency, len(jobs))):
                tasks.create_task(self._work(queue))
        return self._end()

    def _begin(self) -> None:
        self._load = Load(start_s=self._timer.now())
        self._deadline_s = self._load.start_s + self._duration_s

    def _end(self) -> Load:
        self._load.end_s = self._timer.now()
        return self._load

    async def _work(self, jobs: Iterator[Job]) -> None:
        for job in jobs:
            if self._timer.now() >= self._deadline_s:
                return
            await self._send(job)

    async def _send(self, job: Job) -> None:
        exchange = Exchange(stream=self._stream)
        load = self._load
        load.sent.append((job, exchange))
        load.in_flight += 1
        load.max_in_flight = max(load.max_in_flight, load.in_flight)
        exchange.sent_s = self._timer.now()
        left_s = self._deadline_s - exchange.sent_s
        try:
            async with asyncio.timeout(min(self._timeout_s, max(left_s, 0.0))):
                await self._client.send(job.request, exchange)
            exchange.finish()
        except TimeoutError:
            exchange.fail("timeout" if self._timeout_s <= left_s else "cut_off")
        except ConnectionLostError as error:
            exchange.fail("disconnected", str(error))
        except OSError as error:
            exchange.fail("connect", str(error))
        finally:
            load.in_flight -= 1
