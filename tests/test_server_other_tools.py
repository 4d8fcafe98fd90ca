"""Tools and reasoning through the APIs beside chat, with their own clients and a scripted model."""

from typing import Any

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.server_harness import serving
from tests.tool_samples import PARIS, THOUGHT, script, tool_tokenizer

TEXT = f"{THOUGHT}Let me see.\n{PARIS}"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION: Any = {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": False}
TOOL: Any = {"name": "get_weather", "input_schema": SCHEMA}
ARGUMENTS = '{"city": "Paris"}'


async def test_a_response_thinks_speaks_and_calls() -> None:
    async with (
        serving(script(TEXT), tokenizer=tool_tokenizer()) as server,
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        made = await client.responses.create(model="test-model", input="Paris?", tools=[FUNCTION])
        assert [item.type for item in made.output] == ["reasoning", "message", "function_call"]
        thought, said, call = made.output
        assert thought.type == "reasoning" and thought.content
        assert "Paris" in thought.content[0].text
        assert made.output_text.strip() == "Let me see."
        assert call.type == "function_call"
        assert (call.name, call.arguments) == ("get_weather", ARGUMENTS)
        assert made.usage is not None
        assert made.usage.output_tokens_details.reasoning_tokens > 0
        async with client.responses.stream(
            model="test-model", input="Paris?", tools=[FUNCTION]
        ) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        assert "response.reasoning_text.delta" in kinds
        assert "response.function_call_arguments.delta" in kinds
        assert [item.type for item in final.output] == [item.type for item in made.output]
        assert final.output_text == made.output_text
        last = final.output[-1]
        assert last.type == "function_call"
        assert last.arguments == ARGUMENTS
        items: Any = [
            {"role": "user", "content": "Paris?"},
            *[item.model_dump(exclude_none=True) for item in made.output],
            {"type": "function_call_output", "call_id": call.call_id, "output": "Rain"},
        ]
        again = await client.responses.create(model="test-model", tools=[FUNCTION], input=items)
        assert again.usage is not None
        assert again.usage.input_tokens > made.usage.input_tokens
        assert said.type == "message"


async def test_a_message_thinks_speaks_and_calls() -> None:
    async with (
        serving(script(TEXT), tokenizer=tool_tokenizer()) as server,
        AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0) as client,
    ):
        asked: Any = {
            "model": "test-model",
            "max_tokens": 500,
            "tools": [TOOL],
            "messages": [{"role": "user", "content": "Paris?"}],
        }
        made = await client.messages.create(**asked)
        assert [block.type for block in made.content] == ["thinking", "text", "tool_use"]
        call = made.content[2]
        assert (call.name, call.input) == ("get_weather", {"city": "Paris"})
        assert made.stop_reason == "tool_use"
        async with client.messages.stream(**asked) as stream:
            final = await stream.get_final_message()
        assert [block.model_dump(exclude={"id"}) for block in final.content] == [
            block.model_dump(exclude={"id"}) for block in made.content
        ]
        assert final.stop_reason == "tool_use"
        counted = await client.messages.count_tokens(
            model="test-model", tools=[TOOL], messages=asked["messages"]
        )
        assert counted.input_tokens == made.usage.input_tokens
        result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "Rain"}
        asked["messages"] += [
            {"role": "assistant", "content": made.content},
            {"role": "user", "content": [result]},
        ]
        again = await client.messages.create(**asked)
        cached = again.usage.cache_read_input_tokens
        assert cached
        assert cached + again.usage.input_tokens > made.usage.input_tokens
