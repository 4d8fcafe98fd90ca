"""Bodies of other APIs as the chat completions that answer them."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.server import anthropic_input, responses_input
from prelude.server.anthropic_protocol import CountTokensRequest, MessagesRequest
from prelude.server.conversation import Conversation
from prelude.server.errors import ApiError, invalid, renamed
from prelude.server.protocol import ChatRequest
from prelude.server.responses_protocol import ResponsesRequest

CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "2"}
CHAT_CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "f", "arguments": '{"a": 1}'},
}


def of_responses(**fields: Any) -> ChatRequest:
    body = msgspec.convert({"input": "Hi", **fields}, ResponsesRequest)
    return responses_input.chat_request(body)


def of_messages(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    values = {"messages": list(messages), "max_tokens": 9, **fields}
    return anthropic_input.chat_request(msgspec.convert(values, MessagesRequest))


def asked(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def test_a_string_is_what_the_user_says() -> None:
    assert of_responses(instructions="Be brief").messages == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hi"},
    ]


def test_system_texts_at_the_beginning_are_one() -> None:
    items = [{"role": "developer", "content": "B"}, {"role": "user", "content": "Hi"}]
    assert of_responses(instructions="A", input=items).messages[0]["content"] == "A\n\nB"


def test_items_of_one_turn_are_one_message() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm"}],
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Well", "annotations": []}],
        },
        CALL,
        {**CALL, "call_id": "c2"},
        OUTPUT,
        {**OUTPUT, "call_id": "c2", "output": [{"type": "input_text", "text": "3"}]},
        {"role": "assistant", "content": "So"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
    ]
    assert of_responses(input=items).messages == [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "Well",
            "reasoning_content": "Hm",
            "tool_calls": [CHAT_CALL, {**CHAT_CALL, "id": "c2"}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "tool", "tool_call_id": "c2", "content": "3"},
        {"role": "assistant", "content": "So"},
        {"role": "assistant", "content": "No"},
    ]


def test_settings_of_a_response() -> None:
    schema = {"type": "object"}
    found = of_responses(
        tools=[{"type": "function", "name": "f", "parameters": schema, "strict": True}],
        tool_choice={"type": "function", "name": "f"},
        text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}},
        reasoning={"effort": "low"},
        max_output_tokens=5,
        top_logprobs=2,
        include=["reasoning.encrypted_content"],
        temperature=0.5,
        safety_identifier="me",
    )
    function = {"name": "f", "parameters": schema, "strict": True}
    assert found.tools == [{"type": "function", "function": function}]
    assert found.tool_choice == {"type": "function", "function": {"name": "f"}}
    assert found.response_format == {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": schema, "strict": True},
    }
    assert (found.effort, found.max_completion_tokens) == ("low", 5)
    assert (found.logprobs, found.top_logprobs) == (True, 2)
    assert (found.temperature, found.safety_identifier) == (0.5, "me")


def test_only_allowed_tools_are_shown() -> None:
    tools = [{"type": "function", "name": name} for name in ("f", "g")]
    allowed = [{"type": "function", "name": "g"}]
    found = of_responses(
        tools=tools, tool_choice={"type": "allowed_tools", "mode": "required", "tools": allowed}
    )
    assert found.tools == [{"type": "function", "function": {"name": "g"}}]
    assert found.tool_choice == "required"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{**CALL, "arguments": "{"}]}, "input.0.arguments"),
        ({"input": [{**CALL, "arguments": "[" * 9999}]}, "input.0.arguments"),
        ({"input": [{**CALL, "arguments": "[]"}]}, "input.0.arguments"),
        ({"input": [{**CALL, "name": None}]}, "input.0.name"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input.0.output"),
        ({"input": [{"type": ["x"]}]}, "input.0.type"),
        ({"input": [{}]}, "input.0.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input.0.content.0.type",
        ),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tools": [{"type": "function", "name": "f", "description": 1}]}, "tools.0.description"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.tools"),
    ],
)
def test_what_is_wrong_with_a_response_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        of_responses(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_blocks_of_one_turn_are_one_message() -> None:
    found = of_messages(
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm", "signature": ""},
                {"type": "redacted_thinking", "data": "x"},
                text("Well"),
                {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
            ],
        },
        asked(
            {"type": "tool_result", "tool_use_id": "c1", "content": [text("2")]},
            text("And"),
            text("then?"),
        ),
        system=[text("Be"), text("brief")],
    )
    function = {"name": "f", "arguments": '{"a":1}'}
    assert found.messages == [
        {"role": "system", "content": "Be\nbrief"},
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "Well",
            "reasoning_content": "Hm",
            "tool_calls": [{**CHAT_CALL, "function": function}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "user", "content": "And\nthen?"},
    ]


@pytest.mark.parametrize(
    ("content", "goes_on"),
    [
        ("The answer is", True),
        ([text("The answer is")], True),
        ([], False),
        ([text("Let me see"), {"type": "tool_use", "id": "c1", "name": "f", "input": {}}], False),
    ],
)
def test_an_answer_that_was_begun_goes_on(content: Any, goes_on: bool) -> None:
    hi, begun = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}
    assert bool(of_messages(hi, begun).continue_final_message) is goes_on
    assert not of_messages(hi, begun, hi).continue_final_message


def test_settings_of_a_message() -> None:
    schema = {"type": "object"}
    found = of_messages(
        {"role": "user", "content": "Hi"},
        tools=[{"name": "f", "description": "d", "input_schema": schema}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        output_config={"format": {"type": "json_schema", "schema": schema}},
        stop_sequences=["x"],
        metadata={"user_id": "me"},
        top_k=3,
    )
    function = {"name": "f", "description": "d", "parameters": schema}
    assert found.tools == [{"type": "function", "function": function}]
    assert (found.tool_choice, found.parallel_tool_calls) == ("required", False)
    assert found.response_format == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema},
    }
    assert (found.stop, found.user, found.top_k, found.max_tokens) == (["x"], "me", 3, 9)
    assert found.is_capped_by_context


@pytest.mark.parametrize(
    ("thinking", "effort"),
    [
        ({"type": "disabled"}, "none"),
        ({"type": "enabled"}, "medium"),
        ({"type": "enabled", "budget_tokens": 1024}, "low"),
        ({"type": "enabled", "budget_tokens": 4096}, "medium"),
        ({"type": "enabled", "budget_tokens": 32000}, "high"),
        ({"type": "adaptive"}, None),
    ],
)
def test_thinking_is_an_effort(thinking: dict[str, Any], effort: str | None) -> None:
    hi = {"role": "user", "content": "Hi"}
    assert of_messages(hi, thinking=thinking).effort == effort
    said = of_messages(hi, thinking=thinking, output_config={"effort": "max"}).effort
    assert said == ("none" if effort == "none" else "xhigh")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "input", "id", "name", "call_id"]),
            inner | st.sampled_from(["text", "user", "assistant", "tool_use", "function_call"]),
            max_size=4,
        )
    ),
    max_leaves=8,
)
objects = st.dictionaries(
    st.sampled_from(["type", "role", "content", "output", "arguments", "summary"]),
    json_values | st.sampled_from(["message", "function_call", "reasoning", "user", "assistant"]),
    max_size=5,
)


@given(st.lists(objects, max_size=3), st.lists(objects, max_size=2), objects)
def test_any_objects_are_read_or_refused(
    items: list[dict[str, Any]], tools: list[dict[str, Any]], choice: dict[str, Any]
) -> None:
    response = ResponsesRequest(input=items, tools=tools, tool_choice=choice)
    message = CountTokensRequest(messages=items, tools=tools, tool_choice=choice)
    readers: list[Callable[[], ChatRequest]] = [
        lambda: responses_input.chat_request(response),
        lambda: anthropic_input.chat_request(message),
    ]
    for read in readers:
        try:
            found = read()
        except ApiError as error:
            assert error.status == 400
        else:
            assert all(isinstance(one["role"], str) for one in found.messages)


def test_a_new_answer_is_a_new_message() -> None:
    found = Conversation()
    found.answer("A")
    found.answer("B")
    found.call("c", "f", "{}")
    found.answer("C")
    assert [one["content"] for one in found.messages] == ["A", "B\nC"]


def test_errors_are_renamed_by_whole_segments() -> None:
    names = {"stop": "stop_sequences", r"tools\.(\d+)\.function": r"tools.\1"}
    for old, new in (
        ("stop", "stop_sequences"),
        ("stop.1", "stop_sequences.1"),
        ("stop_token_ids", "stop_token_ids"),
        ("tools.2.function.name", "tools.2.name"),
    ):
        with pytest.raises(ApiError) as caught, renamed(names):
            raise invalid(old, "is wrong")
        assert (caught.value.param, caught.value.message) == (new, f"{new}: is wrong")
    with pytest.raises(ApiError) as other, renamed(names):
        raise ApiError(503, "stop: later")
    assert (other.value.param, other.value.message) == (None, "stop: later")
