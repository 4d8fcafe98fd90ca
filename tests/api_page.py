"""The tables of docs/api.md, from the code. ``python -m tests.api_page`` writes them again."""

import re
from pathlib import Path
from typing import Any

import msgspec

from prelude.server import anthropic, embeddings, responses
from prelude.server.anthropic_protocol import CountTokensRequest, MessagesRequest
from prelude.server.fields import GENERATION_FIELDS, FieldRules
from prelude.server.openapi import OPERATIONS
from prelude.server.openapi_fields import request_schemas
from prelude.server.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
)
from prelude.server.responses_protocol import ResponsesRequest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
_MARKED = re.compile(r"(<!-- tables -->\n).*(<!-- end of tables -->)", re.DOTALL)

_BODIES: list[tuple[type[msgspec.Struct], str, FieldRules]] = [
    (ChatRequest, "/v1/chat/completions", GENERATION_FIELDS),
    (CompletionRequest, "/v1/completions", GENERATION_FIELDS),
    (ResponsesRequest, "/v1/responses", responses.FIELDS),
    (MessagesRequest, "/v1/messages", anthropic.FIELDS),
    (CountTokensRequest, "/v1/messages/count_tokens", anthropic.FIELDS),
    (EmbeddingRequest, "/v1/embeddings", embeddings.FIELDS),
    (TokenizeRequest, "/tokenize", GENERATION_FIELDS),
    (DetokenizeRequest, "/detokenize", GENERATION_FIELDS),
]


def tables() -> str:
    schemas = request_schemas(has_priorities=True)
    parts = ["## Paths\n\n" + _paths()]
    for kind, path, rules in _BODIES:
        parts.append(f"## Fields of {path}\n\n" + _fields(schemas[kind.__name__], kind, rules))
    return "\n".join(parts)


def page() -> str:
    """The page as it should be."""
    return _MARKED.sub(lambda marks: marks[1] + tables() + marks[2], PAGE.read_text())


def _paths() -> str:
    rows = ["| path | what for | errors |", "|---|---|---|"]
    for (method, path), one in OPERATIONS.items():
        streams = " Streams." if one.streams else ""
        errors = ", ".join(map(str, one.errors))
        rows.append(f"| `{method.upper()} {path}` | {one.summary}{streams} | {errors} |")
    return "\n".join(rows) + "\n"


def _fields(schema: dict[str, Any], kind: type[msgspec.Struct], rules: FieldRules) -> str:
    required = schema.get("required", [])
    rows = ["| field | may hold |", "|---|---|"]
    for field, told in schema["properties"].items():
        must = " (required)" if field in required else ""
        rows.append(f"| `{field}`{must} | {_said(told)} |")
    known = set(kind.__struct_fields__)
    without = sorted(set(rules.without_effect) - known)
    unsupported = sorted(set(rules.unsupported) - known)
    lines = ["\n".join(rows)]
    if without:
        lines.append(f"Taken, without effect on the answer: {_names(without)}.")
    if unsupported:
        lines.append(f"Refused by name: {_names(unsupported)}.")
    return "\n\n".join(lines) + "\n"


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _said(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        kinds = [_said(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"] if value is not None)
    if "$ref" in schema:
        return "an object"
    kind = schema.get("type", "anything")
    kind = next(one for one in kind if one != "null") if isinstance(kind, list) else kind
    if kind == "array":
        return f"a list: {_said(schema.get('items', {}))}"
    if kind == "null":
        return f"nothing: {schema['description']}"
    return _KINDS[kind] + _range(schema)


_KINDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "`true` or `false`",
    "object": "an object",
    "anything": "anything",
}


def _range(schema: dict[str, Any]) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    parts = []
    if low is not None:
        parts.append(f"from {low}")
    if above is not None:
        parts.append(f"above {above}")
    if "maximum" in schema:
        parts.append(f"to {schema['maximum']}")
    return f", {' '.join(parts)}" if parts else ""


if __name__ == "__main__":
    PAGE.write_text(page())
