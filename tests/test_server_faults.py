"""What clients see when the engine is starting, refuses, or dies."""

import asyncio

import pytest

from prelude.types.errors import REFUSAL_CODES, Refusal, RefusalCode
from prelude.types.request import TokenEvent
from prelude.types.wire import Abort, Progress, Ready
from tests.fakes import ScriptedEngines, some_info, until
from tests.scripted_server import error_of, ids, open_stream, scripted
from tests.server_harness import Engine, Gate, listening, serving, test_config
from tests.text_samples import byte_level


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
