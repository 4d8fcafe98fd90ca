"""Request ids, counts and the access log."""

import logging
import re
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from prelude.logs import Fields, JsonFormatter
from tests.server_harness import Engine, Gate, Harness, serving

LOGGER = "prelude.server.observe"


async def records(server: Harness, caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    await server.until(lambda: server.services.lifecycle.num_open == 0)
    found = [record.msg for record in caplog.records if record.name == LOGGER]
    assert all(isinstance(one, Fields) for one in found)
    return found  # type: ignore[return-value]


async def test_a_generation_is_logged_with_its_numbers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    async with serving() as server:
        await server.chat(n=2, stop="fox")
        await server.chat_events(max_tokens=2)
        whole, streamed = await records(server, caplog)
        assert (whole["path"], whole["status"]) == ("/v1/chat/completions", 200)
        assert whole["finish_reasons"] == ["stop"]
        assert whole["completion_tokens"] > 2
        assert streamed["finish_reasons"] == ["length"]
        assert streamed["completion_tokens"] == 2
        assert {"queue_ms", "ttft_ms", "total_ms", "ms", "cached_tokens"} <= set(streamed)
        assert whole["request_id"] != streamed["request_id"]


async def test_refusals_are_logged_and_polling_is_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    async with serving() as server:
        await server.http.get("/health/ready")
        await server.http.get("/metrics")
        await server.http.get("/page/chat.js")
        await server.chat(model="other")
        (refused,) = await records(server, caplog)
        assert refused["status"] == 404
        assert "prompt_tokens" not in refused


async def test_the_log_can_be_off(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, LOGGER)
    async with serving() as server:
        await server.chat()
        assert await records(server, caplog) == []


@pytest.mark.parametrize("given", ["abc", "A.b_c:d-1", "x" * 128])
async def test_good_ids_are_kept(given: str) -> None:
    async with serving() as server:
        response = await server.http.get("/version", headers={"x-request-id": given})
        assert response.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "<script>", 'a"b'])
async def test_bad_ids_are_replaced(given: str) -> None:
    async with serving() as server:
        response = await server.http.get("/version", headers={"x-request-id": given})
        assert response.headers["x-request-id"] != given
        assert len(response.headers["x-request-id"]) == 32


async def test_unknown_paths_share_one_label() -> None:
    async with serving() as server:
        for n in range(3):
            await server.http.get(f"/nothing/{n}")
        text = (await server.http.get("/metrics")).text
        assert 'route="unmatched",status="404"} 3.0' in text


async def test_errors_name_the_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    async with serving() as server:
        refused = await server.chat(top_p=7)
        missing = await server.http.get("/nothing")
        (one, two) = await records(server, caplog)
    assert refused.json()["error"]["request_id"] == refused.headers["x-request-id"]
    assert (one["request_id"], one["error"]) == (refused.headers["x-request-id"], "invalid_value")
    assert (two["request_id"], two["error"]) == (missing.headers["x-request-id"], "404")


async def test_errors_are_counted_by_code() -> None:
    async with serving() as server:
        await server.chat(top_p=7)
        await server.chat(top_p=8)
        await server.http.get("/nothing")
        text = (await server.http.get("/metrics")).text
    assert 'prelude_errors_total{code="invalid_value",model_name="test-model"} 2.0' in text
    assert 'prelude_errors_total{code="404",model_name="test-model"} 1.0' in text


async def test_what_a_stream_failed_with_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    gate = Gate()
    async with serving(Engine(gate=gate)) as server:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        gate.allow(5)
        async with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.aiter_lines()
            await anext(lines)
            await server.services.lifecycle.drain(0)
            rest = [line async for line in lines]
        request_id = response.headers["x-request-id"]
        assert any(f'"request_id":"{request_id}"' in line for line in rest)
        (line,) = await records(server, caplog)
    assert (line["status"], line["error"]) == (200, "shutdown")


async def test_bugs_are_answered_counted_and_logged_with_the_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def bug(request: Request) -> Response:
        raise KeyError("the cause")

    caplog.set_level(logging.INFO)
    async with serving() as server:
        server.app.router.routes.append(Route("/bug", bug))
        response = await server.http.get("/bug", headers={"x-request-id": "mine"})
        assert response.status_code == 500
        assert response.headers["x-request-id"] == "mine"
        assert response.json()["error"]["request_id"] == "mine"
        assert "the cause" not in response.text
        (line,) = await records(server, caplog)
        assert (line["status"], line["error"], line["request_id"]) == (500, "internal", "mine")
        assert 'route="/bug",status="500"} 1.0' in (await server.http.get("/metrics")).text
        await server.until(lambda: any(record.exc_info for record in caplog.records))


async def test_what_people_write_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "zeppelin"
    async with serving() as server:
        said = [{"role": "user", "content": f"my {secret}"}]
        await server.chat(messages=said)
        await server.chat_events(messages=said, max_tokens=2)
        await server.chat(messages=said, top_p=7)
        await server.chat(messages=[{"role": "user", "content": 3, "name": secret}])
        await server.complete(prompt=secret, stop=[secret])
        await server.http.post("/tokenize", json={"prompt": secret})
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert lines and not [line for line in lines if secret in line]


async def test_every_answer_says_how_long_it_took() -> None:
    async with serving() as server:
        for response in (
            await server.http.get("/version"),
            await server.http.get("/nothing"),
            await server.chat(top_p=7),
        ):
            assert re.fullmatch(r"total;dur=\d+\.\d{3}", response.headers["server-timing"])
        whole = await server.chat()
        assert whole.headers["server-timing"].startswith('class;desc="fast", queue;dur=')
