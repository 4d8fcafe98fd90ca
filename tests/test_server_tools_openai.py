"""The real openai client: calls and reasoning, streamed and whole."""

import json
from typing import Any

from openai import AsyncOpenAI, pydantic_function_tool
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from tests.server_harness import serving
from tests.tool_samples import NOW_CALL, PARIS, THOUGHT, script, tool_tokenizer

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "How is the weather?"}]


class GetWeather(BaseModel):
    """Of a city."""

    city: str


class Now(BaseModel):
    """The time."""


TOOLS = [
    pydantic_function_tool(GetWeather, name="get_weather"),
    pydantic_function_tool(Now, name="now"),
]


async def test_parallel_calls_come_back_parsed() -> None:
    engine = script(f"{THOUGHT}Let me see.\n{PARIS}\n{NOW_CALL}")
    async with (
        serving(engine, tokenizer=tool_tokenizer()) as server,
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        made = await client.chat.completions.parse(model="test-model", messages=ASK, tools=TOOLS)
        (choice,) = made.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "Let me see."
        assert choice.message.reasoning_content == "Hm, Paris."  # type: ignore[attr-defined]
        weather, now = choice.message.tool_calls or []
        assert weather.function.parsed_arguments == GetWeather(city="Paris")
        assert now.function.parsed_arguments == Now()
        assert made.usage is not None
        assert made.usage.completion_tokens_details is not None
        assert made.usage.completion_tokens_details.reasoning_tokens


async def test_the_stream_helper_puts_calls_together() -> None:
    engine = script(f"{THOUGHT}Let me see.\n{PARIS}\n{NOW_CALL}")
    async with (
        serving(engine, tokenizer=tool_tokenizer()) as server,
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        pieces: dict[int, str] = {0: "", 1: ""}
        done = []
        async with client.chat.completions.stream(
            model="test-model", messages=ASK, tools=TOOLS
        ) as stream:
            async for event in stream:
                if event.type == "tool_calls.function.arguments.delta":
                    pieces[event.index] += event.arguments_delta
                elif event.type == "tool_calls.function.arguments.done":
                    done.append((event.name, event.parsed_arguments))
            final = await stream.get_final_completion()
        assert pieces == {0: '{"city": "Paris"}', 1: "{}"}
        assert done == [("get_weather", GetWeather(city="Paris")), ("now", Now())]
        (choice,) = final.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "Let me see."


async def test_a_conversation_with_results() -> None:
    """What the client got goes back as it came."""
    async with (
        serving(script(PARIS), tokenizer=tool_tokenizer()) as server,
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        first = await client.chat.completions.create(model="test-model", messages=ASK, tools=TOOLS)
        message = first.choices[0].message
        (call,) = message.tool_calls or []
        assert call.type == "function"
        said: Any = message.to_dict()
        assert json.loads(call.function.arguments) == {"city": "Paris"}
        answer: ChatCompletionMessageParam = {
            "role": "tool",
            "tool_call_id": call.id,
            "content": "sunny",
        }
        again = await client.chat.completions.create(
            model="test-model",
            messages=[*ASK, said, answer],
            tools=TOOLS,
            tool_choice="none",
        )
        assert again.usage is not None
        assert again.choices[0].message.tool_calls is None


async def test_reasoning_streams_under_its_own_name() -> None:
    async with (
        serving(script(f"{THOUGHT}Yes."), tokenizer=tool_tokenizer()) as server,
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = await client.chat.completions.create(model="test-model", messages=ASK, stream=True)
        deltas = [chunk.choices[0].delta async for chunk in stream]
        assert "".join(getattr(d, "reasoning_content", "") for d in deltas) == "Hm, Paris."
        assert "".join(delta.content or "" for delta in deltas) == "Yes."
