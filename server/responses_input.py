"""From the body of /v1/responses to the chat completion that answers it."""

from collections.abc import Callable, Mapping
from typing import Any

from prelude.server.conversation import (
    Conversation,
    check_json_object,
    function_tool,
    string,
    text_of,
)
from prelude.server.errors import invalid, unsupported
from prelude.server.protocol import ChatRequest
from prelude.server.responses_protocol import (
    INCLUDABLE,
    INCLUDE_LOGPROBS,
    SAME,
    ResponsesRequest,
    TextOptions,
)

_ROLES = ("user", "assistant", "system", "developer")
_INPUT_TEXT = ("input_text", "text")
_OUTPUT_TEXT = ("output_text", "input_text", "text")


def chat_request(body: ResponsesRequest) -> ChatRequest:
    """Raises ``ApiError`` naming the field, or the item of the input, at fault."""
    _check_state(body)
    tools, choice = _tools(body)
    wants_logprobs = _wants_logprobs(body)
    values = {
        **{name: getattr(body, name) for name in SAME},
        "messages": _messages(body),
        "max_completion_tokens": body.max_output_tokens,
        "logprobs": wants_logprobs or None,
        "top_logprobs": body.top_logprobs if wants_logprobs else None,
        "reasoning_effort": body.reasoning.effort if body.reasoning else None,
        "response_format": _response_format(body.text),
        "tools": tools,
        "tool_choice": choice,
    }
    return ChatRequest(**{name: value for name, value in values.items() if value is not None})


def _check_state(body: ResponsesRequest) -> None:
    if body.previous_response_id is not None:
        raise unsupported(
            "previous_response_id",
            "answers are not stored here; send the whole conversation in input",
        )
    if body.truncation == "auto":
        raise unsupported("truncation", 'nothing is dropped from the input; send "disabled"')


def _wants_logprobs(body: ResponsesRequest) -> bool:
    for n, name in enumerate(body.include or ()):
        if name not in INCLUDABLE:
            allowed = ", ".join(sorted(INCLUDABLE))
            raise invalid(f"include.{n}", f"must be one of {allowed}")
    return bool(body.top_logprobs) or INCLUDE_LOGPROBS in (body.include or ())


def _messages(body: ResponsesRequest) -> list[dict[str, Any]]:
    found = Conversation()
    if body.instructions:
        found.say("system", body.instructions)
    if isinstance(body.input, str):
        found.say("user", body.input)
        return found.messages
    for n, item in enumerate(body.input):
        kind = item.get("type", "message" if "role" in item else None)
        read = _ITEMS.get(kind) if isinstance(kind, str) else None
        if read is None:
            raise unsupported(f"input.{n}.type", _unknown_item(kind))
        read(found, item, f"input.{n}")
    return found.messages


def _unknown_item(kind: Any) -> str:
    if kind == "item_reference":
        return "answers are not stored here; send the item itself, or say store=false to your SDK"
    return f"only {', '.join(_ITEMS)} can be read, not {kind!r}"


def _message(found: Conversation, item: dict[str, Any], where: str) -> None:
    role = string(item, "role", where)
    if role not in _ROLES:
        raise invalid(f"{where}.role", f"must be one of {', '.join(_ROLES)}")
    content = item.get("content")
    if role != "assistant":
        found.say(role, text_of(content, f"{where}.content", _INPUT_TEXT))
        return
    parts = [_spoken(part) for part in content] if isinstance(content, list) else content
    found.answer(text_of(parts, f"{where}.content", _OUTPUT_TEXT))


def _spoken(part: Any) -> Any:
    """A refusal is text too."""
    is_refusal = isinstance(part, dict) and part.get("type") == "refusal"
    return {"type": "output_text", "text": part.get("refusal")} if is_refusal else part


def _call(found: Conversation, item: dict[str, Any], where: str) -> None:
    arguments = string(item, "arguments", where)
    check_json_object(arguments, f"{where}.arguments")
    found.call(string(item, "call_id", where), string(item, "name", where), arguments)


def _call_output(found: Conversation, item: dict[str, Any], where: str) -> None:
    text = text_of(item.get("output"), f"{where}.output", _INPUT_TEXT)
    found.result(string(item, "call_id", where), text)


def _reasoning(found: Conversation, item: dict[str, Any], where: str) -> None:
    """Its text, where it came from here; summaries and what is encrypted elsewhere say nothing to
    this model."""
    text = text_of(item.get("content") or [], f"{where}.content", ("reasoning_text",))
    if text:
        found.think(text)


_ITEMS: Mapping[str, Callable[[Conversation, dict[str, Any], str], None]] = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _call_output,
    "reasoning": _reasoning,
}


def _response_format(text: TextOptions | None) -> dict[str, Any] | None:
    if text is None or text.format is None:
        return None
    kind = text.format.get("type")
    if kind == "json_schema":
        named = {name: value for name, value in text.format.items() if name != "type"}
        return {"type": kind, "json_schema": named}
    if kind in ("text", "json_object"):
        return {"type": kind}
    raise invalid("text.format.type", "must be text, json_object or json_schema")


def _tools(body: ResponsesRequest) -> tuple[list[dict[str, Any]] | None, Any]:
    """Tools and choice in the words of chat completions."""
    tools = [_tool(tool, f"tools.{n}") for n, tool in enumerate(body.tools or ())]
    choice = body.tool_choice
    if isinstance(choice, dict):
        if choice.get("type") == "allowed_tools":
            tools, choice = _allowed(tools, choice)
        elif choice.get("type") == "function":
            name = string(choice, "name", "tool_choice")
            choice = {"type": "function", "function": {"name": name}}
        else:
            raise unsupported("tool_choice.type", "only function and allowed_tools are supported")
    return tools or None, choice


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise unsupported(f"{where}.type", f"only function is supported, not {tool.get('type')!r}")
    return function_tool(
        where,
        string(tool, "name", where),
        tool.get("description"),
        tool.get("parameters"),
        tool.get("strict"),
    )


def _allowed(
    tools: list[dict[str, Any]], choice: dict[str, Any]
) -> tuple[list[dict[str, Any]], str]:
    mode, allowed = choice.get("mode", "auto"), choice.get("tools")
    if mode not in ("auto", "required"):
        raise invalid("tool_choice.mode", "must be auto or required")
    if not isinstance(allowed, list) or not all(isinstance(one, dict) for one in allowed):
        raise invalid("tool_choice.tools", "must be a list of functions", "invalid_type")
    known = {tool["function"]["name"]: tool for tool in tools}
    found = []
    for n, one in enumerate(allowed):
        name = string(one, "name", f"tool_choice.tools.{n}")
        if name not in known:
            raise invalid(f"tool_choice.tools.{n}.name", f"there is no tool {name!r}")
        found.append(known[name])
    return found, mode
