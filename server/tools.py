"""What a request says about tools: which there are, whether one must be called, and how many."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from prelude.server.errors import ApiError, invalid, unsupported
from prelude.server.protocol import ChatRequest, TokenizeRequest

_NAME = re.compile(r"[\w.-]{1,128}", re.ASCII)


class Function(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something the model may call; ``parameters`` is a JSON schema of an object."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True):
    type: Literal["function"]
    function: Function


@dataclass(frozen=True, slots=True)
class ToolUse:
    """``shown`` to the model, as templates expect them; ``schemas`` of the parameters of those that
    may be called, by name; at most ``limit`` calls."""

    shown: Sequence[Mapping[str, Any]]
    schemas: Mapping[str, Mapping[str, Any]]
    must_call: bool
    limit: int | None
    is_strict: bool


def tool_use(body: ChatRequest | TokenizeRequest) -> ToolUse | None:
    """None where the model is not to call anything; then it is not shown any tools either. Raises
    ``ApiError`` naming the field at fault."""
    functions = {one.name: one for one in _functions(body.tools or ())}
    choice = _Choice.of(body.tool_choice, functions)
    if choice.mode == "none" or not functions:
        return None
    called = [functions[name] for name in choice.names or functions]
    return ToolUse(
        shown=[_shown(one) for one in (called if choice.hides_others else functions.values())],
        schemas={one.name: one.parameters or {} for one in called},
        must_call=choice.mode == "required",
        limit=1 if choice.is_one or body.parallel_tool_calls is False else None,
        is_strict=any(one.strict for one in called),
    )


@dataclass(frozen=True, slots=True)
class _Choice:
    mode: str = "auto"
    names: Collection[str] = ()  # of those that may be called; empty: all
    is_one: bool = False
    hides_others: bool = False

    @classmethod
    def of(cls, value: str | dict[str, Any] | None, functions: Mapping[str, Function]) -> "_Choice":
        if value is None or value in ("none", "auto"):
            return cls(value or "auto")
        if not functions:
            raise invalid("tool_choice", "needs tools to choose from; send them in tools")
        if isinstance(value, str):
            if value == "required":
                return cls(value)
            raise invalid("tool_choice", "must be none, auto, required or an object")
        match value.get("type"):
            case "function":
                name = _named(value, "tool_choice", functions)
                return cls("required", (name,), is_one=True)
            case "allowed_tools":
                return cls._allowed(value.get("allowed_tools"), functions)
        raise unsupported("tool_choice.type", "must be function or allowed_tools")

    @classmethod
    def _allowed(cls, value: Any, functions: Mapping[str, Function]) -> "_Choice":
        where = "tool_choice.allowed_tools"
        tools = value.get("tools") if isinstance(value, dict) else None
        if not isinstance(tools, list) or not tools:
            raise invalid(f"{where}.tools", "must be a list of at least one tool")
        mode = value.get("mode", "auto")
        if mode not in ("auto", "required"):
            raise invalid(f"{where}.mode", "must be auto or required")
        names = [_named(one, f"{where}.tools.{n}", functions) for n, one in enumerate(tools)]
        return cls(mode, list(dict.fromkeys(names)), hides_others=True)


def _named(value: Any, where: str, functions: Mapping[str, Function]) -> str:
    function = value.get("function") if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise invalid(f"{where}.function.name", "must be a string", "invalid_type")
    if name not in functions:
        raise invalid(f"{where}.function.name", f"there is no tool {name!r} in tools")
    return name


def _functions(tools: Sequence[Mapping[str, Any]]) -> list[Function]:
    found: list[Function] = []
    names = set()
    for n, tool in enumerate(tools):
        function = _function(tool, f"tools.{n}")
        if function.name in names:
            raise invalid(f"tools.{n}.function.name", f"{function.name!r} is there twice")
        names.add(function.name)
        found.append(function)
    return found


def _function(tool: Mapping[str, Any], where: str) -> Function:
    if tool.get("type", "function") != "function":
        raise unsupported(f"{where}.type", f"only function is supported, not {tool['type']!r}")
    try:
        function = msgspec.convert({"type": "function", **tool}, Tool).function
    except msgspec.ValidationError as error:
        raise _located(error, where) from error
    if not _NAME.fullmatch(function.name):
        raise invalid(f"{where}.function.name", "must be 1 to 128 letters, digits, dots, _ or -")
    return function


def _located(error: msgspec.ValidationError, where: str) -> ApiError:
    """msgspec names the place as a path from the tool: ``... - at `$.function.name```."""
    what, _, path = str(error).replace("`", "").partition(" - at $")
    return invalid(where + path, what, "invalid_type")


def _shown(function: Function) -> dict[str, Any]:
    """``strict`` is between the client and us."""
    plain = msgspec.structs.replace(function, strict=None)
    return {"type": "function", "function": msgspec.to_builtins(plain)}
