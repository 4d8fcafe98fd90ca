"""What the routes answer, as JSON Schema: the fields that are always there."""

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_MAYBE: Schema = {"type": ["string", "null"]}


def _object(**fields: Schema) -> Schema:
    return {"type": "object", "required": list(fields), "properties": fields}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _named(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_MODEL = _object(id=_TEXT, object={"const": "model"}, created=_COUNT, owned_by=_TEXT)
_USAGE = _object(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT)
_TIMINGS: Schema = {"type": "object", "description": "milliseconds, and the service class"}
_END: Schema = {"enum": ["stop", "length", "tool_calls"]}
_STATUS = {"type": "object", "required": ["status"], "properties": {"status": _TEXT}}

ANSWERS: Mapping[str, Schema] = {
    "ChatCompletion": _object(
        id=_TEXT,
        object={"const": "chat.completion"},
        created=_COUNT,
        model=_TEXT,
        choices=_list(
            _object(
                index=_COUNT,
                message=_object(role={"const": "assistant"}, content=_MAYBE),
                finish_reason=_END,
            )
        ),
        usage=_named("Usage"),
        timings=_TIMINGS,
    ),
    "Completion": _object(
        id=_TEXT,
        object={"const": "text_completion"},
        created=_COUNT,
        model=_TEXT,
        choices=_list(_object(index=_COUNT, text=_TEXT, finish_reason=_END)),
        usage=_named("Usage"),
        timings=_TIMINGS,
    ),
    "Embeddings": _object(
        object={"const": "list"},
        model=_TEXT,
        data=_list(_object(object={"const": "embedding"}, index=_COUNT)),
    ),
    "Response": _object(
        id=_TEXT,
        object={"const": "response"},
        created_at=_COUNT,
        status={"enum": ["completed", "incomplete"]},
        model=_TEXT,
        output=_list(_object(id=_TEXT, type={"enum": ["message", "reasoning", "function_call"]})),
        usage=_object(input_tokens=_COUNT, output_tokens=_COUNT, total_tokens=_COUNT),
        timings=_TIMINGS,
    ),
    "InputTokens": _object(object={"const": "response.input_tokens"}, input_tokens=_COUNT),
    "Message": _object(
        id=_TEXT,
        type={"const": "message"},
        role={"const": "assistant"},
        model=_TEXT,
        content=_list(_object(type={"enum": ["text", "thinking", "tool_use"]})),
        stop_reason={
            "enum": [
                "end_turn",
                "max_tokens",
                "model_context_window_exceeded",
                "stop_sequence",
                "tool_use",
            ]
        },
        stop_sequence=_MAYBE,
        usage=_object(input_tokens=_COUNT, output_tokens=_COUNT, cache_read_input_tokens=_COUNT),
    ),
    "MessageTokens": _object(input_tokens=_COUNT),
    "Model": _MODEL,
    "ModelList": _object(object={"const": "list"}, data=_list(_named("Model"))),
    "Tokens": _object(tokens=_list(_COUNT), count=_COUNT),
    "Text": _object(prompt=_TEXT),
    "Health": _STATUS,
    "Version": _object(version=_TEXT),
    "Usage": _USAGE,
    "Error": _object(error=_object(message=_TEXT, type=_TEXT, param=_MAYBE, code=_MAYBE)),
    "AnthropicError": _object(type={"const": "error"}, error=_object(type=_TEXT, message=_TEXT)),
}
