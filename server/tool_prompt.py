"""Tools for models whose chat template has no place for them: described in words, in the format
that Hermes models made common, so that ``hermes`` reads the calls.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Message = dict[str, Any]

_RULES = """\
You can call functions. Each line between <tools> and </tools> describes one, with a JSON schema \
of its arguments:
<tools>
{tools}
</tools>
To call a function, write its name and arguments as JSON between <tool_call> and </tool_call>; \
several calls may follow one another:
<tool_call>
{{"name": "function name", "arguments": {{"argument name": "value"}}}}
</tool_call>
The results are then given to you between <tool_response> and </tool_response>."""


def in_words(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The conversation with ``tools``, calls and results as plain text."""
    found: list[Message] = []
    for message in messages:
        if message["role"] == "tool":
            _add_result(found, message)
        elif message.get("tool_calls"):
            found.append(_with_calls(message))
        else:
            found.append(message)
    return _with_tools(found, tools) if tools else found


def _with_tools(messages: list[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    rules = _RULES.format(tools="\n".join(map(_json, tools)))
    first = messages[0] if messages else {}
    if first.get("role") != "system":
        return [{"role": "system", "content": rules}, *messages]
    return [{**first, "content": f"{first.get('content') or ''}\n\n{rules}"}, *messages[1:]]


def _with_calls(message: Message) -> Message:
    calls = [
        {"name": call["function"].get("name"), "arguments": call["function"].get("arguments")}
        for call in message["tool_calls"]
    ]
    written = [f"<tool_call>\n{_json(call)}\n</tool_call>" for call in calls]
    plain = {key: value for key, value in message.items() if key != "tool_calls"}
    content = message.get("content")
    return {**plain, "content": "\n".join([content, *written] if content else written)}


def _add_result(found: list[Message], message: Message) -> None:
    """Results that follow one another are one turn of the user's."""
    result = f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"
    last = found[-1] if found else {}
    if last.get("role") == "user" and str(last.get("content")).startswith("<tool_response>"):
        found[-1] = {**last, "content": f"{last['content']}\n{result}"}
    else:
        found.append({"role": "user", "content": result})


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
