"""Request ids, counts and the access log."""

import logging
from typing import Any

import msgspec
import pytest

from tests.server_harness import Harness, serving

LOGGER = "prelude.server.observe"


async def records(server: Harness, caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    await server.until(lambda: server.services.lifecycle.num_open == 0)
    return [
        msgspec.json.decode(record.getMessage())
        for record in caplog.records
        if record.name == LOGGER
    ]


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
