"""What request fields may hold, as JSON Schema: made from the types that decode them, and what the
types cannot say. Bounds are those that ``SamplingParams`` and ``Hints`` check."""

from collections.abc import Mapping
from typing import Any

import msgspec

from prelude.server.anthropic_protocol import CountTokensRequest, MessagesRequest
from prelude.server.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
)
from prelude.server.responses_protocol import INCLUDABLE, ResponsesRequest
from prelude.types.request import MAX_TOP_LOGPROBS

Schema = dict[str, Any]

BODIES: tuple[type[msgspec.Struct], ...] = (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ResponsesRequest,
    MessagesRequest,
    CountTokensRequest,
    TokenizeRequest,
    DetokenizeRequest,
)

_AT_LEAST_0: Schema = {"minimum": 0}
_AT_LEAST_1: Schema = {"minimum": 1}
_TOP: Schema = {"minimum": 0, "maximum": MAX_TOP_LOGPROBS}
_PENALTY: Schema = {"minimum": -2, "maximum": 2}
_SHARE: Schema = {"minimum": 0, "maximum": 1}
_POSITIVE: Schema = {"exclusiveMinimum": 0}

# Bounds of numbers, by field, wherever the field comes up.
NUMBERS: Mapping[str, Schema] = {
    "n": {"minimum": 1, "maximum": 128},
    "max_tokens": _AT_LEAST_1,
    "max_completion_tokens": _AT_LEAST_1,
    "max_output_tokens": _AT_LEAST_1,
    "min_tokens": _AT_LEAST_0,
    "temperature": {"minimum": 0, "maximum": 100},
    "top_p": {"exclusiveMinimum": 0, "maximum": 1},
    "top_k": {"minimum": -1},
    "min_p": _SHARE,
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "repetition_penalty": {"exclusiveMinimum": 0, "maximum": 10},
    "seed": {"minimum": -(2**63), "maximum": 2**63 - 1},
    "logprobs": _TOP,
    "top_logprobs": _TOP,
    "prompt_logprobs": _TOP,
    "dimensions": _AT_LEAST_1,
    "budget_tokens": _AT_LEAST_1,
    "ttft_deadline_ms": _POSITIVE,
    "deadline_ms": _POSITIVE,
}

_TOKEN: Schema = {"type": "integer", "minimum": 0}
_TOKENS: Schema = {"type": "array", "items": _TOKEN, "minItems": 1}
_TEXTS: Schema = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
_PROMPTS: Schema = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        _TEXTS,
        _TOKENS,
        {"type": "array", "items": _TOKENS, "minItems": 1},
    ]
}


def _parts(*kinds: str) -> Schema:
    part = {
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"enum": list(kinds)}, "text": {"type": "string"}},
    }
    return {"anyOf": [{"type": "string"}, {"type": "array", "items": part}]}


def _by_role(roles: list[str], content: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"enum": roles}, "content": content},
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


_NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,128}$"}
_MAYBE_TEXT: Schema = {"type": ["string", "null"]}
_MAYBE_PARTS: Schema = {"anyOf": [*_parts("text")["anyOf"], {"type": "null"}]}
_FUNCTION: Schema = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": _NAME,
        "description": _MAYBE_TEXT,
        "parameters": {"type": ["object", "null"]},
    },
}
_CHAT_MESSAGE: Schema = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {
            "type": "string",
            "description": "system, developer, user, assistant, tool, or what the template knows",
        },
        "content": _MAYBE_PARTS,
    },
}
_ITEM: Schema = {
    "anyOf": [
        _by_role(["user", "system", "developer"], _parts("input_text")),
        _by_role(["assistant"], _parts("output_text")),
        {
            "type": "object",
            "required": ["type", "call_id", "name", "arguments"],
            "properties": {
                "type": {"const": "function_call"},
                "call_id": {"type": "string"},
                "name": {"type": "string"},
                "arguments": {"type": "string", "description": "a JSON object, as text"},
            },
        },
        {
            "type": "object",
            "required": ["type", "call_id", "output"],
            "properties": {
                "type": {"const": "function_call_output"},
                "call_id": {"type": "string"},
                "output": _parts("input_text"),
            },
        },
        {"type": "object", "required": ["type"], "properties": {"type": {"const": "reasoning"}}},
    ]
}
_STOPS: Schema = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 32},
        {"type": "null"},
    ]
}

# Fields by the type they are in, as they are in the body.
_WHOLE: Mapping[str, Mapping[str, Schema]] = {
    "ChatRequest": {
        "messages": _list(_CHAT_MESSAGE),
        "stop": _STOPS,
        "tools": {
            "type": ["array", "null"],
            "items": {
                "type": "object",
                "required": ["type", "function"],
                "properties": {"type": {"const": "function"}, "function": _FUNCTION},
            },
        },
    },
    "CompletionRequest": {
        "prompt": _PROMPTS,
        "stop": _STOPS,
        "max_tokens": {
            "type": ["integer", "null"],
            "minimum": 0,
            "description": "0 is for the prompt alone, with echo",
        },
    },
    "EmbeddingRequest": {"input": _PROMPTS},
    "TokenizeRequest": {"messages": {"type": ["array", "null"], "items": _CHAT_MESSAGE}},
    "DetokenizeRequest": {"tokens": {"type": "array", "items": _TOKEN}},
    "ResponsesRequest": {
        "input": {"anyOf": [{"type": "string"}, _list(_ITEM)]},
        "include": {"type": ["array", "null"], "items": {"enum": sorted(INCLUDABLE)}},
        "previous_response_id": {"type": "null", "description": "responses are not stored"},
        "stop": _STOPS,
        "truncation": {"enum": ["disabled", None]},
        "tools": {
            "type": ["array", "null"],
            "items": {
                **_FUNCTION,
                "required": ["type", "name"],
                "properties": {**_FUNCTION["properties"], "type": {"const": "function"}},
            },
        },
    },
}


def _block(kind: str, /, optional: Mapping[str, Schema] = {}, **fields: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["type", *fields],
        "properties": {"type": {"const": kind}, **fields, **optional},
    }


_STRING: Schema = {"type": "string"}
_ASKED = [
    _block("text", text=_STRING),
    _block("tool_result", {"content": _MAYBE_PARTS}, tool_use_id=_STRING),
]
_ANSWERED = [
    _block("text", text=_STRING),
    _block("thinking", thinking=_STRING),
    _block("redacted_thinking"),
    _block("tool_use", {"input": {"type": "object"}}, id=_STRING, name=_STRING),
]


def _turn(role: str, blocks: list[Schema]) -> Schema:
    content = [_STRING, {"type": "array", "items": {"anyOf": blocks}}]
    return _by_role([role], {"anyOf": content})


_MESSAGES: Mapping[str, Schema] = {
    "messages": _list(
        {
            "anyOf": [
                _turn("user", _ASKED),
                _turn("assistant", _ANSWERED),
                _by_role(["system"], _parts("text")),
            ]
        }
    ),
    "system": {**_MAYBE_PARTS, "description": "what the model is told before anybody speaks"},
    "tools": {
        "type": ["array", "null"],
        "items": {
            "type": "object",
            "required": ["name", "input_schema"],
            "properties": {
                "name": _NAME,
                "description": _MAYBE_TEXT,
                "input_schema": {"type": "object"},
            },
        },
    },
}
_STOP_SEQUENCES: Schema = {
    "type": ["array", "null"],
    "items": {"type": "string", "minLength": 1},
    "maxItems": 32,
}


def request_schemas(*, has_priorities: bool) -> dict[str, Schema]:
    """By name. ``has_priorities`` says that the batcher goes by the field ``priority``."""
    template = "#/components/schemas/{name}"
    _, found = msgspec.json.schema_components(BODIES, ref_template=template)
    for name, schema in found.items():
        whole = {**_whole(name)}
        if "priority" in schema.get("properties", {}) and not has_priorities:
            whole["priority"] = {"enum": [0, None]}
        for field, old in schema.get("properties", {}).items():
            schema["properties"][field] = whole.get(field) or _bounded(field, old)
    found["TokenizeRequest"]["anyOf"] = [{"required": [one]} for one in ("prompt", "messages")]
    return found


def _whole(name: str) -> Mapping[str, Schema]:
    if name == "MessagesRequest":
        return {**_MESSAGES, "stop_sequences": _STOP_SEQUENCES}
    return _MESSAGES if name == "CountTokensRequest" else _WHOLE.get(name, {})


def _bounded(field: str, schema: Schema) -> Schema:
    """``schema`` with the bounds of the field's numbers, also of those in its list or map."""
    if field == "logit_bias":
        values = {"type": "number", "minimum": -100, "maximum": 100}
        keys = {"pattern": "^[0-9]{1,9}$"}
        biases = {"type": ["object", "null"], "propertyNames": keys}
        return {**biases, "additionalProperties": values}
    if field in ("allowed_token_ids", "stop_token_ids"):
        return {"type": ["array", "null"], "items": _TOKEN}
    bounds = NUMBERS.get(field)
    if bounds is None:
        return schema
    if "anyOf" not in schema:
        return {**schema, **bounds} if _is_number(schema) else schema
    branches = [{**one, **bounds} if _is_number(one) else one for one in schema["anyOf"]]
    return {**schema, "anyOf": branches}


def _is_number(schema: Schema) -> bool:
    return schema.get("type") in ("integer", "number")
