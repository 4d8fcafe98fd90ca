"""GET /openapi.json: every route with its bodies, answers, errors and keys, from the types that
decode requests and the table of routes below; a test compares both with what is served."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

import prelude
from prelude.conf.schema import Policy
from prelude.server.anthropic_protocol import CountTokensRequest, MessagesRequest
from prelude.server.auth import HEALTH_PATHS
from prelude.server.openapi_answers import ANSWERS
from prelude.server.openapi_fields import Schema, request_schemas
from prelude.server.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
)
from prelude.server.responses_protocol import ResponsesRequest
from prelude.server.services import services_of
from prelude.types.service import SERVICE_CLASSES

_JSON = "application/json"
_EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Operation:
    """``answer`` names a schema of JSON; else ``media`` is the answer's type. ``errors`` are those
    beside what may come of any path, any that is guarded, and any that reads a body."""

    summary: str
    body: type[msgspec.Struct] | None = None
    answer: str | None = None
    media: str = _JSON
    streams: bool = False
    errors: tuple[int, ...] = ()


_ASK = (400, 404, 413, 415, 429, 503)  # of what the model has to do
_READ = (400, 404, 413, 415, 429)  # of what only reads a body

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("post", "/v1/chat/completions"): Operation(
        "Answer a conversation.", ChatRequest, "ChatCompletion", streams=True, errors=_ASK
    ),
    ("post", "/v1/completions"): Operation(
        "Continue texts.", CompletionRequest, "Completion", streams=True, errors=_ASK
    ),
    ("post", "/v1/embeddings"): Operation(
        "Vectors of texts.", EmbeddingRequest, "Embeddings", errors=_ASK
    ),
    ("post", "/v1/responses"): Operation(
        "Answer input items.", ResponsesRequest, "Response", streams=True, errors=_ASK
    ),
    ("post", "/v1/responses/input_tokens"): Operation(
        "Count the tokens of a response's prompt.", ResponsesRequest, "InputTokens", errors=_READ
    ),
    ("get", "/v1/responses/{response}"): Operation("Responses are not kept.", errors=(404,)),
    ("delete", "/v1/responses/{response}"): Operation("Responses are not kept.", errors=(404,)),
    ("post", "/v1/responses/{response}/cancel"): Operation(
        "Responses are not kept; close the connection to cancel one.", errors=(404, 429)
    ),
    ("get", "/v1/responses/{response}/input_items"): Operation(
        "Responses are not kept.", errors=(404,)
    ),
    ("post", "/v1/messages"): Operation(
        "Answer a conversation, as Anthropic's clients ask.",
        MessagesRequest,
        "Message",
        streams=True,
        errors=_ASK,
    ),
    ("post", "/v1/messages/count_tokens"): Operation(
        "Count the tokens of a message's prompt.", CountTokensRequest, "MessageTokens", errors=_READ
    ),
    ("get", "/v1/models"): Operation("The model that is served.", answer="ModelList"),
    ("get", "/v1/models/{model}"): Operation("One model.", answer="Model", errors=(404,)),
    ("post", "/tokenize"): Operation(
        "Token ids of a prompt or of messages.", TokenizeRequest, "Tokens", errors=_READ
    ),
    ("post", "/detokenize"): Operation(
        "Text of token ids.", DetokenizeRequest, "Text", errors=_READ
    ),
    ("get", "/health"): Operation("Whether it is ready.", answer="Health", errors=(503,)),
    ("get", "/health/live"): Operation("Whether it lives.", answer="Health", errors=(503,)),
    ("get", "/health/ready"): Operation("Whether it is ready.", answer="Health", errors=(503,)),
    ("get", "/version"): Operation("Prelude's version.", answer="Version"),
    ("get", "/metrics"): Operation("Figures for Prometheus.", media="text/plain"),
    ("get", "/live/events"): Operation("Figures as they come.", media=_EVENTS, errors=(503,)),
    ("get", "/openapi.json"): Operation("This document.", media=_JSON),
}

_TAKEN_HEADERS: tuple[Schema, ...] = (
    {
        "name": "x-request-id",
        "in": "header",
        "description": "an id of your own, of up to 128 letters, digits and ._:-",
        "schema": {"type": "string"},
    },
    {
        "name": "x-prelude-class",
        "in": "header",
        "description": "the service class, where the body has no service_class",
        "schema": {"enum": list(SERVICE_CLASSES)},
    },
    {
        "name": "x-request-deadline-ms",
        "in": "header",
        "description": "milliseconds for the whole answer, where the body has no deadline_ms",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
)
_BEFORE_PATHS = (408, 431)  # said before it is known what is asked for
_MEANINGS: Mapping[int, str] = {
    400: "a field is not valid, or not supported: error.param names it",
    401: "no API key, or one that is not known",
    403: "the API key may not do this, or another site's page asked",
    404: "nothing of that name",
    408: "the request did not arrive in time",
    413: "the body is too large",
    415: "the body is compressed",
    429: "a limit is reached, or the queue is full: see retry-after",
    431: "the headers are too large",
    500: "a bug, whose traceback is in the server's log",
    503: "not ready, or the request's deadline has passed: see retry-after",
}


def openapi_routes() -> list[Route]:
    return [Route("/openapi.json", document, methods=["GET"])]


async def document(request: Request) -> Response:
    config = services_of(request).config
    data = _encoded(
        tuple(routed(request.app.routes)),
        config.batcher.policy == Policy.priority,
        services_of(request).keyring.is_empty,
    )
    return Response(data, media_type=_JSON)


def routed(routes: Iterable[BaseRoute]) -> list[tuple[str, str]]:
    """Method and path, as the document has them, of every route that is not a file of a page."""
    return [
        (method.lower(), route.path.replace(":path}", "}"))
        for route in routes
        if isinstance(route, Route) and not _is_page(route.path)
        for method in sorted(route.methods or ())
        if method != "HEAD"
    ]


def openapi(
    operations: Iterable[tuple[str, str]], *, has_priorities: bool, is_open: bool
) -> dict[str, Any]:
    """The document on these of ``OPERATIONS``. ``is_open`` says that no keys are asked for."""
    paths: dict[str, dict[str, Any]] = {}
    for method, path in operations:
        paths.setdefault(path, {})[method] = _operation(method, path, is_open)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Prelude", "version": prelude.__version__},
        "paths": paths,
        "components": {
            "schemas": {**request_schemas(has_priorities=has_priorities), **ANSWERS},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


@lru_cache(maxsize=4)
def _encoded(operations: tuple[tuple[str, str], ...], has_priorities: bool, is_open: bool) -> bytes:
    return msgspec.json.encode(openapi(operations, has_priorities=has_priorities, is_open=is_open))


def _is_page(path: str) -> bool:
    return path in ("/", "/live") or path.startswith("/page/")


def _operation(method: str, path: str, is_open: bool) -> dict[str, Any]:
    one = OPERATIONS[method, path]
    found: dict[str, Any] = {
        "operationId": f"{method}_{path.strip('/').replace('/', '_')}".translate(_PLAIN),
        "summary": one.summary,
        "responses": _responses(one, path),
        "security": _security(path, is_open),
    }
    parameters = [_path_parameter(name) for name in ("model", "response") if f"{{{name}}}" in path]
    if one.streams or one.answer == "Embeddings":
        parameters += _TAKEN_HEADERS
    if parameters:
        found["parameters"] = parameters
    if one.body is not None:
        content = {_JSON: {"schema": _ref(one.body.__name__)}}
        found["requestBody"] = {"required": True, "content": content}
    return found


_PLAIN = str.maketrans({"{": None, "}": None, ".": "_"})


def _path_parameter(name: str) -> Schema:
    schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _security(path: str, is_open: bool) -> list[Schema]:
    if path in HEALTH_PATHS:
        return []
    keys: list[Schema] = [{"bearer": []}, {"key": []}]
    return [{}, *keys] if is_open else keys


def _responses(one: Operation, path: str) -> dict[str, Any]:
    guarded = () if path in HEALTH_PATHS else (401, 403)
    reads = () if one.body is None else (408,)
    codes = sorted({*guarded, *reads, *one.errors, 431, 500})
    found = {str(code): _error(code, path) for code in codes}
    if one.answer is None and one.media == _JSON and one.errors:
        return found
    schema = {} if one.answer is None else {"schema": _ref(one.answer)}
    content: dict[str, Any] = {one.media: schema}
    if one.streams:
        content[_EVENTS] = {"schema": {"description": "events, where stream is true"}}
    return {"200": {"description": "the answer", "content": content}, **found}


def _error(code: int, path: str) -> Schema:
    is_anthropic = path.startswith("/v1/messages") and code not in _BEFORE_PATHS
    name = "AnthropicError" if is_anthropic else "Error"
    if path in HEALTH_PATHS and code == 503:
        name = "Health"
    content = {_JSON: {"schema": _ref(name)}}
    return {"description": _MEANINGS[code], "content": content}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
