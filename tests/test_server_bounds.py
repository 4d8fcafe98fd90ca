"""How large the parts of a body may be; what is nested too deep is found without recursion."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.server.bounds import BodyBounds
from prelude.server.errors import ApiError
from prelude.server.nesting import brackets, is_deeper, num_openings
from tests.server_harness import serving, test_config

SMALL = BodyBounds(max_messages=3, max_tools=2, max_schema_kib=0.1)


def check(bounds: BodyBounds, **fields: Any) -> None:
    body = json.dumps(fields).encode()
    bounds.check(body, msgspec.json.decode(body, type=dict[str, msgspec.Raw]))


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


@given(JSON, st.booleans(), st.integers(1, 6))
def test_depth_is_found_whatever_is_in_strings(value: Any, ascii_only: bool, limit: int) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert is_deeper(brackets(body), limit) == (depth(value) > limit)
    assert len(brackets(body)) == 2 * count(value) <= 2 * num_openings(body)


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
            assert "nested" in error["message"] or "recursion" in error["message"]


async def test_bodies_of_very_many_parts() -> None:
    async with serving() as server:
        body = b'{"prompt": "x", "nested": [' + b"{}," * 250_000 + b"{}]}"
        response = await server.http.post("/v1/completions", content=body)
        assert response.status_code == 400
        assert "more than 200000 arrays and objects" in response.json()["error"]["message"]


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
