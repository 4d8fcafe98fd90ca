"""Calls that must be made, schemas that must be kept, and tools that are refused."""

import json
from typing import Any

import pytest

from prelude.conf.schema import ReasoningParserName
from tests.server_harness import serving, test_config
from tests.tool_samples import NOW, WEATHER, both_ways, function_call, script, tool_tokenizer

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


async def test_a_call_that_was_cut_off_in_its_name_is_no_content() -> None:
    async with serving(script("No!"), tokenizer=tool_tokenizer()) as server:
        fields = {"tools": [ADD], "tool_choice": "required", "max_tokens": 4}
        message, reason = await both_ways(server, **fields)
        assert (message["content"], message.get("tool_calls"), reason) == ("", None, "length")


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
