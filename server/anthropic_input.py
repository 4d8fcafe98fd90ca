"""From the body of /v1/messages to the chat completion that answers it."""

from typing import Any

import msgspec

from prelude.server.anthropic_protocol import (
    SAME,
    CountTokensRequest,
    MessagesRequest,
    Thinking,
)
from prelude.server.conversation import Conversation, function_tool, string, text_of
from prelude.server.errors import invalid, unsupported
from prelude.server.protocol import ChatRequest

_TEXT = ("text",)
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}

# Tokens of thinking up to which an effort is that; more is high.
_BUDGETS = ((2048, "low"), (8192, "medium"))


class MessagesChat(ChatRequest, frozen=True, kw_only=True):
    """``max_tokens`` must be sent whatever the model's context is, so it only bounds the answer."""

    @property
    def is_capped_by_context(self) -> bool:
        return True


def chat_request(body: CountTokensRequest) -> ChatRequest:
    """Raises ``ApiError`` naming the field, or the block of the messages, at fault."""
    choice, is_parallel = _choice(body.tool_choice)
    messages = _messages(body)
    values: dict[str, Any] = {
        "messages": messages,
        "continue_final_message": _is_begun(messages) or None,
        "tools": [_tool(tool, f"tools.{n}") for n, tool in enumerate(body.tools or ())] or None,
        "tool_choice": choice,
        "parallel_tool_calls": is_parallel,
        "reasoning_effort": _effort(body),
        "response_format": _response_format(body),
    }
    if isinstance(body, MessagesRequest):
        values |= {name: getattr(body, name) for name in SAME}
        values["stop"] = body.stop_sequences
        values["user"] = body.metadata.user_id if body.metadata else None
    else:
        values["model"] = body.model
    return MessagesChat(**{name: value for name, value in values.items() if value is not None})


def _messages(body: CountTokensRequest) -> list[dict[str, Any]]:
    found = Conversation()
    if body.system:
        found.say("system", text_of(body.system, "system", _TEXT))
    for n, message in enumerate(body.messages):
        where = f"messages.{n}"
        role, content = string(message, "role", where), message.get("content")
        if role not in ("user", "assistant", "system"):
            raise invalid(f"{where}.role", "must be user, assistant or system")
        if role == "system":
            found.say(role, text_of(content, f"{where}.content", _TEXT))
            continue
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list):
            raise invalid(f"{where}.content", "must be a string or a list of blocks")
        read = _asked if role == "user" else _answered
        read(found, content, f"{where}.content")
    return found.messages


def _is_begun(messages: list[dict[str, Any]]) -> bool:
    """Whether the answer goes on with what the client has put into the assistant's mouth."""
    last = messages[-1] if messages else {}
    return last.get("role") == "assistant" and bool(last["content"]) and not last.get("tool_calls")


def _asked(found: Conversation, blocks: list[Any], where: str) -> None:
    """Results are messages of their own; texts between them are what the user says."""
    texts: list[str] = []
    for n, block in enumerate(blocks):
        at = f"{where}.{n}"
        match _kind(block):
            case "text":
                texts.append(string(block, "text", at))
            case "tool_result":
                _say(found, texts)
                content = block.get("content")
                text = "" if content is None else text_of(content, f"{at}.content", _TEXT)
                found.result(string(block, "tool_use_id", at), text)
            case kind:
                raise unsupported(f"{at}.type", f"only text and tool_result, not {kind!r}")
    if texts or not blocks:
        _say(found, texts or [""])


def _say(found: Conversation, texts: list[str]) -> None:
    if texts:
        found.say("user", "\n".join(texts))
        texts.clear()


def _answered(found: Conversation, blocks: list[Any], where: str) -> None:
    texts: list[str] = []
    for n, block in enumerate(blocks):
        at = f"{where}.{n}"
        match _kind(block):
            case "text":
                texts.append(string(block, "text", at))
            case "thinking":
                found.think(string(block, "thinking", at))
            case "redacted_thinking":
                pass  # another model's, and not legible
            case "tool_use":
                _answer(found, texts)
                arguments = msgspec.json.encode(_input(block, at)).decode()
                found.call(string(block, "id", at), string(block, "name", at), arguments)
            case kind:
                raise unsupported(f"{at}.type", f"only text, thinking and tool_use, not {kind!r}")
    _answer(found, texts)


def _answer(found: Conversation, texts: list[str]) -> None:
    if texts:
        found.answer("\n".join(texts))
        texts.clear()


def _input(block: dict[str, Any], where: str) -> dict[str, Any]:
    found = block.get("input", {})
    if not isinstance(found, dict):
        raise invalid(f"{where}.input", "must be an object", "invalid_type")
    return found


def _kind(block: Any) -> Any:
    return block.get("type") if isinstance(block, dict) else None


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        raise unsupported(f"{where}.type", f"only custom is supported, not {tool['type']!r}")
    schema = tool.get("input_schema")
    if not isinstance(schema, dict):
        raise invalid(f"{where}.input_schema", "must be a JSON schema", "invalid_type")
    name = string(tool, "name", where)
    return function_tool(where, name, tool.get("description"), schema, tool.get("strict"))


def _choice(choice: dict[str, Any] | None) -> tuple[Any, bool | None]:
    """The choice and whether calls may be parallel, in the words of chat completions."""
    if choice is None:
        return None, None
    is_parallel = False if choice.get("disable_parallel_tool_use") else None
    kind = choice.get("type")
    if kind == "tool":
        name = string(choice, "name", "tool_choice")
        return {"type": "function", "function": {"name": name}}, is_parallel
    if not isinstance(kind, str) or kind not in _CHOICES:
        raise invalid("tool_choice.type", "must be auto, any, tool or none")
    return _CHOICES[kind], is_parallel


def _effort(body: CountTokensRequest) -> str | None:
    said = body.output_config.effort if body.output_config else None
    effort = "xhigh" if said == "max" else said
    thinking = body.thinking
    if thinking is None or thinking.type == "between_tools":
        return effort
    if thinking.type == "disabled":
        return "none"
    return effort or _by_budget(thinking)


def _by_budget(thinking: Thinking) -> str | None:
    if thinking.budget_tokens is None:
        return "medium" if thinking.type == "enabled" else None
    if thinking.budget_tokens < 1:
        raise invalid("thinking.budget_tokens", "must be at least 1")
    for limit, effort in _BUDGETS:
        if thinking.budget_tokens <= limit:
            return effort
    return "high"


def _response_format(body: CountTokensRequest) -> dict[str, Any] | None:
    wanted = body.output_config.format if body.output_config else None
    if wanted is None:
        return None
    schema = wanted.get("schema")
    if wanted.get("type") != "json_schema" or not isinstance(schema, dict):
        raise invalid("output_config.format", "must have type json_schema and a schema")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
