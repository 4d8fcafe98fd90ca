"""Chat messages from the smaller pieces of other APIs: texts, thoughts, calls and their results."""

from collections.abc import Collection
from typing import Any

import msgspec

from prelude.server.bounds import problem_of
from prelude.server.errors import invalid, unsupported
from prelude.server.nesting import shape_of

_SYSTEM = ("system", "developer")
_IN_PIECES = ("content", "reasoning_content")


class Conversation:
    """What an assistant thinks, says and calls between two turns of others becomes one message, as
    chat templates expect it, and so do system texts at the beginning."""

    def __init__(self) -> None:
        self._drafts: list[dict[str, Any]] = []  # texts in pieces: adding to one would copy it

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [{**draft, **_texts(draft)} for draft in self._drafts]

    def say(self, role: str, text: str) -> None:
        """Of anybody but the assistant."""
        first = self._drafts[0] if len(self._drafts) == 1 else {}
        if role in _SYSTEM and first.get("role") in _SYSTEM:
            first["content"].append(text)
        else:
            self._drafts.append({"role": role, "content": [text]})

    def answer(self, text: str) -> None:
        self._add("content", text)

    def think(self, text: str) -> None:
        self._add("reasoning_content", text)

    def call(self, call_id: str, name: str, arguments: str) -> None:
        """``arguments`` is JSON text."""
        function = {"name": name, "arguments": arguments}
        calls = self._assistant().setdefault("tool_calls", [])
        calls.append({"id": call_id, "type": "function", "function": function})

    def result(self, call_id: str, text: str) -> None:
        self._drafts.append({"role": "tool", "tool_call_id": call_id, "content": [text]})

    def _add(self, field: str, text: str) -> None:
        message = self._assistant()
        if any(message["content"]) and "tool_calls" not in message:
            message = self._new()  # one answer has ended; this begins another
        pieces = message.setdefault(field, [])
        if not any(pieces):
            pieces.clear()
        pieces.append(text)

    def _assistant(self) -> dict[str, Any]:
        last = self._drafts[-1] if self._drafts else {}
        return last if last.get("role") == "assistant" else self._new()

    def _new(self) -> dict[str, Any]:
        self._drafts.append({"role": "assistant", "content": []})
        return self._drafts[-1]


def _texts(draft: dict[str, Any]) -> dict[str, str]:
    joint = "\n\n" if draft["role"] in _SYSTEM else "\n"
    return {name: joint.join(draft[name]) for name in _IN_PIECES if name in draft}


def text_of(content: Any, where: str, kinds: Collection[str]) -> str:
    """A string, or a list of parts of these ``kinds``, which have their text under ``text``. Raises
    ``ApiError`` that begins with ``where``."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(where, "must be a string or a list of parts", "invalid_type")
    texts = []
    for n, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in kinds:
            raise unsupported(
                f"{where}.{n}.type", f"only {' and '.join(sorted(kinds))} can be read, not {kind!r}"
            )
        texts.append(string(part, "text", f"{where}.{n}"))
    return "\n".join(texts)


def string(record: dict[str, Any], field: str, where: str) -> str:
    """A required string of ``record``, which stands at ``where``. Raises ``ApiError``."""
    value = record.get(field)
    if value is None:
        raise invalid(f"{where}.{field}", "is required", "missing_required_parameter")
    if not isinstance(value, str):
        raise invalid(f"{where}.{field}", "must be a string", "invalid_type")
    return value


def check_json_object(text: str, where: str) -> None:
    """Raises ``ApiError`` unless ``text`` is that of a JSON object, or empty."""
    try:
        if (problem := problem_of(shape_of(text.encode()))) is not None:
            raise invalid(where, problem)
        found = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise invalid(where, f"is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise invalid(where, "must be the text of a JSON object", "invalid_type")


def function_tool(
    where: str, name: str, description: Any, parameters: Any, strict: Any
) -> dict[str, Any]:
    """A tool as chat completions know it. Raises ``ApiError`` that begins with ``where``."""
    if description is not None and not isinstance(description, str):
        raise invalid(f"{where}.description", "must be a string", "invalid_type")
    function: dict[str, Any] = {"name": name}
    if description is not None:
        function["description"] = description
    if parameters is not None:
        function["parameters"] = parameters
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}
