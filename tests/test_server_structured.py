"""Fields that ask for an answer of a form: what they come to, what is refused, and real clients."""

import json
from typing import Any, Literal

import msgspec
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from prelude.server.answer_bound import bounded, is_bounded
from prelude.server.errors import ApiError
from prelude.server.protocol import CompletionRequest
from prelude.server.structured import constraint_of, reasoned
from prelude.types.constraint import Constraint
from prelude.types.request import SamplingParams
from prelude.types.service import Hints
from tests.server_harness import Engine, serving
from tests.text_samples import byte_level_folder

ENGINE = Engine(tokenizer_file=byte_level_folder() / "tokenizer.json", max_len=512)
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}


def constraint(**fields: Any) -> Constraint | None:
    body = msgspec.convert({"prompt": "Hi", **fields}, CompletionRequest)
    return constraint_of(body)


def named(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"response_format": {"type": "json_object"}}, "json", ""),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, "json_schema", SCHEMA),
        ({"response_format": named(SCHEMA, strict=True)}, "json_schema", SCHEMA),
        ({"json_schema": SCHEMA}, "json_schema", SCHEMA),
        ({"guided_json": SCHEMA}, "json_schema", SCHEMA),
        ({"guided_json": json.dumps(SCHEMA)}, "json_schema", SCHEMA),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", SCHEMA),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, "json_schema", SCHEMA),
        ({"structured_outputs": {"json_object": True}}, "json", ""),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "choice", ["a", "b"]),
        ({"structured_outputs": {"regex": "a+", "disable_fallback": True}}, "regex", "a+"),
        ({"structured_outputs": {"grammar": "start: A"}}, "lark", "start: A"),
        ({"regex": "a+"}, "regex", "a+"),
        ({"guided_regex": "a+"}, "regex", "a+"),
        ({"grammar": "start: A"}, "lark", "start: A"),
        ({"guided_grammar": "start: A"}, "lark", "start: A"),
        ({"guided_choice": ["a", "b"]}, "choice", ["a", "b"]),
    ],
)
def test_everybodys_words(fields: dict[str, Any], kind: str, text: Any) -> None:
    found = constraint(**fields)
    assert found is not None
    assert found.kind == kind
    assert found.field == next(iter(fields))
    assert (found.text if isinstance(text, str) else json.loads(found.text)) == text


def test_what_asks_for_nothing() -> None:
    assert constraint() is None
    assert constraint(response_format={"type": "text"}, regex=None) is None


def test_what_is_not_strict_may_say_what_cannot_be_enforced() -> None:
    found = constraint(response_format=named({"not": {}, "x-guidance": {"lenient": False}}))
    assert found is not None
    assert json.loads(found.text)["x-guidance"] == {"lenient": False, "coerce_one_of": True}
    tight = constraint(structured_outputs={"json": SCHEMA, "disable_any_whitespace": True})
    assert tight is not None
    assert json.loads(tight.text)["x-guidance"] == {"whitespace_flexible": False}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": named(None)}, "response_format.json_schema.schema"),
        ({"response_format": named([1])}, "response_format.json_schema"),
        ({"response_format": named({"x-guidance": 3})}, "response_format"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"choice": [1]}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"response_format": {"type": "json_object"}, "grammar": "start: A"}, "grammar"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        constraint(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)


OPEN = {"type": "object", "properties": {"a": {"type": "boolean"}}}
CLOSED = OPEN | {"additionalProperties": False}


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("choice", ["a", "b"], True),
        ("choice", ["a" * 5000], False),
        ("json", "", False),
        ("lark", 'start: "a"', False),
        ("regex", "[ab]{3}c?", True),
        ("regex", "a+", False),
        ("regex", "a*", False),
        ("regex", "a{3,}", False),
        ("regex", "(a{1,100}){100}", False),
        ("json_schema", {"type": "integer"}, True),
        ("json_schema", {"enum": ["a", 1]}, True),
        ("json_schema", {"const": "a" * 3000}, False),
        ("json_schema", {"type": "string"}, False),
        ("json_schema", {"type": "string", "maxLength": 20}, True),
        ("json_schema", {"type": "string", "maxLength": 10**400}, False),
        ("json_schema", {"type": "string", "format": "date"}, True),
        ("json_schema", {"type": "string", "format": "email"}, False),
        ("json_schema", {"type": "string", "pattern": "^[a-z]{4}$"}, True),
        ("json_schema", {"type": "string", "pattern": "[a-z]"}, False),
        ("json_schema", {"type": ["null", "string"]}, False),
        ("json_schema", {"type": ["null", "integer"]}, True),
        ("json_schema", OPEN, False),
        ("json_schema", CLOSED, True),
        ("json_schema", CLOSED | {"patternProperties": {"a": {}}}, False),
        ("json_schema", {"type": "array", "items": {"type": "integer"}}, False),
        ("json_schema", {"type": "array", "items": {"type": "integer"}, "maxItems": 4}, True),
        ("json_schema", {"type": "array", "items": {"type": "integer"}, "maxItems": 999}, False),
        ("json_schema", {"anyOf": [{"type": "integer"}, CLOSED]}, True),
        ("json_schema", {"anyOf": [{"type": "integer"}, OPEN]}, False),
        ("json_schema", {"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}, True),
        ("json_schema", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, False),
        ("json_schema", {"$ref": "#/$defs/a"}, False),
        ("json_schema", {}, False),
    ],
)
def test_what_bounds_an_answer(kind: Any, text: Any, expected: bool) -> None:
    found = Constraint(kind, text if isinstance(text, str) else json.dumps(text))
    assert is_bounded(found) is expected


def test_who_reasons_first_is_not_bounded() -> None:
    params = SamplingParams(constraint=Constraint("choice", '["a"]'))
    assert bounded(Hints(), params).is_bounded
    assert not bounded(Hints(), reasoned(params, is_open=True)).is_bounded
    assert not bounded(Hints(), reasoned(params, is_open=False)).is_bounded
    assert reasoned(params, is_open=None) is params
    assert bounded(Hints(), SamplingParams()) == Hints()


async def test_over_http_streamed_or_not() -> None:
    async with serving(ENGINE) as server:
        answer = (await server.complete(guided_choice=["alpha", "beta"], max_tokens=50)).json()
        assert answer["choices"][0]["text"] in ("alpha", "beta")
        assert answer["choices"][0]["finish_reason"] == "stop"
        events = await server.chat_events(regex="[0-9]{4}x", max_tokens=50)
        text = "".join(
            choice["delta"].get("content") or ""
            for event in events
            if isinstance(event, dict)
            for choice in event["choices"]
        )
        assert text.endswith("x") and text[:-1].isdigit()


@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_compiled_is_a_400_that_names_the_field(stream: bool) -> None:
    async with serving(ENGINE) as server:
        for fields, param in (
            ({"regex": "(a"}, "regex"),
            ({"response_format": named({"not": {}}, strict=True)}, "response_format"),
            ({"structured_outputs": {"grammar": "start: nobody"}}, "structured_outputs"),
        ):
            refused = await server.chat(stream=stream, **fields)
            assert refused.status_code == 400, refused.text
            assert refused.json()["error"]["param"] == param
        assert (await server.chat()).status_code == 200


async def test_a_model_without_a_tokenizer_file_says_so() -> None:
    async with serving() as server:
        refused = await server.chat(regex="a")
        assert refused.status_code == 400
        assert "tokenizer.json" in refused.json()["error"]["message"]


class Step(BaseModel):
    kind: Literal["add", "remove"]
    count: int


class Note(BaseModel):
    text: Literal["none", "some"]


class Recipe(BaseModel):
    title: Literal["soup", "cake"]
    steps: list[Step]
    note: Note | None


async def test_the_openai_clients_parse() -> None:
    async with (
        serving(ENGINE) as server,
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        parsed = await client.chat.completions.parse(
            model="test-model",
            messages=[{"role": "user", "content": "Hi"}],
            response_format=Recipe,
            max_tokens=400,
        )
        assert isinstance(parsed.choices[0].message.parsed, Recipe)
        response = await client.responses.parse(
            model="test-model", input="Hi", text_format=Note, max_output_tokens=100
        )
        assert isinstance(response.output_parsed, Note)
