"""Open and closed loops: who is sent when, how many at once, and how each request ends."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from prelude.bench.connection import HttpClient
from prelude.bench.load import Job, Load, Sender, WallTimer
from tests.bench_server import Answer, Chunk, Clock, Handler, Server, event, stream_of, text

LONG_S = 60.0


def job(client: HttpClient, index: int, arrival_s: float | None = None) -> Job:
    body = b'{"index": %d}' % index
    return Job(index, "chat", arrival_s, client.render("POST", "/completions", body))


async def run(
    handler: Handler,
    arrivals: list[float | None],
    *,
    concurrency: int = 1,
    clock: Clock | None = None,
    timeout_s: float = LONG_S,
    duration_s: float = 1e6,
    stream: bool = True,
) -> Load:
    timer = clock or Clock()
    async with Server(handler, clock).running() as server:
        client = HttpClient(server.base_url, api_key=None, keepalive=True, clock=timer)
        sender = Sender(
            client, timer, stream=stream, request_timeout_s=timeout_s, duration_s=duration_s
        )
        jobs = [job(client, index, arrival) for index, arrival in enumerate(arrivals)]
        if None in arrivals:
            load = await sender.closed_loop(jobs, concurrency)
        else:
            load = await sender.open_loop(jobs)
        client.close()
    return load


def failures(load: Load) -> list[str | None]:
    return [exchange.failure for _, exchange in load.sent]


def quick(_: dict[str, Any]) -> Answer:
    return stream_of(2)


async def test_open_loop_sends_at_the_arrival_times() -> None:
    load = await run(quick, [0.0, 0.5, 0.5, 2.0])
    assert [exchange.sent_s - load.start_s for _, exchange in load.sent] == [0.0, 0.5, 0.5, 2.0]
    assert failures(load) == [None] * 4


async def test_open_loop_does_not_wait_for_answers() -> None:
    hanging = {"left": 3}

    def handler(_: dict[str, Any]) -> Answer:
        hanging["left"] -= 1
        return Answer([Chunk(text("a"))], hang=True)

    load = await run(handler, [0.0, 1.0, 2.0], timeout_s=0.3)
    assert hanging["left"] == 0
    assert load.max_in_flight == 3
    assert failures(load) == ["timeout"] * 3


async def test_a_late_generator_sends_at_once() -> None:
    clock = Clock()

    class Late(Clock):
        async def sleep_until(self, time_s: float) -> None:
            self.time_s = time_s + 0.25

    clock = Late()
    async with Server(quick).running() as server:
        client = HttpClient(server.base_url, api_key=None, keepalive=True, clock=clock)
        sender = Sender(client, clock, stream=True, request_timeout_s=LONG_S, duration_s=1e6)
        load = await sender.open_loop([job(client, 0, 1.0), job(client, 1, 1.1)])
        client.close()
    assert [exchange.sent_s - load.start_s for _, exchange in load.sent] == [1.25, 1.25]


async def test_times_of_chunks_are_the_clocks() -> None:
    load = await run(lambda _: stream_of(3, ttft_s=0.2, gap_s=0.05), [None], clock=Clock())
    (_, exchange) = load.sent[0]
    times = [round(chunk - exchange.sent_s, 6) for chunk in exchange.chunk_s]
    assert times == [0.2, 0.25, 0.3]


async def test_a_closed_loop_keeps_its_width() -> None:
    open_now, widest = 0, 0

    class Counting(Server):
        async def _answer(
            self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer
        ) -> None:
            nonlocal open_now, widest
            open_now += bool(answer.chunks)
            widest = max(widest, open_now)
            await asyncio.sleep(0)
            await super()._answer(reader, writer, answer)
            open_now -= bool(answer.chunks)

    async with Counting(quick).running() as server:
        clock = Clock()
        client = HttpClient(server.base_url, api_key=None, keepalive=True, clock=clock)
        sender = Sender(client, clock, stream=True, request_timeout_s=LONG_S, duration_s=1e6)
        load = await sender.closed_loop([job(client, index) for index in range(20)], 4)
        client.close()
    assert widest <= 4
    assert (load.max_in_flight, load.in_flight) == (4, 0)
    assert sorted(sent.index for sent, _ in load.sent) == list(range(20))


async def test_fewer_jobs_than_width() -> None:
    load = await run(quick, [None, None], concurrency=8)
    assert len(load.sent) == load.max_in_flight == 2


async def test_every_failure_has_its_kind() -> None:
    answers = [
        stream_of(1),
        Answer(status=429, body=b'{"error": "busy"}'),
        Answer(status=500, body=b"oops"),
        Answer([Chunk(text("a"))], drop=True),
        Answer([Chunk(text("a"))]),
        Answer([Chunk(event({"error": {"message": "dead"}}))]),
        Answer([Chunk(b"data: ?\n\n")]),
    ]
    load = await run(lambda body: answers[body["index"]], [None] * len(answers))
    assert failures(load) == [
        None,
        "http_429",
        "http_500",
        "disconnected",
        "truncated",
        "stream_error",
        "bad_stream",
    ]


async def test_nobody_listens() -> None:
    async with Server(quick).running() as server:
        client = HttpClient(server.base_url, api_key=None, keepalive=True, clock=Clock())
    sender = Sender(client, Clock(), stream=True, request_timeout_s=LONG_S, duration_s=1e6)
    load = await sender.closed_loop([job(client, 0)], 1)
    assert failures(load) == ["connect"]


async def test_one_failure_does_not_end_the_others() -> None:
    def handler(body: dict[str, Any]) -> Answer:
        return Answer(status=503) if body["index"] == 0 else stream_of(2)

    load = await run(handler, [0.0, 0.0, 0.1])
    assert sorted(failures(load), key=str) == [None, None, "http_503"]


async def test_nothing_is_sent_after_the_time_is_up() -> None:
    load = await run(quick, [0.0, 4.0, 5.0, 6.0], duration_s=5.0)
    assert len(load.sent) == 2


async def test_a_closed_loop_ends_with_its_time() -> None:
    clock = Clock()
    load = await run(lambda _: stream_of(1, ttft_s=2.0), [None] * 9, clock=clock, duration_s=5.0)
    assert [failure for failure in failures(load) if failure] == []
    assert len(load.sent) == 3


async def test_open_streams_are_cut_off_at_the_end() -> None:
    def handler(_: dict[str, Any]) -> Answer:
        return Answer([Chunk(text("a"))], hang=True)

    load = await run(handler, [None, None], concurrency=2, duration_s=0.2)
    assert failures(load) == ["cut_off"] * 2
    assert all(exchange.content_chunks == 1 for _, exchange in load.sent)


async def test_whole_answers() -> None:
    body = b'{"choices": [{"text": "a"}], "usage": {"completion_tokens": 3}}'
    load = await run(lambda _: Answer(body=body), [None], stream=False)
    assert failures(load) == [None]
    assert load.sent[0][1].output_tokens == 3


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_timer_never_returns_early(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def sleep() -> None:
        timer = WallTimer()
        for milliseconds in (0.1, 0.7, 1.4, 3.5, -1.0):
            due = timer.now() + milliseconds / 1e3
            await timer.sleep_until(due)
            assert timer.now() >= due

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(sleep())


def test_the_clock_is_finer_than_a_millisecond() -> None:
    async def looks() -> set[float]:
        timer = WallTimer()
        return {timer.now() for _ in range(10)}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert len(runner.run(looks())) > 1
