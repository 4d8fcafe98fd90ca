"""Calls written as a list of Python calls with keyword arguments: ``[f(a=1), g(b="x")]``.

What the arguments are is known when the list has ended, so all of it is sent then.
"""

import ast
import json
import re

from prelude.text.parsing.calls import Calls
from prelude.text.parsing.feed import Emit, Feed, Steps

_MAX_CHARS = 65_536  # of what the Python parser is given
_NAME_END = re.compile(r"[^\w.]")
_IN_BRACKETS = re.compile(r"""["'\[\](){}]""")
_IN_STRING = {'"': re.compile(r'["\\]'), "'": re.compile(r"['\\]")}


def pythonic_calls(feed: Feed, calls: Calls, *, is_marked: bool) -> Steps[bool]:
    """Like ``json_calls``."""
    if (yield from feed.skip_space()) != "[":
        return False
    pieces = [feed.take()]
    yield from feed.skip_space()
    name = yield from _name(feed)
    if (yield from feed.peek()) != "(" or not (is_marked or name in calls.tools):
        return False
    pieces.append(name)
    found = _parsed("".join(pieces)) if (yield from _brackets(feed, pieces.append)) else None
    if not found:
        return False
    feed.forget()
    for name, arguments in found:
        calls.begin(name)
        calls.arguments(arguments)
        calls.end(is_whole=True)
    feed.hold()
    return True


def _name(feed: Feed) -> Steps[str]:
    pieces: list[str] = []
    while (yield from feed.peek()):
        end = feed.find(_NAME_END)
        pieces.append(feed.rest() if end is None else feed.take_to(end.start()))
        if end is not None:
            break
    return "".join(pieces)


def _brackets(feed: Feed, emit: Emit) -> Steps[bool]:
    """Up to the bracket that closes the list; False if the text ends before."""
    depth = 1
    while (yield from feed.peek()):
        found = feed.find(_IN_BRACKETS)
        if found is None:
            emit(feed.rest())
            continue
        emit(feed.take_to(found.end()))
        char = found.group()
        if char in _IN_STRING:
            yield from _string_rest(feed, _IN_STRING[char], emit)
            continue
        depth += 1 if char in "[({" else -1
        if depth == 0:
            return True
    return False


def _string_rest(feed: Feed, pattern: re.Pattern[str], emit: Emit) -> Steps[None]:
    while (yield from feed.peek()):
        found = feed.find(pattern)
        if found is None:
            emit(feed.rest())
            continue
        emit(feed.take_to(found.end()))
        if found.group() != "\\":
            return
        if (yield from feed.peek()):
            emit(feed.take())


def _parsed(text: str) -> list[tuple[str, str]] | None:
    """(name, arguments as JSON) of every call; None if it is not a list of such calls."""
    if len(text) > _MAX_CHARS:
        return None
    try:
        tree = ast.parse(text, mode="eval").body
        if not isinstance(tree, ast.List):
            return None
        return [_call(node) for node in tree.elts]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _call(node: ast.expr) -> tuple[str, str]:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("not a call with keyword arguments")
    values = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("arguments in a dict")
        values[keyword.arg] = ast.literal_eval(keyword.value)
    arguments = json.dumps(values, ensure_ascii=False, allow_nan=False)
    arguments.encode()  # escapes can spell half of a surrogate pair, which nobody can be sent
    return ast.unparse(node.func), arguments
