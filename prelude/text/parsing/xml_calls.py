"""Calls as Qwen3-Coder writes them: a tag for the function and one for each parameter.

Parameters are plain text, so the tool's schema says which of them are strings; those stream,
the others are passed on when they have ended and can be judged.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from prelude.text.parsing.calls import Calls
from prelude.text.parsing.feed import Feed, Steps
from prelude.text.parsing.seek import NEWLINE, text_to

_NAME_END = re.compile(r"[>\s]")
_MAX_NAME = 256
_VALUE_END = ("</parameter>",)
_WORDS = {"True": "true", "False": "false", "None": "null"}


def xml_calls(feed: Feed, calls: Calls) -> Steps[bool]:
    """What follows ``<tool_call>``. Like ``json_calls``."""
    yield from feed.skip_space()
    if not (yield from feed.skip("<function=")):
        return False
    name = yield from _name(feed)
    if not name:
        return False
    feed.forget()
    calls.begin(name)
    is_whole = yield from _parameters(feed, calls, _types(calls.tools.get(name)))
    calls.end(is_whole)
    if is_whole:
        feed.hold()
    return is_whole


def _parameters(feed: Feed, calls: Calls, types: Mapping[str, Any]) -> Steps[bool]:
    """All arguments as one JSON object. False if they are cut off by the end of the text, or by
    something else, of which the feed may hold some."""
    calls.arguments("{")
    separator = ""
    while (yield from feed.skip_space()) == "<":
        feed.hold()
        feed.take()
        tag = yield from _name(feed)
        if tag in ("/function", "/tool_call"):
            calls.arguments("}")
            return True
        name = tag.removeprefix("parameter=")
        if name == tag:
            return False
        feed.forget()
        calls.arguments(f"{separator}{json.dumps(name, ensure_ascii=False)}: ")
        separator = ", "
        if not (yield from _value(feed, calls, types.get(name, "string"))):
            return False
    return False


def _value(feed: Feed, calls: Calls, kind: Any) -> Steps[bool]:
    if (yield from feed.peek()) == "\n":
        feed.take()
    if kind == "string":
        calls.arguments('"')
        found = yield from text_to(
            feed, _VALUE_END, lambda text: calls.arguments(_inside(text)), NEWLINE
        )
        calls.arguments('"' if found.word else "")
    else:
        pieces: list[str] = []
        found = yield from text_to(feed, _VALUE_END, pieces.append, NEWLINE)
        calls.arguments(_judged("".join(pieces)))
    return bool(found.word)


def _inside(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _judged(text: str) -> str:
    """``text`` if it is JSON, else as a JSON string."""
    text = _WORDS.get(text.strip(), text)
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    return text


def _types(schema: Mapping[str, Any] | None) -> Mapping[str, Any]:
    properties = (schema or {}).get("properties")
    if not isinstance(properties, Mapping):
        return {}
    return {
        name: one.get("type", "any") if isinstance(one, Mapping) else "any"
        for name, one in properties.items()
    }


def _name(feed: Feed) -> Steps[str]:
    """Up to the bracket that closes the tag, which is taken; empty if there is none."""
    pieces: list[str] = []
    while (yield from feed.peek()) and sum(map(len, pieces)) <= _MAX_NAME:
        end = feed.find(_NAME_END)
        if end is None:
            pieces.append(feed.rest())
            continue
        pieces.append(feed.take_to(end.start()))
        return "".join(pieces) if feed.take() == ">" else ""
    return ""
