"""Messages and prompts to ids: every accepted shape, and errors that point into the body."""

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.server.errors import ApiError
from prelude.server.prompts import check_fits, encode_chat, encode_prompts, off_loop
from prelude.server.protocol import ChatRequest, CompletionRequest
from tests.text_samples import byte_level, metaspace

USER = {"role": "user", "content": "Hi"}


async def chat(*messages: Any, **fields: Any) -> str:
    tokenizer = byte_level()
    ids = await encode_chat(tokenizer, ChatRequest(messages=list(messages), **fields))
    return tokenizer.decode(ids, skip_special_tokens=False)


async def prompts(prompt: Any, **fields: Any) -> list[tuple[str | None, list[int]]]:
    return await encode_prompts(metaspace(), CompletionRequest(prompt=prompt, **fields), 4)


async def test_a_conversation_ends_with_the_assistants_turn() -> None:
    expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert await chat(USER) == expected
    assert await chat(USER, add_generation_prompt=False) == expected.removesuffix(
        "<|im_start|>assistant\n"
    )


async def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert "user\na\nb<|im_end|>" in await chat({"role": "user", "content": parts})


async def test_developer_is_system_where_the_template_knows_no_developer() -> None:
    assert "<|im_start|>system\nrules" in await chat(
        {"role": "developer", "content": "rules"}, USER
    )


async def test_the_final_message_can_be_continued() -> None:
    got = await chat(USER, {"role": "assistant", "content": "I am"}, continue_final_message=True)
    assert got.endswith("<|im_start|>assistant\nI am")


async def test_reasoning_effort_and_template_variables() -> None:
    closed = "<think>\n\n</think>"
    assert closed in await chat(USER, reasoning_effort="none")
    assert closed not in await chat(USER, reasoning_effort="low")
    assert closed in await chat(USER, chat_template_kwargs={"enable_thinking": False})
    stated = {"enable_thinking": True}
    assert closed not in await chat(USER, reasoning_effort="none", chat_template_kwargs=stated)


async def test_tool_arguments_become_objects() -> None:
    function = {"name": "f", "arguments": '{"x": 1}'}
    call = {"id": "1", "type": "function", "function": function}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    await chat(USER, message, USER)
    assert function["arguments"] == '{"x": 1}'


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "x"}, "messages.1.role"),
        ({"role": 3, "content": "x"}, "messages.1.role"),
        ({"role": "user", "content": 3}, "messages.1.content"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages.1.content.0.type"),
        ({"role": "user", "content": ["x"]}, "messages.1.content.0.type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages.1.content.0.text"),
        ({"role": "assistant", "content": "", "tool_calls": 3}, "messages.1.tool_calls"),
        (
            {"role": "assistant", "content": "", "tool_calls": [3]},
            "messages.1.tool_calls.0.function",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"arguments": "[" * 99_999}}]},
            "messages.1.tool_calls.0.function.arguments",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]},
            "messages.1.tool_calls.0.function.arguments",
        ),
    ],
)
async def test_bad_messages_are_located(message: Any, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        await chat(USER, message)
    assert caught.value.param == param


async def test_the_templates_own_words_reach_the_client() -> None:
    with pytest.raises(ApiError, match="Unexpected role critic"):
        await chat({"role": "critic", "content": "x"})
    with pytest.raises(ApiError, match="no chat template"):
        await encode_chat(metaspace(), ChatRequest(messages=[USER]))
    with pytest.raises(ApiError, match=r"chat_template_kwargs\.messages"):
        await chat(USER, chat_template_kwargs={"messages": []})
    with pytest.raises(ApiError, match="at least one message"):
        await chat()


async def test_every_shape_of_prompt() -> None:
    text = "the fox"
    ids = metaspace().encode(text)
    assert await prompts(text) == [(text, ids)]
    assert await prompts([text, text]) == [(text, ids)] * 2
    assert await prompts([5, 6]) == [(None, [5, 6])]
    assert await prompts([[5, 6], [7]]) == [(None, [5, 6]), (None, [7])]
    assert await prompts([text, [5]]) == [(text, ids), (None, [5])]


async def test_special_tokens_can_be_left_out() -> None:
    assert (await prompts("fox", add_special_tokens=False))[0][1] == metaspace().encode(
        "fox", False
    )


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([], "prompt"),
        ([[]], "prompt.0"),
        (["ok", 3], "prompt.1"),
        ([["x"]], "prompt.0"),
        ([[True]], "prompt.0"),
        ([1, 2.5], "prompt.0"),
        (["x"] * 5, "prompt"),
    ],
)
async def test_bad_prompts_are_located(prompt: Any, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        await prompts(prompt)
    assert caught.value.param == param


async def test_an_empty_text_without_special_tokens_is_no_prompt() -> None:
    with pytest.raises(ApiError, match="must not be empty"):
        await encode_prompts(byte_level(), CompletionRequest(prompt=""), 4)
    assert (await prompts(""))[0][1] == [1]  # the beginning-of-text token is a prompt


def test_what_fits() -> None:
    assert check_fits(9, 10, "prompt") == 1
    for num in (10, 11):
        with pytest.raises(ApiError, match=f"{num} tokens and the model's context is 10") as caught:
            check_fits(num, 10, "prompt")
        assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")


async def test_long_work_leaves_the_loop() -> None:
    here = threading.get_ident()
    assert await off_loop(10, threading.get_ident) == here
    assert await off_loop(10**6, threading.get_ident) != here

    def fails() -> None:
        raise ValueError("stop: is wrong")

    for size in (1, 10**6):
        with pytest.raises(ApiError, match="stop: is wrong"):
            await off_loop(size, fails)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 9999}}]},
        {"messages": [{"role": "assistant", "content": "", "reasoning_content": "x" * 9999}]},
        {"chat_template_kwargs": {"facts": "x" * 9999}},
    ],
)
async def test_whatever_makes_a_prompt_long_counts(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    async def noted(size: int, function: Any) -> Any:
        sizes.append(size)
        return function()

    monkeypatch.setattr("prelude.server.prompts.off_loop", noted)
    await encode_chat(byte_level(), ChatRequest(**{"messages": [USER], **fields}))
    assert sizes[0] > 9999


async def test_arguments_are_nested_no_deeper_than_a_body() -> None:
    function = {"name": "f", "arguments": '{"a":' * 200 + "1" + "}" * 200}
    call = {"role": "assistant", "tool_calls": [{"function": function}]}
    with pytest.raises(ApiError, match="nested more than 64 levels") as caught:
        await chat(USER, call)
    assert caught.value.param == "messages.1.tool_calls.0.function.arguments"


@given(st.text() | st.text(alphabet="\u1100\u1161\u11a8e\u0301\u0323 a"))
def test_no_text_is_longer_than_its_tokens_allow(text: str) -> None:
    tokenizer = byte_level()
    most = tokenizer.max_chars(len(tokenizer.encode(text, add_special_tokens=False)))
    assert most is not None and len(text) <= most
    assert metaspace().max_chars(1) is None  # it may drop spaces


async def test_what_cannot_fit_is_not_even_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, text = byte_level(), "x" * 5000
    chat = ChatRequest(messages=[{"role": "user", "content": text}])
    cut = CompletionRequest(prompt=text, truncate_prompt_tokens=5)
    (_, ids), *_ = await encode_prompts(tokenizer, cut, 4, 10)
    assert len(ids) > 10  # who wants the end alone gets it
    monkeypatch.setattr(type(tokenizer), "encode", None)
    for encoding, param in (
        (encode_prompts(tokenizer, CompletionRequest(prompt=[text, "b"]), 4, 10), "prompt"),
        (encode_chat(tokenizer, chat, 10), "messages"),
    ):
        with pytest.raises(
            ApiError, match=r"characters, and the model's context of 10 tokens"
        ) as e:
            await encoding
        assert (e.value.param, e.value.code) == (param, "context_length_exceeded")
