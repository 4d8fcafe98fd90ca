"""Calls as Qwen3-Coder writes them: a tag for the function and one for each parameter.

Parameters are plain text, so the tool's schema says which of them are strings; those stream,
the others are passed on when they have ended and can be judged.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from prelude.text.parsing.calls import Calls
from prelude.text.parsing.feed import Feed, Steps
from prelude.text.parsing.seek import NEWLINE, text_to

Kinds = frozenset[str]

_NAME_END = re.compile(r"[>\s]")
_MAX_NAME = 256
_VALUE_END = ("</parameter>",)
_TEXT: Kinds = frozenset(("string",))
# JSON schema's names for what JSON decodes to.
_NAMES: Mapping[type, tuple[str, ...]] = {
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    str: ("string",),
    list: ("array",),
    dict: ("object",),
    type(None): ("null",),
}
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


def _parameters(feed: Feed, calls: Calls, types: Mapping[str, Kinds]) -> Steps[bool]:
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
        if not (yield from _value(feed, calls, types.get(name, _TEXT))):
            return False
    return False


def _value(feed: Feed, calls: Calls, kinds: Kinds) -> Steps[bool]:
    if (yield from feed.peek()) == "\n":
        feed.take()
    if kinds == _TEXT:
        calls.arguments('"')
        found = yield from text_to(
            feed, _VALUE_END, lambda text: calls.arguments(_inside(text)), NEWLINE
        )
        calls.arguments('"' if found.word else "")
    else:
        pieces: list[str] = []
        found = yield from text_to(feed, _VALUE_END, pieces.append, NEWLINE)
        calls.arguments(_judged("".join(pieces), kinds))
    return bool(found.word)


def _inside(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _judged(text: str, kinds: Kinds) -> str:
    """``text`` if it is JSON, and not of a kind that only a string could stand for; else as a JSON
    string. Python's ``NaN`` is no JSON."""
    word = _WORDS.get(text.strip(), text)
    try:
        value = msgspec.json.decode(word)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    is_text = "string" in kinds and kinds.isdisjoint(_NAMES.get(type(value), ()))
    return json.dumps(text, ensure_ascii=False) if is_text else word


def _types(schema: Mapping[str, Any] | None) -> Mapping[str, Kinds]:
    properties = (schema or {}).get("properties")
    if not isinstance(properties, Mapping):
        return {}
    return {name: _kinds(one) for name, one in properties.items()}


def _kinds(schema: Any) -> Kinds:
    """What a schema allows; empty where it does not say."""
    if not isinstance(schema, Mapping):
        return frozenset()
    said = schema.get("type")
    if said is not None:
        names = said if isinstance(said, list) else [said]
        return frozenset(name for name in names if isinstance(name, str))
    options = schema.get("anyOf", schema.get("oneOf"))
    found = [_kinds(one) for one in options] if isinstance(options, list) else []
    return frozenset[str]().union(*found) if all(found) else frozenset()


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
