"""The real openai client, sync and async, against a real server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from prelude.batcher.sequence import Sequence
from prelude.types.errors import Refusal, RefusedError
from prelude.types.request import Request
from tests.server_harness import ANSWER, Engine, Gate, Harness, says, serving
from tests.text_samples import byte_level

T = TypeVar("T")
HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]


@asynccontextmanager
async def openai_clients(
    engine: Engine | None = None,
) -> AsyncIterator[tuple[Harness, AsyncOpenAI]]:
    async with (
        serving(engine) as server,
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield server, client


async def in_thread(server: Harness, work: Callable[[OpenAI], T]) -> T:
    def run() -> T:
        with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            return work(client)

    return await asyncio.to_thread(run)


async def test_sync_create() -> None:
    async with serving() as server:
        made = await in_thread(
            server, lambda c: c.chat.completions.create(model="test-model", messages=HI)
        )
        assert made.choices[0].message.content == ANSWER
        assert made.choices[0].finish_reason == "stop"
        assert made.usage is not None
        assert made.usage.prompt_tokens_details is not None
        assert made.usage.prompt_tokens_details.cached_tokens == 0
        assert made._request_id is not None
        assert made.id == f"chatcmpl-{made._request_id}"


async def test_sync_stream() -> None:
    def work(client: OpenAI) -> tuple[str, list[str | None], int]:
        stream = client.chat.completions.create(
            model="test-model", messages=HI, stream=True, stream_options={"include_usage": True}
        )
        text, reasons, tokens = "", [], 0
        for chunk in stream:
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reasons.append(choice.finish_reason)
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        return text, [reason for reason in reasons if reason], tokens

    async with serving() as server:
        text, reasons, tokens = await in_thread(server, work)
        assert (text, reasons) == (ANSWER, ["stop"])
        assert tokens == len(byte_level().encode(ANSWER)) + 1


async def test_the_stream_helper() -> None:
    async with openai_clients() as (_, client):
        async with client.chat.completions.stream(model="test-model", messages=HI) as stream:
            deltas = [event.delta async for event in stream if event.type == "content.delta"]
            final = await stream.get_final_completion()
        assert "".join(deltas) == ANSWER
        assert final.choices[0].message.content == ANSWER


async def test_logprobs() -> None:
    async with openai_clients() as (_, client):
        made = await client.chat.completions.create(
            model="test-model", messages=HI, logprobs=True, top_logprobs=1, max_tokens=3
        )
        logprobs = made.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert len(logprobs.content) == 3
        assert "".join(entry.token for entry in logprobs.content) == made.choices[0].message.content
        assert logprobs.content[0].top_logprobs[0].logprob == -1.0


async def test_completions_with_echo() -> None:
    async with openai_clients() as (_, client):
        made = await client.completions.create(
            model="test-model", prompt=["fox", "dog"], echo=True, logprobs=1, max_tokens=2, n=2
        )
        assert [choice.index for choice in made.choices] == [0, 1, 2, 3]
        assert [choice.text[:3] for choice in made.choices] == ["fox", "fox", "dog", "dog"]
        assert made.choices[0].logprobs is not None
        assert made.choices[0].logprobs.text_offset is not None
        stream = await client.completions.create(model="test-model", prompt="fox", stream=True)
        text = "".join([choice.text async for chunk in stream for choice in chunk.choices])
        assert text == ANSWER


async def test_models() -> None:
    async with openai_clients() as (_, client):
        assert [model.id async for model in client.models.list()] == ["test-model"]
        assert (await client.models.retrieve("test-model")).owned_by == "prelude"


async def test_errors_are_the_clients_own() -> None:
    async with openai_clients() as (_, client):
        create = client.chat.completions.create
        with pytest.raises(openai.NotFoundError) as missing:
            await create(model="other", messages=HI)
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError) as bad:
            await create(model="test-model", messages=HI, temperature=-1)
        assert bad.value.param == "temperature"
        with pytest.raises(openai.BadRequestError) as streamed:
            await create(model="test-model", messages=HI, stream=True, logit_bias={"999999": 1})
        assert streamed.value.param == "logit_bias"


async def test_overload_is_a_rate_limit_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(request: Request) -> list[Sequence]:
        raise RefusedError(Refusal("queue_full", 2.5, num_waiting=7))

    async with openai_clients(Engine()) as (server, client):
        assert server.core is not None
        monkeypatch.setattr(server.core.ledger, "make", full)
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(model="test-model", messages=HI)
        assert refused.value.response.headers["retry-after"] == "3"
        assert refused.value.code == "rate_limit_exceeded"


async def test_cancelling_a_stream_reaches_the_engine() -> None:
    gate = Gate()
    engine = Engine(says(byte_level(), ANSWER, forever=True), gate, max_len=10_000)
    async with openai_clients(engine) as (server, client):
        gate.allow(8)
        stream = await client.chat.completions.create(model="test-model", messages=HI, stream=True)
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if text:
                break
        await stream.close()
        await server.until(lambda: server.client.num_streams == 0)
        gate.open()
        await server.until(lambda: server.client.stats.num_running == 0)
        assert server.client.stats.num_blocks_referenced == 0


async def test_thirty_two_at_once() -> None:
    async with openai_clients(Engine(max_seqs=16)) as (server, client):

        async def one(n: int) -> str:
            stream = await client.chat.completions.create(
                model="test-model",
                messages=[{"role": "user", "content": f"Question {n}"}],
                stream=True,
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        assert await asyncio.gather(*(one(n) for n in range(32))) == [ANSWER] * 32
        await server.until(lambda: server.services.lifecycle.num_open == 0)


async def test_extensions_pass_through_extra_body() -> None:
    async with openai_clients() as (_, client):
        made = await client.chat.completions.create(
            model="test-model",
            messages=HI,
            max_tokens=60,
            extra_body={"ignore_eos": True, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1},
        )
        assert made.usage is not None
        assert made.usage.completion_tokens == 60
