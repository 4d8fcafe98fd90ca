"""Known, refused, ignored and unknown fields."""

import logging
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.server.errors import ApiError
from prelude.server.fields import UNSUPPORTED, WITHOUT_EFFECT, FieldChecker
from prelude.server.protocol import ChatRequest, CompletionRequest

MESSAGES = {"messages": [{"role": "user", "content": "Hi"}]}


def checker(strict: bool = False) -> tuple[FieldChecker, list[str]]:
    seen: list[str] = []
    return FieldChecker(strict, seen.append), seen


def refusal(fields: dict[str, Any], strict: bool = False) -> ApiError:
    with pytest.raises(ApiError) as caught:
        checker(strict)[0].decode(msgspec.json.encode(MESSAGES | fields), ChatRequest)
    assert caught.value.status == 400
    return caught.value


def accept(fields: dict[str, Any], strict: bool = False) -> ChatRequest:
    return checker(strict)[0].decode(msgspec.json.encode(MESSAGES | fields), ChatRequest)


def test_known_fields_are_decoded_and_null_is_absent() -> None:
    fields = {"temperature": 1, "stop": "x", "logit_bias": {"7": 2}, "n": None, "top_p": None}
    got = accept(fields)
    assert (got.temperature, got.stop, got.logit_bias, got.n) == (1.0, "x", {7: 2.0}, None)


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_unsupported_fields_are_refused_unless_they_ask_for_nothing(name: str) -> None:
    def decode(value: Any) -> CompletionRequest:
        body = msgspec.json.encode({"prompt": "Hi", name: value})
        return checker(strict=True)[0].decode(body, CompletionRequest)

    with pytest.raises(ApiError) as caught:
        decode({"anything": ["else"]})
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")
    for harmless in (None, *UNSUPPORTED[name]):
        decode(harmless)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": True}, "best_of"),
        ({"use_beam_search": 0}, "use_beam_search"),
        ({"response_format": "json_object"}, "response_format"),
        ({"tools": {"type": "function"}}, "tools"),
        ({"tool_choice": ["required"]}, "tool_choice"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ],
)
def test_types_count(fields: dict[str, Any], param: str) -> None:
    assert refusal(fields).param == param


def test_values_that_ask_for_nothing() -> None:
    accept({"length_penalty": 1.0, "response_format": {"type": "text"}}, strict=True)


def test_fields_without_effect_are_accepted_even_when_strict() -> None:
    for name in WITHOUT_EFFECT:
        body = msgspec.json.encode({"prompt": "Hi", name: {"any": "thing"}})
        checker(strict=True)[0].decode(body, CompletionRequest)


def test_unknown_fields_are_counted_and_warned_about_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fields, seen = checker()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            fields.decode(msgspec.json.encode(MESSAGES | {"mystery": 1}), ChatRequest)
    assert seen == ["mystery"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "ignoring the unknown request field 'mystery'"
    ]


def test_unknown_names_are_bounded() -> None:
    fields, seen = checker()
    for n in range(100):
        fields.decode(msgspec.json.encode(MESSAGES | {f"x{n}": 1}), ChatRequest)
    assert len(set(seen)) == 65
    assert seen[-1] == "other"


def test_names_of_any_length_are_not_kept() -> None:
    fields, seen = checker()
    fields.decode(msgspec.json.encode(MESSAGES | {"x" * 10**6: 1}), ChatRequest)
    assert seen == ["other"]


def test_strict_refuses_unknown_fields() -> None:
    error = refusal({"mystery": 1}, strict=True)
    assert (error.param, error.code) == ("mystery", "unknown_parameter")


def test_fields_of_the_other_route_are_unknown_here() -> None:
    fields, seen = checker()
    fields.decode(b'{"prompt": "x", "messages": []}', CompletionRequest)
    assert seen == ["messages"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nope",
        b"[1]",
        b'"x"',
        b"\xff\xfe",
        b'{"messages": "\xff"}',
        b'{"messages": [], "model": "\\ud800"}',
        b'{"messages": ' + b"[" * 100_000,
        b'{"messages": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    ],
)
def test_broken_bodies(data: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        checker()[0].decode(data, ChatRequest)
    assert caught.value.status == 400


@given(st.binary(max_size=60))
def test_no_bytes_get_past_as_another_error(data: bytes) -> None:
    try:
        checker()[0].decode(data, CompletionRequest)
    except ApiError as error:
        assert error.status == 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from([*ChatRequest.__struct_fields__, *UNSUPPORTED, "odd"]), json_values
    )
)
def test_any_json_object_is_decoded_or_refused(fields: dict[str, Any]) -> None:
    try:
        got = checker()[0].decode(msgspec.json.encode(fields), ChatRequest)
    except ApiError as error:
        assert error.status == 400
    else:
        assert isinstance(got.messages, list)
