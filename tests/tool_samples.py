"""Tools, models with a script that call them, and answers put together as clients do it."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from prelude.text.tokenizer import Tokenizer
from tests.server_harness import Engine, Harness, says
from tests.text_samples import byte_level, byte_level_folder

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}

NOW = {"type": "function", "function": {"name": "now"}}

PARIS = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'

NOW_CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'

THOUGHT = "<think>\nHm, Paris.\n</think>\n\n"

TOOL_TEMPLATE = """\
{%- if tools %}{{- '<|im_start|>system\\n' }}{% for tool in tools %}{{- tool | tojson + '\\n' }}\
{% endfor %}{{- '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>\\n' + {'name': call.function.name, 'arguments': call.function.arguments}\
 | tojson + '\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""


@cache
def tool_tokenizer(opens: bool = False) -> Tokenizer:
    """A template that shows tools; ``opens`` reasoning. ``<tool_call>`` is a special token."""
    backend = Backend.from_file(str(byte_level_folder() / "tokenizer.json"))
    backend.add_special_tokens(
        [
            AddedToken(mark, special=True, normalized=False)
            for mark in ("<tool_call>", "</tool_call>")
        ]
    )
    plain = byte_level()
    source = TOOL_TEMPLATE.replace("assistant\\n' }}", "assistant\\n<think>\\n' }}") * opens
    templates = {"default": source or TOOL_TEMPLATE}
    return Tokenizer(backend, templates, plain.special_tokens, plain.eos_ids)


@cache
def tokenizer_file(tokenizer: Tokenizer) -> Path:
    path = Path(mkdtemp(prefix="tokenizer-")) / "tokenizer.json"
    tokenizer.backend.save(str(path))
    return path


def script(text: str, tokenizer: Tokenizer | None = None) -> Engine:
    tokenizer = tokenizer or tool_tokenizer()
    file = tokenizer_file(tokenizer)
    return Engine(says(tokenizer, text), max_len=1024, tokenizer_file=file)


async def both_ways(server: Harness, **fields: Any) -> tuple[dict[str, Any], str]:
    """The message and finish reason of a whole answer, which must be those of the stream."""
    response = await server.chat(**fields)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    message = choice["message"]
    for call in message.get("tool_calls", ()):
        assert call.pop("id").startswith("call_")
    streamed, reason = assembled(await server.chat_events(**fields))
    assert streamed == {**message, "content": message["content"] or ""}
    assert reason == choice["finish_reason"]
    return message, reason


def assembled(events: list[Any]) -> tuple[dict[str, Any], str]:
    """As clients do it: every part appended to what there is; ids and names come once."""
    message: dict[str, Any] = {}
    reasons = []
    for event in events[:-1]:
        (choice,) = event["choices"]
        delta = choice["delta"]
        assert sum(map(bool, (delta.get(part) for part in delta if part != "role"))) <= 1
        for part in ("role", "content", "reasoning_content", "reasoning"):
            if part in delta:
                message[part] = message.get(part, "") + delta[part]
        for call in delta.get("tool_calls", ()):
            calls = message.setdefault("tool_calls", [])
            if call["index"] == len(calls):
                assert call.pop("id").startswith("call_")
                calls.append({"type": call["type"], "function": call["function"]})
            else:
                assert set(call) == {"index", "function"}
                assert set(call["function"]) == {"arguments"}
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
        if choice["finish_reason"] is not None:
            reasons.append(choice["finish_reason"])
    (reason,) = reasons
    return message, reason


def function_call(name: str, arguments: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}
