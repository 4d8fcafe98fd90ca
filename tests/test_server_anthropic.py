"""/v1/messages over a real socket, to the letter, and through the real anthropic client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import msgspec
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import MessageParam

from tests.server_harness import ANSWER, Engine, Gate, Harness, says, serving
from tests.text_samples import byte_level

HI: list[MessageParam] = [{"role": "user", "content": "Hi"}]
NUM_TOKENS = len(byte_level().encode(ANSWER)) + 1


@asynccontextmanager
async def clients(engine: Engine | None = None) -> AsyncIterator[tuple[Harness, AsyncAnthropic]]:
    async with (
        serving(engine) as server,
        AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0) as client,
    ):
        yield server, client


async def create(server: Harness, **fields: Any) -> dict[str, Any]:
    body = {"messages": HI, "max_tokens": 100, **fields}
    response = await server.http.post("/v1/messages", json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def events(server: Harness, **fields: Any) -> list[dict[str, Any]]:
    """Every event of a stream; its name is that of its type."""
    body = {"messages": HI, "max_tokens": 100, "stream": True, **fields}
    async with server.http.stream("POST", "/v1/messages", json=body) as response:
        assert response.status_code == 200, await response.aread()
        text = (await response.aread()).decode()
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        found.append(msgspec.json.decode(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


async def test_a_message_has_what_sdks_read() -> None:
    async with serving() as server:
        body = await create(server, system="Be brief", metadata={"user_id": "me"})
        assert body["id"].startswith("msg_")
        assert (body["type"], body["role"], body["model"]) == ("message", "assistant", "test-model")
        assert body["content"] == [{"type": "text", "text": ANSWER, "citations": None}]
        assert (body["stop_reason"], body["stop_sequence"]) == ("end_turn", None)
        first = body["usage"]
        assert (first["output_tokens"], first["cache_read_input_tokens"]) == (NUM_TOKENS, 0)
        again = (await create(server, system="Be brief"))["usage"]
        assert again["cache_read_input_tokens"] > 0
        assert again["input_tokens"] + again["cache_read_input_tokens"] == first["input_tokens"]


async def test_events_of_a_text() -> None:
    async with serving() as server:
        found = await events(server)
        kinds = [event["type"] for event in found if event["type"] != "content_block_delta"]
        assert kinds == [
            "message_start",
            "ping",
            "content_block_start",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
        start = found[0]["message"]
        assert (start["content"], start["stop_reason"]) == ([], None)
        assert start["usage"]["input_tokens"] > 0
        deltas = [event["delta"] for event in found if event["type"] == "content_block_delta"]
        assert "".join(delta["text"] for delta in deltas) == ANSWER
        assert found[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
        assert found[-2]["usage"]["output_tokens"] == NUM_TOKENS


async def test_how_answers_end() -> None:
    async with serving(Engine(says(byte_level(), ANSWER, forever=True), max_len=256)) as server:
        cut = await create(server, max_tokens=3)
        assert (cut["stop_reason"], cut["usage"]["output_tokens"]) == ("max_tokens", 3)
        full = await create(server, max_tokens=100_000)
        assert full["stop_reason"] == "model_context_window_exceeded"
        stopped = await create(server, stop_sequences=["nothing", "jumps"])
        assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "jumps")
        found = await events(server, stop_sequences=["jumps"])
        assert found[-2]["delta"]["stop_sequence"] == "jumps"


REFUSED: list[tuple[Any, ...]] = [
    ({"max_tokens": None}, "max_tokens: "),
    ({"max_tokens": 0}, "max_tokens: must be at least 1"),
    ({"messages": []}, "messages: "),
    ({"messages": [{"role": "boss", "content": "x"}]}, "messages.0.role: "),
    ({"messages": [{"role": "user", "content": 1}]}, "messages.0.content: "),
    (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        "messages.0.content.0.type: ",
    ),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0.type: "),
    ({"tools": [{"name": "f"}]}, "tools.0.input_schema: "),
    ({"tool_choice": {"type": "some"}}, "tool_choice.type: "),
    ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens: "),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format: "),
    ({"stop_sequences": [""]}, "stop_sequences: "),
    ({"temperature": -1}, "temperature: "),
    ({"container": "c"}, "container: "),
]


async def test_refusals_have_anthropics_shape() -> None:
    async with serving() as server:
        for fields, message in REFUSED:
            body = {"messages": HI, "max_tokens": 10, **fields}
            response = await server.http.post("/v1/messages", json=body)
            assert response.status_code == 400, response.text
            found = response.json()
            assert (found["type"], found["error"]["type"]) == ("error", "invalid_request_error")
            assert found["error"]["message"].startswith(message)


async def test_other_errors_have_it_too() -> None:
    async with serving() as server:
        for method, path, status, kind in (
            ("GET", "/v1/messages", 405, "invalid_request_error"),
            ("POST", "/v1/messages/batches", 404, "not_found_error"),
        ):
            response = await server.http.request(method, path)
            assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
        gone = await server.http.post(
            "/v1/messages", json={"messages": HI, "max_tokens": 1, "model": "other"}
        )
        assert (gone.status_code, gone.json()["error"]["type"]) == (404, "not_found_error")


async def test_anthropic_client() -> None:
    async with clients() as (_, client):
        made = await client.messages.create(model="test-model", messages=HI, max_tokens=100)
        assert made.content[0].type == "text"
        assert made.content[0].text == ANSWER
        assert made.stop_reason == "end_turn"
        assert made._request_id is not None
        assert made.id == f"msg_{made._request_id}"
        async with client.messages.stream(
            model="test-model", messages=HI, max_tokens=100
        ) as stream:
            assert "".join([text async for text in stream.text_stream]) == ANSWER
            final = await stream.get_final_message()
        assert final.usage.output_tokens == NUM_TOKENS
        assert final.stop_reason == "end_turn"


async def test_count_tokens() -> None:
    async with clients() as (_, client):
        made = await client.messages.create(
            model="test-model", messages=HI, max_tokens=9, system="Be"
        )
        counted = await client.messages.count_tokens(model="test-model", messages=HI, system="Be")
        assert counted.input_tokens == made.usage.input_tokens


async def test_an_answer_that_was_begun_goes_on() -> None:
    begun: Any = [*HI, {"role": "assistant", "content": ANSWER[:9]}]
    async with clients() as (_, client):
        made = await client.messages.create(model="test-model", messages=begun, max_tokens=99)
        (block,) = made.content
        assert block.type == "text"
        assert block.text == ANSWER[9:]
        counted = await client.messages.count_tokens(model="test-model", messages=begun)
        assert counted.input_tokens == made.usage.input_tokens


async def test_errors_are_the_clients_own() -> None:
    async with clients() as (_, client):
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(model="other", messages=HI, max_tokens=1)
        with pytest.raises(anthropic.BadRequestError, match="temperature"):
            await client.messages.create(
                model="test-model", messages=HI, max_tokens=1, extra_body={"temperature": -1}
            )


async def test_a_stream_that_fails_raises() -> None:
    gate = Gate()
    engine = Engine(says(byte_level(), ANSWER, forever=True), gate, max_len=10_000)
    async with clients(engine) as (server, client):
        gate.allow(8)
        stream = await client.messages.create(
            model="test-model", messages=HI, max_tokens=9000, stream=True
        )
        with pytest.raises(anthropic.APIStatusError, match="shutting down"):
            async for event in stream:
                if event.type == "content_block_delta":
                    await server.services.lifecycle.drain(0)
        gate.open()
