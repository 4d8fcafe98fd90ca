"""How large the parts of a body may be; what is nested too deep is found without recursion."""

import json
import threading
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.server import nesting
from prelude.server.bounds import BodyBounds, check_shape
from prelude.server.conversation import Conversation
from prelude.server.errors import ApiError
from prelude.server.fields import FieldChecker
from prelude.server.nesting import is_deeper, num_openings, shape_of
from prelude.server.prompts import _encoded_chat, size_of
from prelude.server.protocol import ChatRequest, CompletionRequest
from tests.server_harness import serving, test_config
from tests.text_samples import byte_level

SMALL = BodyBounds(max_messages=3, max_tools=2, max_schema_kib=0.1)


def check(bounds: BodyBounds, **fields: Any) -> None:
    body = json.dumps(fields).encode()
    check_shape(body)
    bounds.check(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))


def refusal(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        check(SMALL, **fields)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize("name", ["messages", "input"])
def test_so_many_messages(name: str) -> None:
    check(SMALL, **{name: [{"role": "user"}] * 3})
    error = refusal(**{name: [{"role": "user"}] * 4})
    assert (error.param, error.code) == (name, "array_too_long")
    assert "has 4 items, and may have 3" in error.message


def test_token_ids_are_no_messages() -> None:
    check(SMALL, input=[1] * 100, prompt=[[1] * 100], messages=None)
    check(SMALL, input=["text"] * 10)


def test_so_many_tools_and_so_long() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    check(SMALL, tools=[tool] * 2)
    assert refusal(tools=[tool] * 3).param == "tools"
    assert refusal(tools=[{"x": "y" * 2000}]).code == "field_too_large"


@pytest.mark.parametrize(
    "name", ["response_format", "regex", "guided_json", "structured_outputs", "grammar", "text"]
)
def test_so_large_a_schema(name: str) -> None:
    check(SMALL, **{name: "x" * 90})
    error = refusal(**{name: {"x": "y" * 200}})
    assert (error.param, error.code) == (name, "field_too_large")
    assert "KiB of JSON, and may be 0.1 KiB" in error.message


def test_so_long_stop_strings() -> None:
    check(SMALL, stop=["x" * 1000])
    assert refusal(stop=["x" * 9000] * 2).param == "stop"


@pytest.mark.parametrize("name", ["model", "user", "safety_identifier", "cache_salt"])
def test_so_long_names(name: str) -> None:
    check(SMALL, **{name: "x" * 4000})
    assert refusal(**{name: "x" * 5000}).param == name


@pytest.mark.parametrize("name", ["allowed_token_ids", "stop_token_ids"])
def test_more_token_ids_than_there_are(name: str) -> None:
    """Looking at them one by one would hold up everybody else."""
    check(SMALL, **{name: list(range(200_000))})
    assert refusal(**{name: [7] * 1_500_000}).param == name


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{}"\\a,:'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def count(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + sum(map(count, value)) if isinstance(value, list) else 0


def commas(value: Any) -> int:
    inside = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(inside, list):
        return 0
    return max(len(inside) - 1, 0) + sum(map(commas, inside))


def strings(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(strings, value.values()))
    return sum(map(strings, value)) if isinstance(value, list) else isinstance(value, str)


@given(JSON, st.booleans(), st.integers(1, 6), st.integers(1, 20))
def test_a_shape_is_found_whatever_is_in_strings(
    value: Any, ascii_only: bool, limit: int, chunk_bytes: int
) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    with mock.patch.object(nesting, "_CHUNK_BYTES", chunk_bytes):
        shape = shape_of(body)
    assert is_deeper(shape.brackets, limit) == (depth(value) > limit)
    assert shape.num_nodes == count(value) <= num_openings(body)
    assert (shape.num_commas, shape.num_strings) == (commas(value), strings(value))


@given(st.binary(max_size=50), st.integers(1, 8))
def test_what_is_no_json_has_some_shape(body: bytes, chunk_bytes: int) -> None:
    with mock.patch.object(nesting, "_CHUNK_BYTES", chunk_bytes):
        assert shape_of(body).num_commas <= body.count(b",")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b'{"x":[' + b"0," * 1_500_001 + b"0]}", "has more than 1500000 values"),
        (b'{"x":[' + b'"",' * 400_001 + b'""]}', "has more than 400000 strings"),
        (b'{"x":[' + b"[]," * 70_000 + b"[]]}", "has more than 65536 arrays and objects"),
        (b'{"x":' + b"[" * 70_000, "the body"),
        (b'{"x":' + b"[" * 70 + b"]" * 70 + b"}", "is nested more than 64 levels deep"),
    ],
)
def test_so_many_values(body: bytes, what: str) -> None:
    with pytest.raises(ApiError, match=what):
        FieldChecker(False, lambda name: None).decode(body, CompletionRequest)


def test_what_looks_like_many_values_in_a_string_is_one() -> None:
    body = json.dumps({"prompt": '[{"a": ""}, 1],' * 150_000}).encode()
    assert FieldChecker(False, lambda name: None).decode(body, CompletionRequest).prompt


def test_so_many_fields() -> None:
    told: list[str] = []
    body = json.dumps({"prompt": "x", **{f"x{n}": n for n in range(1000)}}).encode()
    with pytest.raises(ApiError, match="has 1001 fields, and may have 1000"):
        FieldChecker(False, told.append).decode(body, CompletionRequest)
    assert told == []


async def test_large_bodies_are_read_beside_the_loop() -> None:
    threads: list[int] = []
    checker = FieldChecker(False, lambda name: threads.append(threading.get_ident()))
    for size in (10, 100_000):
        body = json.dumps({"prompt": "x" * size, "unknown": 1}).encode()
        assert len((await checker.read(body, CompletionRequest)).prompt) == size
    assert threads[0] == threading.get_ident() != threads[1]


def test_of_a_field_that_is_there_twice_only_the_last_is_read() -> None:
    """Bounds look at the last one of a name, so no other may be made anything of."""
    long = b'"prompt":' + json.dumps(["x"] * 30_000).encode()
    body = b"{" + long + b',"prompt":"y","unknown":[1]}'
    read = FieldChecker(False, lambda name: None).decode(body, CompletionRequest)
    assert read == CompletionRequest(prompt="y")
    wrong = b"{" + long + b',"n":"one"}'
    with pytest.raises(ApiError, match="n: Expected"):
        FieldChecker(False, lambda name: None).decode(wrong, CompletionRequest)


def test_arguments_of_calls_have_bounds_together() -> None:
    call = {"function": {"name": "f", "arguments": "[" + "0," * 9 + "0]"}}
    messages = [{"role": "assistant", "tool_calls": [call] * 100}] * 80
    with pytest.raises(ApiError, match=r"all calls together have more than 65536 values") as caught:
        _encoded_chat(byte_level(), ChatRequest(messages=messages))
    assert caught.value.param == "messages.65.tool_calls.53.function.arguments"


def test_sizes_are_known_without_a_look_at_everything() -> None:
    assert size_of("abc", ["d", {"ef": None}], 1, None) == 3 + 1 + 1 + 1 + 2 + 1 + 1 + 1
    assert size_of({"x" * 5000: 1}) > 5000
    assert size_of(["x" * 3000] * 10**6) == 1 + 3000


def test_texts_of_a_conversation_are_joined_once() -> None:
    """Thousands of them one after the other, each added to the text before, would be seconds."""
    found = Conversation()
    for n in range(3):
        found.say("system" if n else "developer", f"s{n}")
    for text in ("", "t1", "t2"):
        found.think(text)
    found.answer("a")
    assert found.messages == [
        {"role": "developer", "content": "s0\n\ns1\n\ns2"},
        {"role": "assistant", "content": "a", "reasoning_content": "t1\nt2"},
    ]
    found.answer("b")
    found.call("1", "f", "{}")
    found.answer("c")
    assert [one["content"] for one in found.messages[1:]] == ["a", "b\nc"]


@pytest.mark.parametrize("levels", [63, 64, 65, 500, 5000, 1_000_000])
async def test_deep_bodies(levels: int) -> None:
    async with serving(config=test_config(strict=False)) as server:
        nested = b"[" * (levels - 1) + b"]" * (levels - 1)
        body = b'{"prompt": "x", "max_tokens": 1, "nested": ' + nested + b"}"
        response = await server.http.post("/v1/completions", content=body)
        assert response.status_code == (200 if levels <= 64 else 400)
        if levels > 64:
            error = response.json()["error"]
            assert error["code"] == "invalid_json"
            assert "nested" in error["message"] or "arrays and objects" in error["message"]


async def test_bodies_of_very_many_parts() -> None:
    async with serving() as server:
        body = b'{"prompt": "x", "nested": [' + b"{}," * 250_000 + b"{}]}"
        response = await server.http.post("/v1/completions", content=body)
        assert response.status_code == 400
        assert "more than 65536 arrays and objects" in response.json()["error"]["message"]


async def test_a_template_of_ones_own_is_refused() -> None:
    """Templates are the checkpoint's: what a client sends is data to them."""
    async with serving() as server:
        endless = "{% for a in range(99999999) %}{% for b in range(99999999) %}x{% endfor %}"
        refused = await server.chat(chat_template=endless)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "chat_template"
        kwargs = await server.chat(chat_template_kwargs={"messages": []})
        assert kwargs.json()["error"]["param"] == "chat_template_kwargs.messages"
        asked = await server.chat(messages=[{"role": "user", "content": endless}], max_tokens=1)
        assert asked.status_code in (200, 400)  # rendered as text, or too long as such


async def test_the_bounds_can_be_set() -> None:
    config = test_config()
    config.server.limits.max_messages = 1
    async with serving(config=config) as server:
        two = [{"role": "user", "content": "Hi"}] * 2
        refused = await server.chat(messages=two)
        assert refused.json()["error"]["param"] == "messages"
        assert (await server.http.post("/tokenize", json={"messages": two})).status_code == 400
