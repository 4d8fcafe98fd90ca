"""What follows Mistral's ``[TOOL_CALLS]``: a list of JSON calls, or in newer models a name and
its arguments, with ``[CALL_ID]`` and ``[ARGS]`` between them or nothing."""

import re

from prelude.text.parsing.calls import Calls
from prelude.text.parsing.feed import Feed, Steps, json_value
from prelude.text.parsing.json_calls import json_calls

_NAME_CHARS = re.compile(r"[^\w.-]")
_MAX_NAME = 256


def mistral_calls(feed: Feed, calls: Calls) -> Steps[bool]:
    """Like ``json_calls``."""
    following = yield from feed.skip_space()
    if following and following in "[{":
        return (yield from json_calls(feed, calls, is_marked=True))
    name = yield from _word(feed)
    if not name:
        return False
    while (yield from feed.skip_space()) == "[":
        tag = yield from _tag(feed)
        if tag == "[CALL_ID]":
            yield from _word(feed)
        elif tag != "[ARGS]":
            return False
    if (yield from feed.peek()) != "{":
        return False
    feed.forget()
    calls.begin(name)
    calls.end((yield from json_value(feed, calls.arguments)))
    feed.hold()
    return True


def _word(feed: Feed) -> Steps[str]:
    pieces: list[str] = []
    while (yield from feed.peek()) and sum(map(len, pieces)) <= _MAX_NAME:
        end = feed.find(_NAME_CHARS)
        pieces.append(feed.rest() if end is None else feed.take_to(end.start()))
        if end is not None:
            break
    return "".join(pieces)


def _tag(feed: Feed) -> Steps[str]:
    tag = feed.take()
    while (char := (yield from feed.peek())) and (char == "_" or char.isupper()) and len(tag) < 16:
        tag += feed.take()
    return tag + feed.take() if char == "]" else ""
