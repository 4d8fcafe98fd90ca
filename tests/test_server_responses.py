"""/v1/responses over a real socket, to the letter, and through the real openai client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import openai
import pytest
from openai import AsyncOpenAI

from tests.server_harness import ANSWER, Engine, Gate, Harness, says, serving
from tests.text_samples import byte_level


@asynccontextmanager
async def clients(engine: Engine | None = None) -> AsyncIterator[tuple[Harness, AsyncOpenAI]]:
    async with (
        serving(engine) as server,
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield server, client


async def create(server: Harness, **fields: Any) -> dict[str, Any]:
    response = await server.http.post("/v1/responses", json={"input": "Hi", **fields})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def refusal(server: Harness, **fields: Any) -> tuple[str, str]:
    """Field and code of the error."""
    response = await server.http.post("/v1/responses", json={"input": "Hi", **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["message"].startswith(error["param"])
    return error["param"], error["code"]


async def events(server: Harness, **fields: Any) -> list[dict[str, Any]]:
    """Every event of a stream; its name is that of its type, and they are numbered."""
    body = {"input": "Hi", "stream": True, **fields}
    async with server.http.stream("POST", "/v1/responses", json=body) as response:
        assert response.status_code == 200, await response.aread()
        text = (await response.aread()).decode()
    found = []
    for number, block in enumerate(text.removesuffix("\n\n").split("\n\n")):
        name, data = block.split("\n")
        event = msgspec.json.decode(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        found.append(event)
    return found


async def test_a_response_has_what_sdks_read() -> None:
    async with serving() as server:
        body = await create(server, metadata={"k": "v"}, temperature=0.5, instructions="Be brief")
        assert body["id"].startswith("resp_")
        assert (body["object"], body["status"], body["error"]) == ("response", "completed", None)
        assert (body["metadata"], body["temperature"]) == ({"k": "v"}, 0.5)
        assert (body["instructions"], body["store"]) == ("Be brief", False)
        assert body["service_tier"] == "default"
        (item,) = body["output"]
        assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
        (part,) = item["content"]
        assert (part["type"], part["text"], part["annotations"]) == ("output_text", ANSWER, [])
        usage = body["usage"]
        assert usage["output_tokens"] == len(byte_level().encode(ANSWER)) + 1
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert usage["input_tokens_details"]["cached_tokens"] == 0
        assert body["timings"]["total_ms"] > 0


async def test_events_of_a_text() -> None:
    async with serving() as server:
        found = await events(server)
        kinds = [event["type"] for event in found if event["type"] != "response.output_text.delta"]
        assert kinds == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        deltas = [event for event in found if event["type"] == "response.output_text.delta"]
        assert "".join(event["delta"] for event in deltas) == ANSWER
        assert {event["item_id"] for event in deltas} == {found[2]["item"]["id"]}
        last = found[-1]["response"]
        assert last["output"][0] == found[-2]["item"]
        assert last["output"][0]["content"][0]["text"] == ANSWER
        whole = await create(server)
        for body in (last, whole):
            for name in ("id", "created_at", "timings", "usage"):
                body.pop(name)
            body["output"][0].pop("id")
        assert last == whole


async def test_an_answer_that_was_cut_is_incomplete() -> None:
    async with serving() as server:
        body = await create(server, max_output_tokens=3)
        assert (body["status"], body["output"][0]["status"]) == ("incomplete", "incomplete")
        assert body["incomplete_details"] == {"reason": "max_output_tokens"}
        found = await events(server, max_output_tokens=3)
        assert found[-1]["type"] == "response.incomplete"
        assert found[-2]["item"]["status"] == "incomplete"


async def test_logprobs() -> None:
    async with serving() as server:
        include = ["message.output_text.logprobs"]
        body = await create(server, include=include, top_logprobs=1, max_output_tokens=3)
        logprobs = body["output"][0]["content"][0]["logprobs"]
        assert len(logprobs) == 3
        assert "".join(one["token"] for one in logprobs) == body["output"][0]["content"][0]["text"]
        assert len(logprobs[0]["top_logprobs"]) == 1
        found = await events(server, include=include, max_output_tokens=3)
        deltas = [event for event in found if event["type"] == "response.output_text.delta"]
        assert sum(len(event["logprobs"]) for event in deltas) == 3


REFUSED: list[tuple[Any, ...]] = [
    ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter"),
    ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
    ({"background": True}, "background", "unsupported_parameter"),
    ({"truncation": "auto"}, "truncation", "unsupported_parameter"),
    ({"include": ["all"]}, "include.0", "invalid_value"),
    ({"tools": [{"type": "web_search"}]}, "tools.0.type", "unsupported_parameter"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type", None),
    ({"input": [{"role": "boss", "content": "x"}]}, "input.0.role", "invalid_value"),
    ({"input": [{"role": "user"}]}, "input.0.content", "invalid_type"),
    ({"input": []}, "input", None),
    ({"input": "x" * 1000}, "input", "context_length_exceeded"),
    ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
    ({"max_output_tokens": 9999}, "max_output_tokens", "context_length_exceeded"),
    ({"temperature": -1}, "temperature", "invalid_value"),
    ({"logit_bias": {"99999": 1}}, "logit_bias", "invalid_value"),
]


async def test_refusals_name_the_field() -> None:
    async with serving() as server:
        for fields, param, code in REFUSED:
            found = await refusal(server, **fields)
            assert found[0] == param
            assert code in (None, found[1])


async def test_openai_client() -> None:
    async with clients() as (_, client):
        made = await client.responses.create(model="test-model", input="Hi")
        assert made.output_text == ANSWER
        assert made.usage is not None
        assert made.usage.input_tokens_details.cached_tokens == 0
        stream = await client.responses.create(model="test-model", input="Hi", stream=True)
        texts = [
            event.delta async for event in stream if event.type == "response.output_text.delta"
        ]
        assert "".join(texts) == ANSWER


async def test_the_stream_helper() -> None:
    async with (
        clients() as (_, client),
        client.responses.stream(model="test-model", input="Hi") as stream,
    ):
        async for event in stream:
            if event.type == "response.output_text.delta":
                assert ANSWER.startswith(event.snapshot)
        assert (await stream.get_final_response()).output_text == ANSWER


async def test_nothing_is_kept() -> None:
    async with clients() as (_, client):
        made = await client.responses.create(model="test-model", input="Hi", store=True)
        with pytest.raises(openai.NotFoundError, match="not stored"):
            await client.responses.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.cancel(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.input_items.list(made.id)


async def test_input_tokens() -> None:
    async with clients() as (_, client):
        made = await client.responses.create(model="test-model", input="Hi", instructions="Be")
        counted = await client.responses.input_tokens.count(
            model="test-model", input="Hi", instructions="Be"
        )
        assert made.usage is not None
        assert counted.input_tokens == made.usage.input_tokens


async def test_a_stream_that_fails_says_so_and_raises() -> None:
    gate = Gate()
    engine = Engine(says(byte_level(), ANSWER, forever=True), gate, max_len=10_000)
    async with clients(engine) as (server, client):
        gate.allow(8)
        stream = await client.responses.create(model="test-model", input="Hi", stream=True)
        seen = []
        with pytest.raises(openai.APIError, match="shutting down"):
            async for event in stream:
                seen.append(event.type)
                if event.type == "response.output_text.delta":
                    await server.services.lifecycle.drain(0)
        assert seen[-1] == "response.failed"
        gate.open()


@pytest.mark.parametrize(
    "fields", [{"deadline_ms": 0}, {"stop": [""]}, {"temperature": -1}, {"max_output_tokens": 0}]
)
async def test_what_is_counted_is_checked_like_what_is_answered(fields: dict[str, Any]) -> None:
    async with serving() as server:
        for path in ("/v1/responses", "/v1/responses/input_tokens"):
            response = await server.http.post(path, json={"input": "Hi", **fields})
            assert response.status_code == 400, path
            assert response.json()["error"]["param"] == next(iter(fields))
