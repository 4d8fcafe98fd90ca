"""The benchmark of the front end: what its client counts, which steps it takes, what it writes."""

import asyncio
import json
from typing import Any

import pytest

from benchmarks import frontend, frontend_table, stream_client
from benchmarks.stream_client import (
    EventCounter,
    Moment,
    Probe,
    Streamed,
    read_answer,
    render,
    stream,
)
from prelude.engine.steplog import LaunchRecord, StepRecord

EVENTS = b"data: {}\n\n" * 3 + b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
BODY = HEAD + b"%x\r\n%b\r\n0\r\n\r\n" % (len(EVENTS), EVENTS)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, len(BODY)])
async def test_events_are_counted_however_they_are_cut(size: int) -> None:
    counter = EventCounter(b"", asyncio.get_running_loop().create_future())
    for start in range(0, len(BODY), size):
        counter.data_received(BODY[start : start + size])
    counter.connection_lost(None)
    assert counter.num_events == 4
    assert await counter.ended


@pytest.mark.parametrize(("cut", "error"), [(40, None), (0, OSError())])
async def test_a_stream_that_breaks_is_not_whole(cut: int, error: Exception | None) -> None:
    counter = EventCounter(b"", asyncio.get_running_loop().create_future())
    counter.data_received(BODY[: len(BODY) - cut])
    counter.connection_lost(error)
    assert not await counter.ended


def test_requests() -> None:
    assert render("/x") == b"GET /x HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    head, body = render("/x", {"n": 1}).split(b"\r\n\r\n")
    assert body == b'{"n":1}' and b"content-length: 7" in head and b"connection: close" in head


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 503 x\r\ncontent-length: 1\r\n\r\n.", b"HTTP/1.1 200 OK\r\n\r\n."]
)
async def test_only_good_answers_are_measured(data: bytes) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    with pytest.raises(RuntimeError, match="not an answer"):
        await read_answer(reader)


class Server:
    """Answers probes, and streams ``chunks`` events to each request; how many tokens it says that
    there were grows with every look."""

    def __init__(self, chunks: int, last: bytes = b"data: [DONE]\n\n") -> None:
        self._data = HEAD + b"data: {}\n\n" * chunks
        self._last = last
        self.looks = 0
        self.asked = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"POST"):
                    writer.write(self._data)
                    await self.asked.wait()
                    writer.write(self._last)
                    return
                writer.write(self._answer(head))
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        body = b"{}"
        if head.startswith(b"GET /metrics"):
            self.looks += 1
            body = b'# TYPE x\nprelude_generation_tokens_total{model_name="x"} %d.0\n' % self.looks
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def streamed(server: Server) -> Streamed:
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        try:
            return await stream(port, [{}, {}], lambda: 2.0 * server.looks, most_s=0.0001)
        finally:
            server.asked.set()


async def test_streams_are_watched_while_all_of_them_flow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_client, "_PROBE_EVERY_S", 0.0)
    found = await streamed(Server(40))
    assert (found.steady.num_tokens, found.steady.cpu_s) == (1, 2.0)
    assert found.steady.num_events == 0, "all had come before the first look"
    assert len(found.probe_ms) == 10 and min(found.probe_ms) > 0


async def test_streams_that_break_are_an_error() -> None:
    server = Server(3, last=b"")
    server.asked.set()
    with pytest.raises(RuntimeError, match="broke"):
        await streamed(server)


async def test_streams_that_end_at_once_are_an_error() -> None:
    server = Server(3)
    server.asked.set()
    with pytest.raises(RuntimeError, match="ask for more"):
        await streamed(server)


async def test_the_engines_tokens_are_read() -> None:
    listening = await asyncio.start_server(Server(0), "127.0.0.1", 0)
    async with listening, Probe(listening.sockets[0].getsockname()[1]) as probe:
        assert [await probe.generated(), await probe.generated()] == [1.0, 2.0]


def test_a_turn() -> None:
    turn = frontend.null_turn(Streamed(Moment(2.0, 40_000, 39_000, 1.5), [0.12345]))
    assert turn["tok_s"] == 20_000
    assert turn["server_us_token"] == 37.5
    assert turn["chunks_per_token"] == 0.975
    assert turn["live_ms"] == [0.123]


def step(number: int, rows: list[tuple[int, int, int]], ms: float = 3.0) -> StepRecord:
    return StepRecord(
        step=number,
        start_s=number * 0.005,
        budget_ms=50.0,
        overhead_ms=0.5,
        launches=[LaunchRecord("decode", ms, ms, rows)],
        admitted=[],
        preempted=[],
        num_waiting=0,
        num_running=len(rows),
        num_blocks_available=1,
    )


def test_only_steps_that_decode_for_all_rows_count() -> None:
    def rows(at: int, new: int = 1) -> list[tuple[int, int, int]]:
        return [(1, at, 1), (2, at, new)]

    records = [
        step(0, rows(10)),  # the beginning
        step(1, rows(100)),
        step(2, rows(101)),
        step(3, rows(102, 8)),  # prefill
        step(4, rows(103), ms=5.0),
        step(5, rows(104)[:1]),
        step(6, rows(700)),  # the end
    ]
    assert frontend.steps(records, 2) == {
        "steps": 3,
        "step_p50_ms": 3.5,
        "step_p99_ms": 5.5,
        "period_p50_ms": 5.0,
        "period_p99_ms": 5.0,
    }


def test_the_page_is_up_to_date() -> None:
    page = frontend_table.PAGE.read_text()
    result: dict[str, Any] = json.loads(frontend_table.RESULT.read_text())
    assert frontend_table.written(page, result) == page, "run python -m benchmarks.frontend_table"
