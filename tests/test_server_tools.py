"""Tools and reasoning over HTTP, before the real engine loop with a model that has a script."""

import json
from typing import Any

import pytest

from prelude.conf.schema import ReasoningField, ReasoningParserName
from tests.server_harness import Engine, says, serving, test_config
from tests.text_samples import CHAT_TEMPLATE, byte_level
from tests.tool_samples import (
    NOW,
    NOW_CALL,
    PARIS,
    THOUGHT,
    WEATHER,
    both_ways,
    function_call,
    script,
    tool_tokenizer,
)


async def test_calls_streamed_and_whole() -> None:
    text = f"Let me see.\n{PARIS}\n{NOW_CALL}"
    async with serving(script(text), tokenizer=tool_tokenizer()) as server:
        message, reason = await both_ways(server, tools=[WEATHER, NOW])
        assert message == {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                function_call("get_weather", '{"city": "Paris"}'),
                function_call("now", "{}"),
            ],
        }
        assert reason == "tool_calls"
        message, _ = await both_ways(server, tools=[WEATHER, NOW], parallel_tool_calls=False)
        assert len(message["tool_calls"]) == 1


async def test_only_calls_have_no_content() -> None:
    async with serving(script(PARIS), tokenizer=tool_tokenizer()) as server:
        message, _ = await both_ways(server, tools=[WEATHER])
        assert message["content"] is None


async def test_without_tools_all_is_content_and_special_tokens_are_not_printed() -> None:
    async with serving(script(f"Hi {PARIS}"), tokenizer=tool_tokenizer()) as server:
        message, reason = await both_ways(server)
        assert message["content"].split("\n")[0] == "Hi "
        assert reason == "stop"
        message, _ = await both_ways(server, tools=[WEATHER], tool_choice="none")
        assert "tool_calls" not in message


async def test_reasoning_content_and_calls() -> None:
    tokenizer = tool_tokenizer()
    async with serving(script(f"{THOUGHT}Sure.\n{PARIS}"), tokenizer=tokenizer) as server:
        message, reason = await both_ways(server, tools=[WEATHER])
        assert message["reasoning_content"] == "Hm, Paris."
        assert (message["content"], reason) == ("Sure.", "tool_calls")
        usage = (await server.chat(tools=[WEATHER])).json()["usage"]
        num = len(tokenizer.encode("<think>\nHm, Paris.\n</think>", add_special_tokens=False))
        assert usage["completion_tokens_details"] == {"reasoning_tokens": num}
        assert usage["completion_tokens"] > num
        events = await server.chat_events(stream_options={"include_usage": True})
        assert events[-2]["usage"]["completion_tokens_details"]["reasoning_tokens"] == num
        message, _ = await both_ways(server, tools=[WEATHER], include_reasoning=False)
        assert "reasoning_content" not in message
        usage = (await server.chat(include_reasoning=False)).json()["usage"]
        assert usage["completion_tokens_details"]["reasoning_tokens"] == num


async def test_a_template_may_open_the_reasoning_and_effort_none_closes_it() -> None:
    tokenizer = tool_tokenizer(opens=True)
    engine = script("Hm.\n</think>\n\nYes.", tokenizer)
    async with serving(engine, tokenizer=tokenizer) as server:
        message, _ = await both_ways(server)
        assert (message["reasoning_content"], message["content"]) == ("Hm.", "Yes.")
        num = (await server.chat()).json()["usage"]["prompt_tokens"]
        closed = (await server.chat(reasoning_effort="none")).json()
        assert closed["usage"]["prompt_tokens"] == num + len(
            tokenizer.encode("\n</think>\n\n", add_special_tokens=False)
        )
        assert "reasoning_content" not in closed["choices"][0]["message"]
        assert closed["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


async def test_a_template_that_closes_the_reasoning_leaves_none() -> None:
    async with serving(Engine(says(byte_level(), "<think>x</think>y"))) as server:
        kwargs = {"enable_thinking": False}
        message, _ = await both_ways(server, chat_template_kwargs=kwargs)
        assert message["content"] == "<think>x</think>y"
        message, _ = await both_ways(server)
        assert (message["reasoning_content"], message["content"]) == ("x", "y")


@pytest.mark.parametrize(
    ("field", "names"),
    [("reasoning", ["reasoning"]), ("both", ["reasoning_content", "reasoning"])],
)
async def test_the_name_of_the_reasoning_is_configured(field: str, names: list[str]) -> None:
    config = test_config(reasoning_field=ReasoningField(field))
    async with serving(Engine(says(byte_level(), f"{THOUGHT}Yes.")), config=config) as server:
        message = (await server.chat()).json()["choices"][0]["message"]
        assert {name: message[name] for name in names} == dict.fromkeys(names, "Hm, Paris.")
        assert len(message) == 2 + len(names)


async def test_reasoning_can_be_left_in_the_content_or_be_taken_for_granted() -> None:
    config = test_config(reasoning_parser=ReasoningParserName.none)
    async with serving(Engine(says(byte_level(), f"{THOUGHT}Yes.")), config=config) as server:
        message, _ = await both_ways(server)
        assert message["content"] == f"{THOUGHT}Yes."
    config = test_config(reasoning_parser=ReasoningParserName.deepseek_r1)
    async with serving(Engine(says(byte_level(), "Hm.</think>Yes.")), config=config) as server:
        message, _ = await both_ways(server)
        assert (message["reasoning_content"], message["content"]) == ("Hm.", "Yes.")
        kwargs = {"thinking": False}  # which this template does not know
        message, _ = await both_ways(server, chat_template_kwargs=kwargs)
        assert message == {"role": "assistant", "content": "Hm.</think>Yes."}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"max_tokens": 30}, "length"),
        ({"stop": "Par"}, "stop"),
        ({"max_tokens": 2}, "length"),
        ({"stop": "</tool_call>"}, "tool_calls"),
    ],
)
async def test_calls_that_are_cut_off(fields: dict[str, Any], reason: str) -> None:
    async with serving(script(PARIS), tokenizer=tool_tokenizer()) as server:
        _, found = await both_ways(server, tools=[WEATHER], **fields)
        assert found == reason


async def test_several_choices_have_their_own_calls() -> None:
    async with serving(script(PARIS), tokenizer=tool_tokenizer()) as server:
        choices = (await server.chat(tools=[WEATHER], n=2)).json()["choices"]
        ids = {choice["message"]["tool_calls"][0]["id"] for choice in choices}
        assert len(ids) == 2


async def test_logprobs_are_those_of_all_tokens() -> None:
    async with serving(script(f"{THOUGHT}Yes. {PARIS}"), tokenizer=tool_tokenizer()) as server:
        body = (await server.chat(tools=[WEATHER], logprobs=True)).json()
        num = len(body["choices"][0]["logprobs"]["content"])
        assert num == body["usage"]["completion_tokens"]
        events = await server.chat_events(tools=[WEATHER], logprobs=True)
        streamed = [
            entry
            for event in events[:-1]
            for choice in event["choices"]
            for entry in choice.get("logprobs", {"content": []})["content"]
        ]
        assert len(streamed) == num


async def test_the_template_is_shown_tools_calls_and_results() -> None:
    tokenizer = tool_tokenizer()
    conversation = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", **function_call("get_weather", '{"city": "Paris"}')}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    async with serving(script("Sunny.", tokenizer), tokenizer=tokenizer) as server:
        strict = {"type": "function", "function": {**WEATHER["function"], "strict": False}}  # type: ignore[dict-item]
        body = {"messages": conversation, "tools": [strict]}
        ids = (await server.http.post("/tokenize", json=body)).json()["tokens"]
        text = tokenizer.decode(ids, skip_special_tokens=False)
        assert text == (
            f"<|im_start|>system\n{json.dumps(WEATHER)}\n<|im_end|>\n"
            "<|im_start|>user\nWeather?<|im_end|>\n"
            f"<|im_start|>assistant\n{PARIS}<|im_end|>\n"
            "<|im_start|>tool\nsunny<|im_end|>\n<|im_start|>assistant\n"
        )
        answer = await server.http.post("/v1/chat/completions", json=body)
        assert answer.json()["usage"]["prompt_tokens"] == len(ids)


async def test_models_whose_template_has_no_place_for_tools_are_told_in_words() -> None:
    tokenizer = byte_level()
    assert "tools" not in CHAT_TEMPLATE
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [{"id": "a", **function_call("get_weather", '{"city": "Paris"}')}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "sunny"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "noon"}]},
    ]
    engine = Engine(says(tokenizer, PARIS), max_len=4096)
    async with serving(engine, tokenizer=tokenizer) as server:
        body = {"messages": conversation, "tools": [WEATHER, NOW]}
        ids = (await server.http.post("/tokenize", json=body)).json()["tokens"]
        text = tokenizer.decode(ids, skip_special_tokens=False)
        system, rest = text.removeprefix("<|im_start|>system\nBe brief.\n\n").split("<|im_end|>", 1)
        assert json.dumps(WEATHER) in system.splitlines()
        assert rest == (
            "\n<|im_start|>user\nWeather?<|im_end|>\n"
            f"<|im_start|>assistant\nI look.\n{PARIS}<|im_end|>\n"
            "<|im_start|>user\n<tool_response>\nsunny\n</tool_response>\n"
            "<tool_response>\nnoon\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
        )
        message, _ = await both_ways(server, tools=[WEATHER])
        assert message["tool_calls"] == [function_call("get_weather", '{"city": "Paris"}')]
