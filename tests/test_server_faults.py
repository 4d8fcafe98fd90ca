"""What clients see when something is wrong: the engine, the network, or the time of day."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from prelude.types.errors import REFUSAL_CODES, Refusal, RefusalCode
from prelude.types.request import TokenEvent
from prelude.types.wire import Abort, Progress, Ready
from tests.fakes import ScriptedEngines, ScriptedTransport, scripted_client, some_info, until
from tests.server_harness import (
    ANSWER,
    Engine,
    Gate,
    Harness,
    listening,
    parse_events,
    says,
    serving,
    test_config,
)
from tests.text_samples import byte_level

CHAT = "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "Hi"}]}


@asynccontextmanager
async def scripted(
    ready: bool = True, **server: Any
) -> AsyncIterator[tuple[Harness, ScriptedTransport]]:
    client, transport = scripted_client()
    if ready:
        transport.say(Ready(some_info()))
        await client.wait_ready()
    try:
        async with listening(client, byte_level(), test_config(**server)) as harness:
            yield harness, transport
    finally:
        await client.close()


def ids(text: str) -> list[int]:
    return byte_level().encode(text)


def error_of(body: bytes) -> dict[str, Any]:
    """The error event of a broken stream, which is followed by the one end mark."""
    *_, error, done = parse_events(body)
    assert done == "[DONE]"
    assert body.count(b"[DONE]") == 1
    found: dict[str, Any] = error["error"]
    return found


async def open_stream(server: Harness, **fields: Any) -> httpx.Response:
    request = server.http.build_request("POST", CHAT, json=HI | {"stream": True} | fields)
    return await server.http.send(request, stream=True)


async def test_starting_says_what_it_does() -> None:
    async with scripted(ready=False) as (server, transport):
        transport.say(Progress("loading weights", 0.25))
        await until(lambda: server.client.progress.fraction)
        ready = await server.http.get("/health/ready")
        assert ready.status_code == 503
        assert ready.headers["retry-after"] == "1"
        assert ready.json() == {"status": "starting", "phase": "loading weights", "fraction": 0.25}
        assert (await server.http.get("/health/live")).status_code == 200
        refused = await server.chat()
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "starting"
        assert "loading weights, 25%" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"] == "1"
        assert (await server.http.get("/v1/models")).json()["data"][0]["max_model_len"] is None
        tokens = (await server.http.post("/tokenize", json={"prompt": "x"})).json()
        assert tokens["max_model_len"] is None
        transport.say(Ready(some_info()))
        await until(lambda: server.client.info)
        assert (await server.http.get("/health/ready")).status_code == 200


async def test_an_engine_that_dies_ends_every_stream_and_refuses_the_rest() -> None:
    async with scripted() as (server, transport):
        begun = asyncio.create_task(open_stream(server))
        request = await transport.submitted(1)
        transport.events(TokenEvent(request.uid, 0, ids("Hello")))
        response = await begun
        whole = asyncio.create_task(server.chat())
        queued = asyncio.create_task(open_stream(server))
        await transport.submitted(3)
        transport.die("the engine process ended unexpectedly (signal 9)")
        error = error_of(await response.aread())
        assert error["code"] == "engine_dead"
        assert "signal 9" in error["message"]
        assert error["type"] == "service_unavailable_error"
        assert (await whole).status_code == 503
        late = await queued  # nothing had been sent, so the status can still say it
        assert late.status_code == 503
        await late.aread()
        refused = await server.chat()
        assert refused.status_code == 503
        assert "signal 9" in refused.json()["error"]["message"]
        for path in ("/health/ready", "/health/live"):
            health = await server.http.get(path)
            assert health.status_code == 503
            assert health.json()["status"] == "dead"
        assert (await server.http.get("/metrics")).status_code == 200
        assert server.client.num_streams == 0


async def test_an_engine_that_dies_is_followed_by_one_that_answers() -> None:
    engines = ScriptedEngines()
    first = await engines.ready()
    async with listening(engines.client, byte_level(), test_config()) as server:
        begun = asyncio.create_task(open_stream(server))
        request = await first.submitted(1)
        first.events(TokenEvent(request.uid, 0, ids("Hello")))
        response = await begun
        whole = asyncio.create_task(server.chat())
        await first.submitted(2)
        first.die("the engine process ended unexpectedly (signal 9)", "signal")
        error = error_of(await response.aread())
        assert (error["code"], error["type"]) == ("engine_restarted", "service_unavailable_error")
        assert "signal 9" in error["message"]
        lost = await whole
        assert (lost.status_code, lost.headers["retry-after"]) == (503, "1")
        assert lost.json()["error"]["code"] == "engine_restarted"
        await until(lambda: len(engines.started) == 2)
        engines.started[1].say(Progress("loading weights", 0.25))
        await until(lambda: server.client.progress.fraction == 0.25)
        ready = await server.http.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json() | {"last_death": None} == {
            "status": "restarting",
            "phase": "loading weights",
            "fraction": 0.25,
            "restarts": 1,
            "last_death": None,
        }
        assert ready.json()["last_death"]["requests_lost"] == 2
        assert (await server.http.get("/health/live")).status_code == 200
        refused = await server.chat()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "signal 9" in refused.json()["error"]["message"]
        assert "loading weights, 25%" in refused.json()["error"]["message"]
        second = await engines.ready(2)
        assert (await server.http.get("/health/ready")).json()["restarts"] == 1
        again = asyncio.create_task(server.chat())
        uid = (await second.submitted(1)).uid
        second.events(TokenEvent(uid, 0, ids("Hi"), "stop"))
        assert (await again).json()["choices"][0]["message"]["content"] == "Hi"
        text = (await server.http.get("/metrics")).text
        assert 'prelude_engine_restarts_total{model_name="test-model",reason="signal"} 1.0' in text
        assert 'prelude_requests_lost_total{model_name="test-model"} 2.0' in text
    await engines.client.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("message", "status", "code"),
    [
        ("prompt: token ids must be between 0 and 9", 400, "invalid_value"),
        ("a kernel failed", 500, "engine_error"),
    ],
)
async def test_engine_refusals_have_a_status(
    stream: bool, message: str, status: int, code: str
) -> None:
    async with scripted() as (server, transport):
        task = asyncio.create_task(server.chat(stream=stream, n=2))
        uid = (await transport.submitted()).uid
        transport.events(*(TokenEvent(uid, n, [], "error", error=message) for n in range(2)))
        response = await task
        assert response.status_code == status
        assert response.json()["error"]["code"] == code


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("code", REFUSAL_CODES)
async def test_refused_and_expired_requests_may_try_again(stream: bool, code: RefusalCode) -> None:
    refusal = Refusal(code, 6.2, "fast", 9, 900.0, 250.0)
    status = 503 if "expired" in code else 429
    async with scripted() as (server, transport):
        task = asyncio.create_task(server.chat(stream=stream))
        uid = (await transport.submitted()).uid
        transport.events(TokenEvent(uid, 0, [], "error", error=str(refusal), refusal=refusal))
        response = await task
        assert response.status_code == status
        assert response.headers["retry-after"] == "7"
        assert response.headers["retry-after-ms"] == "6200"
        assert response.json()["error"]["details"]["reason"] == code


async def test_an_answer_that_expires_midway_ends_with_an_event() -> None:
    refusal = Refusal("deadline_expired", 0.0, "deep", 0, 260.0, 250.0)
    async with scripted() as (server, transport):
        task = asyncio.create_task(open_stream(server))
        uid = (await transport.submitted()).uid
        transport.events(TokenEvent(uid, 0, ids("Hello")))
        response = await task
        transport.events(TokenEvent(uid, 0, [], "error", error=str(refusal), refusal=refusal))
        error = error_of(await response.aread())
        assert (error["code"], error["message"]) == ("deadline_expired", str(refusal))


async def test_an_engine_error_after_the_first_token_is_an_event() -> None:
    async with scripted() as (server, transport):
        task = asyncio.create_task(open_stream(server))
        uid = (await transport.submitted()).uid
        transport.events(TokenEvent(uid, 0, ids("Hello")))
        response = await task
        transport.events(TokenEvent(uid, 0, [], "error", error="a kernel failed"))
        assert error_of(await response.aread())["message"] == "a kernel failed"


async def test_an_abort_by_the_engine_is_an_error() -> None:
    async with scripted() as (server, transport):
        task = asyncio.create_task(server.chat())
        uid = (await transport.submitted()).uid
        transport.events(TokenEvent(uid, 0, [], "abort"))
        response = await task
        assert (response.status_code, response.json()["error"]["code"]) == (503, "aborted")


async def test_one_dead_prompt_of_many() -> None:
    async with scripted() as (server, transport):
        task = asyncio.create_task(server.complete(prompt=["a", "b"]))
        second = await transport.submitted(2)
        full = Refusal("queue_full", num_waiting=7)
        transport.events(TokenEvent(second.uid, 0, [], "error", error=str(full), refusal=full))
        assert (await task).status_code == 429
        await until(lambda: Abort(transport.requests[0].uid) in transport.sent)


async def test_the_real_queue_limit() -> None:
    gate = Gate()
    config = test_config()
    config.batcher.max_waiting = 3
    async with serving(Engine(gate=gate, max_seqs=1), config=config) as server:
        held = asyncio.create_task(server.chat(n=2))  # one runs, one waits
        await server.until(lambda: server.client.num_streams == 1)
        late = asyncio.create_task(server.chat(n=3))
        await server.until(lambda: server.client.num_streams == 2)
        gate.allow(2)  # the engine reads between two steps and answers after the next
        refused = await late
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        gate.open()
        assert (await held).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_disconnect_frees_the_sequence(stream: bool) -> None:
    gate = Gate()
    engine = Engine(says(byte_level(), ANSWER, forever=True), gate, max_len=10_000)
    async with serving(engine) as server:
        gate.allow(5)
        if stream:
            response = await open_stream(server)
            await anext(response.aiter_bytes())
            await response.aclose()
        else:
            task = asyncio.create_task(server.chat())
            await server.until(lambda: server.client.stats.num_running == 1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await server.until(lambda: server.services.lifecycle.num_open == 0)
        gate.open()
        await server.until(lambda: server.client.stats.num_running == 0)
        assert server.client.stats.num_blocks_referenced == 0
        assert server.client.num_streams == 0
        assert server.client.stats.wasted_tokens > 0
        text = (await server.http.get("/metrics")).text
        assert 'finished_reason="abort",model_name="test-model"} 1.0' in text


async def test_a_disconnect_while_queued() -> None:
    gate = Gate()
    async with serving(Engine(gate=gate, max_seqs=1)) as server:
        first = asyncio.create_task(server.chat())
        await server.until(lambda: server.client.num_streams == 1)
        second = asyncio.create_task(open_stream(server))
        await server.until(lambda: server.client.num_streams == 2)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await server.until(lambda: server.client.num_streams == 1)
        gate.open()
        assert (await first).status_code == 200


async def test_idle_streams_are_kept_alive() -> None:
    async with scripted(ping_s=0.01) as (server, transport):
        response = await open_stream(server)
        assert response.status_code == 200
        lines = response.aiter_lines()
        assert await anext(lines) == ": ping"
        uid = transport.requests[0].uid
        transport.events(TokenEvent(uid, 0, ids("Hello"), "length"))
        rest = [line async for line in lines]
        assert 'data: {"id":' in "".join(rest)
        assert rest[-2] == "data: [DONE]"


async def test_a_client_that_stops_reading_is_dropped() -> None:
    """A megabyte of text into a socket that nobody reads: the request is aborted, not buffered."""
    async with scripted(send_timeout_s=0.05) as (server, transport):
        host, port = server.url.removeprefix("http://").split(":")
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect((host, int(port)))
        body = msgspec.json.encode(HI | {"stream": True})
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        peer.sendall(head.encode() + body)
        uid = (await transport.submitted()).uid
        chunk = ids("word ") * 200
        while Abort(uid) not in transport.sent:
            transport.events(TokenEvent(uid, 0, chunk))
            await asyncio.sleep(0.001)
        assert server.client.num_streams == 0
        peer.close()


async def test_a_client_that_leaves_within_its_body_is_no_bug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as server:
        host, port = server.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\n{")
        await writer.drain()
        writer.close()
        counted = f'route="/tokenize",status="{499}"}} 1.0'
        while counted not in (await server.http.get("/metrics")).text:
            pass
        assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_draining_lets_streams_finish_and_refuses_new_ones() -> None:
    async with scripted() as (server, transport):
        task = asyncio.create_task(open_stream(server))
        uid = (await transport.submitted()).uid
        transport.events(TokenEvent(uid, 0, ids("Hello")))
        response = await task
        drain = asyncio.create_task(server.services.lifecycle.drain(1000))
        await asyncio.sleep(0)
        ready = await server.http.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json() == {"status": "draining", "open": 1}
        refused = await server.chat()
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutdown"
        transport.events(TokenEvent(uid, 0, ids(" world"), "length"))
        events = parse_events(await response.aread())
        assert events[-1] == "[DONE]"
        assert events[-2]["choices"][0]["finish_reason"] == "length"
        await drain


@pytest.mark.parametrize("num_prompts", [1, 2])
async def test_what_does_not_finish_in_time_gets_an_error_and_an_end(num_prompts: int) -> None:
    async with scripted() as (server, transport):
        body = {"prompt": ["x"] * num_prompts, "stream": True}
        request = server.http.build_request("POST", "/v1/completions", json=body)
        task = asyncio.create_task(server.http.send(request, stream=True))
        uid = (await transport.submitted(num_prompts)).uid
        transport.events(TokenEvent(uid, 0, ids("Hello")))
        response = await task
        whole = asyncio.create_task(server.chat())
        await transport.submitted(num_prompts + 1)
        await server.services.lifecycle.drain(0)
        error = error_of(await response.aread())
        assert (error["code"], error["message"]) == ("shutdown", "the server is shutting down")
        assert (await whole).status_code == 503
        await until(lambda: Abort(uid) in transport.sent)


async def test_events_that_pile_up_become_one_chunk() -> None:
    async with scripted() as (server, transport):
        task = asyncio.create_task(open_stream(server))
        uid = (await transport.submitted()).uid
        words = ["Hello", " there", ", world"]
        transport.events(*(TokenEvent(uid, 0, ids(word)) for word in words))
        response = await task
        transport.events(TokenEvent(uid, 0, [], "length"))
        events = parse_events(await response.aread())
        contents = [e["choices"][0]["delta"].get("content") for e in events[:-1]]
        assert contents == ["", "".join(words), None]


async def test_a_bug_is_a_500_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as server:

        def broken(*args: Any) -> None:
            raise RuntimeError("secret")

        monkeypatch.setattr(server.client, "submit", broken)
        response = await server.chat()
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "internal"
        assert "secret" not in response.text
        assert "secret" in caplog.text
