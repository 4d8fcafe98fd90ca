"""Tools and reasoning over HTTP, before the real engine loop with a model that has a script."""

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from prelude.conf.schema import ReasoningField, ReasoningParserName
from prelude.text.tokenizer import Tokenizer
from tests.server_harness import Engine, Harness, says, serving, test_config
from tests.text_samples import CHAT_TEMPLATE, byte_level, byte_level_folder

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
PARIS = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
NOW_CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
THOUGHT = "<think>\nHm, Paris.\n</think>\n\n"

TOOL_TEMPLATE = """\
{%- if tools %}{{- '<|im_start|>system\\n' }}{% for tool in tools %}{{- tool | tojson + '\\n' }}\
{% endfor %}{{- '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>\\n' + {'name': call.function.name, 'arguments': call.function.arguments}\
 | tojson + '\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""


@cache
def tool_tokenizer(opens: bool = False) -> Tokenizer:
    """A template that shows tools; ``opens`` reasoning. ``<tool_call>`` is a special token."""
    backend = Backend.from_file(str(byte_level_folder() / "tokenizer.json"))
    backend.add_special_tokens(
        [
            AddedToken(mark, special=True, normalized=False)
            for mark in ("<tool_call>", "</tool_call>")
        ]
    )
    plain = byte_level()
    source = TOOL_TEMPLATE.replace("assistant\\n' }}", "assistant\\n<think>\\n' }}") * opens
    templates = {"default": source or TOOL_TEMPLATE}
    return Tokenizer(backend, templates, plain.special_tokens, plain.eos_ids)


@cache
def tokenizer_file(tokenizer: Tokenizer) -> Path:
    path = Path(mkdtemp(prefix="tokenizer-")) / "tokenizer.json"
    tokenizer.backend.save(str(path))
    return path


def script(text: str, tokenizer: Tokenizer | None = None) -> Engine:
    tokenizer = tokenizer or tool_tokenizer()
    file = tokenizer_file(tokenizer)
    return Engine(says(tokenizer, text), max_len=1024, tokenizer_file=file)


async def both_ways(server: Harness, **fields: Any) -> tuple[dict[str, Any], str]:
    """The message and finish reason of a whole answer, which must be those of the stream."""
    response = await server.chat(**fields)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    message = choice["message"]
    for call in message.get("tool_calls", ()):
        assert call.pop("id").startswith("call_")
    streamed, reason = assembled(await server.chat_events(**fields))
    assert streamed == {**message, "content": message["content"] or ""}
    assert reason == choice["finish_reason"]
    return message, reason


def assembled(events: list[Any]) -> tuple[dict[str, Any], str]:
    """As clients do it: every part appended to what there is; ids and names come once."""
    message: dict[str, Any] = {}
    reasons = []
    for event in events[:-1]:
        (choice,) = event["choices"]
        delta = choice["delta"]
        assert sum(map(bool, (delta.get(part) for part in delta if part != "role"))) <= 1
        for part in ("role", "content", "reasoning_content", "reasoning"):
            if part in delta:
                message[part] = message.get(part, "") + delta[part]
        for call in delta.get("tool_calls", ()):
            calls = message.setdefault("tool_calls", [])
            if call["index"] == len(calls):
                assert call.pop("id").startswith("call_")
                calls.append({"type": call["type"], "function": call["function"]})
            else:
                assert set(call) == {"index", "function"}
                assert set(call["function"]) == {"arguments"}
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
        if choice["finish_reason"] is not None:
            reasons.append(choice["finish_reason"])
    (reason,) = reasons
    return message, reason


def function_call(name: str, arguments: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


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


ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"enum": [1, 22]}, "b": {"type": "boolean"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
ADD_CHOSEN = {"type": "function", "function": {"name": "add"}}
ALLOWED = {"mode": "required", "tools": [ADD_CHOSEN]}


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (ADD_CHOSEN, "Hm.\n</think>\n\nNo!"),
        ({"type": "allowed_tools", "allowed_tools": ALLOWED}, "<think>Hm.</think>No!"),
        ("required", "No!"),
    ],
)
async def test_calls_that_must_be_are_made_whatever_the_model_would_say(
    choice: Any, said: str
) -> None:
    tokenizer = tool_tokenizer(opens=said.startswith("Hm"))
    config = test_config()
    if said == "No!":
        config.server.reasoning_parser = ReasoningParserName.none
    engine = script(said, tokenizer)
    async with serving(engine, tokenizer=tokenizer, config=config) as server:
        tools = [ADD] if choice == "required" else [WEATHER, ADD, NOW]
        fields = {"tools": tools, "tool_choice": choice, "parallel_tool_calls": False}
        message, reason = await both_ways(server, **fields)
        (call,) = message["tool_calls"]
        assert call["function"]["name"] == "add"
        arguments = json.loads(call["function"]["arguments"])
        assert arguments["a"] in (1, 22)
        assert isinstance(arguments["b"], bool)
        assert (message["content"], reason) == (None, "tool_calls")
        assert message.get("reasoning_content") == (None if said == "No!" else "Hm.")


async def test_strict_functions_are_held_to_their_schema() -> None:
    strict = {"type": "function", "function": {**ADD["function"], "strict": True}}  # type: ignore[dict-item]
    text = 'Sure. <tool_call>\n{"name": "add", "arguments": {"a": 7, "b": false}}\n</tool_call>'
    async with serving(script(text), tokenizer=tool_tokenizer()) as server:
        message, _ = await both_ways(server, tools=[ADD])
        assert json.loads(message["tool_calls"][0]["function"]["arguments"])["a"] == 7
        message, _ = await both_ways(server, tools=[strict], max_tokens=60)
        assert message["content"].startswith("Sure.")
        assert json.loads(message["tool_calls"][0]["function"]["arguments"])["a"] in (1, 22)


async def test_schemas_that_cannot_be_enforced() -> None:
    function = {"name": "f", "parameters": {"properties": {"a": {"not": {"type": "null"}}}}}
    async with serving(script("No!"), tokenizer=tool_tokenizer()) as server:

        async def status(is_strict: bool) -> tuple[int, str]:
            tool = {"type": "function", "function": {**function, "strict": is_strict}}
            response = await server.chat(tools=[tool], tool_choice="required", max_tokens=50)
            return response.status_code, response.json().get("error", {}).get("param", "")

        assert await status(is_strict=False) == (200, "")
        assert await status(is_strict=True) == (400, "tools")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function"),
        ({"tools": [{"type": "function", "function": {"name": 1}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [NOW, NOW]}, "tools.1.function.name"),
        ({"tools": [NOW], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [NOW], "tool_choice": {"type": "custom"}}, "tool_choice.type"),
        ({"tools": [NOW], "tool_choice": {"type": "function"}}, "tool_choice.function.name"),
        ({"tools": [NOW], "tool_choice": function_call("x", "")}, "tool_choice.function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tools": [NOW], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
            "tool_choice.allowed_tools.tools",
        ),
        ({"tools": 3}, "tools"),
        ({"tools": [3]}, "tools.0"),
    ],
)
async def test_refusals(fields: dict[str, Any], param: str) -> None:
    async with serving() as server:
        response = await server.chat(**fields)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("choice", [None, "none", "auto"])
async def test_no_tools_are_no_mistake(choice: str | None) -> None:
    async with serving() as server:
        assert (await server.chat(tools=[], tool_choice=choice)).status_code == 200
        assert (await server.chat(tool_choice=choice)).status_code == 200
