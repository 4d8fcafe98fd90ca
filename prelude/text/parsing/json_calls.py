"""Calls written as JSON: ``{"name": ..., "arguments": {...}}``, alone or in a list.

Models differ in the words (``parameters``), in the order of the keys, and in whether the
arguments are an object or a string that holds one; all of these are read.
"""

from prelude.text.parsing.calls import Calls
from prelude.text.parsing.feed import Feed, Steps, decoded, json_value, read_string

_ARGUMENTS = ("arguments", "parameters")


def json_calls(feed: Feed, calls: Calls, *, is_marked: bool) -> Steps[bool]:
    """One call or a list of them. False as soon as it is something else; then what the feed holds
    is not part of any call. ``is_marked`` says that something in the text has announced a call;
    without that only the names of known tools are believed."""
    if (yield from feed.skip_space()) != "[":
        return (yield from json_call(feed, calls, is_marked=is_marked))
    feed.take()
    num_before = calls.num_begun
    while (following := (yield from feed.skip_space())) in ("{", ","):
        if following == ",":
            feed.take()
        elif not (yield from json_call(feed, calls, is_marked=is_marked)):
            return False
    if following != "]" or calls.num_begun == num_before:
        return False
    feed.take()
    return True


def json_call(feed: Feed, calls: Calls, *, is_marked: bool) -> Steps[bool]:
    """One call; False if this is none. What the feed held up to its end is forgotten, and it
    holds what follows."""
    if (yield from feed.skip_space()) != "{":
        return False
    found = yield from _Call(feed, calls, is_marked).read()
    if found:
        feed.hold()
    return found


class _Call:
    """One object. The call begins once its name and the first of its arguments are known."""

    def __init__(self, feed: Feed, calls: Calls, is_marked: bool) -> None:
        self._feed = feed
        self._calls = calls
        self._is_marked = is_marked
        self._name: str | None = None
        self._early: list[str] | None = None  # arguments that came before the name
        self._has_begun = False
        self._is_whole = True

    def read(self) -> Steps[bool]:
        depth = yield from self._members()
        can_begin = depth == 0 and self._name is not None and not self._has_begun
        if can_begin and (self._early is not None or self._is_marked):
            self._begin(self._early or ["{}"])
        if self._has_begun:
            self._calls.end(self._is_whole)
        return self._has_begun

    def _members(self) -> Steps[int]:
        """Every key and value; the number of brackets that stayed open where they end."""
        feed, depth = self._feed, 0
        while (following := (yield from feed.skip_space())) and following in '{,}"':
            if following != '"':
                feed.take()
                depth += {"{": 1, ",": 0, "}": -1}[following]
                if depth == 0:
                    return 0
                continue
            key = yield from read_string(feed)
            if key is None or (yield from feed.skip_space()) != ":":
                break
            feed.take()
            following = yield from feed.skip_space()
            if key == "function" and following == "{":
                continue  # OpenAI's own shape: the same one level down
            if not following or not (yield from self._value(key, following)):
                break
        return depth

    def _value(self, key: str, first: str) -> Steps[bool]:
        """False where the text cannot go on as a call."""
        if key in _ARGUMENTS and not self._has_begun and self._early is None:
            return (yield from self._arguments(first))
        if key in ("name", "function") and first == '"' and self._name is None:
            self._name = yield from read_string(self._feed)
            return self._is_good_name()
        return (yield from json_value(self._feed, lambda piece: None))

    def _is_good_name(self) -> bool:
        return bool(self._name) and (self._is_marked or self._name in self._calls.tools)

    def _arguments(self, first: str) -> Steps[bool]:
        if first not in '{"n':
            return False
        if self._name is None:
            self._early = []
            emit = self._early.append
        else:
            self._begin([])
            emit = self._calls.arguments
        if first == "{":
            self._is_whole = yield from json_value(self._feed, emit)
            return self._is_whole
        pieces: list[str] = []
        self._is_whole = yield from json_value(self._feed, pieces.append)
        emit(_unwrapped("".join(pieces)))
        return self._is_whole

    def _begin(self, arguments: list[str]) -> None:
        assert self._name is not None
        self._feed.forget()
        self._has_begun = True
        self._calls.begin(self._name)
        for piece in arguments:
            self._calls.arguments(piece)


def _unwrapped(literal: str) -> str:
    """Arguments that are not an object: a string holds them, or there are none."""
    if literal == "null":
        return "{}"
    text = decoded(literal)
    return literal if text is None else text.strip() or "{}"
