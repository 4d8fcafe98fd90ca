"""/openapi.json says what is served: routes, bodies, bounds, answers and errors."""

from typing import Any, TypeVar

import msgspec
import pytest
from jsonschema import Draft202012Validator

from prelude.conf.schema import Policy
from prelude.server.app import public_routes
from prelude.server.errors import ApiError
from prelude.server.fields import GENERATION_FIELDS, FieldChecker, FieldRules
from prelude.server.openapi import OPERATIONS, openapi, routed
from prelude.server.openapi_fields import NUMBERS
from prelude.types.request import SamplingParams
from prelude.types.service import Hints
from tests.server_harness import Engine, Harness, says, serving, test_config
from tests.test_server_sampling import completion
from tests.text_samples import byte_level

T = TypeVar("T", bound=msgspec.Struct)


def spec(*, has_priorities: bool = False, is_open: bool = True) -> dict[str, Any]:
    return openapi(OPERATIONS, has_priorities=has_priorities, is_open=is_open)


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": spec()["components"]})


async def fetched(server: Harness) -> dict[str, Any]:
    response = await server.http.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    found: dict[str, Any] = response.json()
    return found


def test_every_route_has_an_operation() -> None:
    assert sorted(routed(public_routes(test_config()))) == sorted(OPERATIONS)


async def test_the_document_is_served_with_the_routes_of_its_port() -> None:
    config = test_config()
    config.server.admin.port = 0
    async with serving(config=config) as server:
        found = await fetched(server)
        assert "/v1/responses" in found["paths"]
        assert "/metrics" not in found["paths"]
        assert found["paths"]["/health"]["get"]["security"] == []
    async with serving() as server:
        assert "/metrics" in (await fetched(server))["paths"]


def test_its_schemas_are_schemas() -> None:
    schemas = spec()["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    references = msgspec.json.encode(spec()).decode().split('"#/components/schemas/')[1:]
    assert {one.split('"')[0] for one in references} <= set(schemas)


def test_keys_are_optional_only_where_none_are_asked_for() -> None:
    for is_open in (True, False):
        security = spec(is_open=is_open)["paths"]["/v1/messages"]["post"]["security"]
        assert ({} in security) is is_open


async def test_bodies_are_decoded_as_the_document_says(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[type] = []

    def decode(
        self: FieldChecker, body: bytes, kind: type[T], rules: FieldRules = GENERATION_FIELDS
    ) -> T:
        decoded.append(kind)
        raise ApiError(400, "seen")

    monkeypatch.setattr(FieldChecker, "decode", decode)
    async with serving() as server:
        for (method, path), operation in OPERATIONS.items():
            if method != "post":
                continue
            decoded.clear()
            await server.http.post(path, json={})
            assert decoded == ([] if operation.body is None else [operation.body]), path


@pytest.mark.parametrize("field", [*SamplingParams.__struct_fields__, "deadline_ms"])
def test_bounds_are_those_that_are_checked(field: str) -> None:
    bounds = NUMBERS.get(field, {})

    def is_taken(value: float) -> bool:
        fields: dict[str, Any] = {field: value}
        try:
            if field.endswith("deadline_ms"):
                Hints(**fields)
            else:
                completion(**fields)
        except (ValueError, ApiError):
            return False
        return True

    for name, step in (("minimum", -1), ("maximum", 1)):
        if name in bounds:
            assert is_taken(bounds[name])
            assert not is_taken(bounds[name] + step)
    if "exclusiveMinimum" in bounds:
        assert not is_taken(bounds["exclusiveMinimum"])
        assert is_taken(bounds["exclusiveMinimum"] + 0.1)


def test_priorities_are_there_for_their_policy() -> None:
    def of(**options: bool) -> Any:
        return spec(**options)["components"]["schemas"]["ChatRequest"]["properties"]["priority"]

    assert of() == {"enum": [0, None]}
    assert of(has_priorities=True) != of()
    assert Policy.priority.value == "priority"


HI = [{"role": "user", "content": "Hi"}]
USED: list[dict[str, Any]] = [
    {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f"}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": None}]},
    {"role": "system", "content": "Be brief."},
]
ASKED: list[tuple[str, str, dict[str, Any] | None]] = [
    ("post", "/v1/chat/completions", {"messages": HI, "max_tokens": 4}),
    ("post", "/v1/completions", {"prompt": ["a", "b"], "n": 2, "max_tokens": 4}),
    ("post", "/v1/embeddings", {"input": "a"}),
    ("post", "/v1/responses", {"input": "Hi"}),
    ("post", "/v1/responses", {"input": HI, "max_output_tokens": 2}),
    ("post", "/v1/responses/input_tokens", {"input": "Hi"}),
    ("post", "/v1/messages", {"messages": HI, "max_tokens": 4}),
    ("post", "/v1/messages/count_tokens", {"messages": HI}),
    ("post", "/v1/messages/count_tokens", {"messages": [*HI, *USED], "system": None}),
    ("post", "/tokenize", {"prompt": "Hi"}),
    ("post", "/detokenize", {"tokens": [1]}),
    ("get", "/v1/models", None),
    ("get", "/health", None),
    ("get", "/health/live", None),
    ("get", "/version", None),
    ("get", "/openapi.json", None),
]


async def test_answers_are_as_the_document_says() -> None:
    async with serving(Engine(says(byte_level(), "Yes. No."))) as server:
        document = await fetched(server)
        for method, path, body in ASKED:
            operation = document["paths"][path][method]
            if body is not None:
                asked = operation["requestBody"]["content"]["application/json"]["schema"]
                validator(asked).validate(body)
            response = await server.http.request(method, path, json=body)
            assert response.status_code == 200, response.text
            content = operation["responses"]["200"]["content"]["application/json"]
            validator(content.get("schema", {})).validate(response.json())


async def test_errors_are_as_the_document_says() -> None:
    async with serving() as server:
        document = await fetched(server)
        for (method, path), operation in OPERATIONS.items():
            if operation.body is None and 404 not in operation.errors:
                continue
            response = await server.http.request(method, path, json={"messages": 1, "input": 1})
            told = document["paths"][path][method]["responses"][str(response.status_code)]
            validator(told["content"]["application/json"]["schema"]).validate(response.json())
