"""The clients that misbehave judge correctly, and the benchmarks find what they look for."""

import asyncio
import random
from dataclasses import asdict
from typing import Any

import pytest

from benchmarks import faults, soak
from benchmarks.fault_client import Reply, Tally, ask, render
from benchmarks.null_engine import NullRunner
from benchmarks.server_census import Holdings, settled
from benchmarks.soak_bodies import malformed
from prelude.types.request import TokenEvent
from tests.bench_server import DONE, event, text
from tests.engines import make_core, request, run, tokens_of
from tests.fakes import until
from tests.scripted_server import CHAT, HI, ids, scripted
from tests.server_harness import Engine, Gate, serving

ERROR = event({"error": {"message": "gone", "code": "engine_restarted"}})


def port_of(url: str) -> int:
    return int(url.split(":")[2].split("/")[0])


def streamed(*events: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    return head + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in events) + end


def plain(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        (streamed(text("a"), text("b", "stop"), DONE), "answer"),
        (streamed(b": ping\n\n", text("b", "stop") + DONE), "answer"),
        (streamed(text("a"), ERROR, DONE), "error engine_restarted"),
        (streamed(text("a", "stop")), "malformed"),
        (streamed(text("a", "stop"), DONE, DONE), "malformed"),
        (streamed(text("a"), DONE), "malformed"),
        (streamed(text("a"), ERROR, ERROR, DONE), "malformed"),
        (streamed(text("a"), end=b""), "cut"),
        (b"nonsense", "malformed"),
        (b"", "cut"),
        (plain(503, b'{"error": {"code": "starting"}}'), "refused 503 starting"),
        (plain(400, b"bad"), "refused 400"),
        (plain(500, b"bad"), "malformed"),
        (plain(200, b'{"choices": []}'), "answer"),
    ],
)
async def test_every_end_has_its_name(answer: bytes, key: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert (await ask(port, render(port, "/v1/completions", {}))).key == key


async def test_who_waits_in_vain_hangs() -> None:
    async with scripted() as (server, _):
        port = port_of(server.url)
        assert (await ask(port, render(port, CHAT, HI), timeout_s=0.05)).end == "hung"


async def test_who_leaves_leaves_and_a_slow_reader_reads_all() -> None:
    async with scripted() as (server, transport):
        port = port_of(server.url)
        body = HI | {"stream": True}
        leaver = asyncio.create_task(ask(port, render(port, CHAT, body), leave_after=1))
        uid = (await transport.submitted(1)).uid
        transport.events(TokenEvent(uid, 0, ids("Hello")))
        assert (await leaver).end == "left"
        await until(lambda: server.client.num_streams == 0)
        slow = asyncio.create_task(
            ask(port, render(port, CHAT, body), pause_s=0.001, receive_bytes=2048)
        )
        uid = (await transport.submitted(2)).uid
        transport.events(TokenEvent(uid, 0, ids("Hello"), "stop"))
        assert (await slow).end == "answer"


def test_faults_are_counted_and_refusals_are_none() -> None:
    tally = Tally()
    for reply in (Reply("answer"), Reply("refused", 503, "starting"), Reply("left"), Reply("cut")):
        tally.add("stream", reply)
    tally.add("whole", Reply("refused", 500, "internal"))
    assert tally.num_faults == 2
    assert tally.document()["stream"]["refused 503 starting"] == 1


async def test_the_gauges_are_sums_over_labels() -> None:
    async with serving() as server:
        assert (await server.chat()).status_code == 200
        found = await settled(port_of(server.url))
        assert found["prelude_generation_tokens_total"] > 0
        assert found["prelude_class_blocks"] == 0.0
        assert found["prelude_engine_restarts_total"] == 0.0


def test_the_null_engine_keeps_to_the_rules_of_engines() -> None:
    runner = NullRunner([5, 6, 7], 512, 0.0)
    core = make_core(runner=runner, max_len=runner.max_len)
    asked = [request([1] * (n + 1), max_tokens=6) for n in range(4)]
    for one in asked:
        core.add(one)
    tokens = tokens_of(run(core))
    for n, one in enumerate(asked):
        assert tokens[one.uid, 0] == [(5, 6, 7)[(n + 1 + i) % 3] for i in range(6)]


def good_run() -> dict[str, Any]:
    held = asdict(Holdings(30, 4, 60.0, 3))
    return {
        "faults": 0,
        "kills": 2,
        "restarts_counted": 2.0,
        "left_behind": {"x": 0.0},
        "blocks": [10.0, 10.0],
        "before": held,
        "after": held,
    }


def test_what_is_lost_is_a_problem() -> None:
    assert faults.problems(good_run(), (1, 0)) == []
    for change, folders in (
        ({"faults": 1}, (1, 0)),
        ({"restarts_counted": 1.0}, (1, 0)),
        ({"left_behind": {"x": 1.0}}, (1, 0)),
        ({"blocks": [10.0, 9.0]}, (1, 0)),
        ({"after": asdict(Holdings(40, 4, 60.0, 3))}, (1, 0)),
        ({"after": asdict(Holdings(30, 4, 60.0, 4))}, (1, 0)),
        ({}, (2, 0)),
        ({}, (1, 1)),
    ):
        assert len(faults.problems(good_run() | change, folders)) == 1


def test_memory_that_grows_is_seen_and_a_warm_up_is_not() -> None:
    assert soak.growth([50.0, *[80.0] * 40]) == 1.0
    assert soak.growth([50.0 + n for n in range(100)]) > soak.MAX_GROWTH


async def test_nonsense_gets_answers_and_never_a_500() -> None:
    """Every kind of request that the soak sends, and the server is as good as before."""
    rng = random.Random(1)
    async with serving(Engine(gate=Gate(opened=True))) as server:
        port, tally = port_of(server.url), Tally()
        for _ in range(150):
            reply = await ask(port, malformed(rng, port), timeout_s=20.0)
            is_unfinished = reply.end in ("cut", "hung") and not reply.status
            tally.add("nonsense", Reply("refused") if is_unfinished else reply)
        assert tally.num_faults == 0, tally.document()
        assert (await server.chat()).status_code == 200
        assert server.services.lifecycle.num_open == 0


@pytest.mark.slow
def test_a_short_soak() -> None:
    result = soak.measure(0.2, 60, 0)
    assert result["problems"] == [], result


@pytest.mark.slow
def test_a_few_faults() -> None:
    result = faults.measure(3, 24, 0)
    assert result["problems"] == [], result
