"""Text that comes in pieces, and what every parser reads from it.

A parser is a coroutine that is written as if it had all of the text: where a piece ends it waits,
and goes on with the next one. So what it finds cannot depend on where the pieces were cut, and
every character is looked at once.
"""

import json
import re
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")

# A coroutine that waits for more text wherever it yields.
Steps = Generator[None, None, T]
Emit = Callable[[str], None]

_SPACE = re.compile(r"\s*")
_IN_STRING = re.compile(r'["\\]')
_IN_BRACKETS = re.compile(r'["\[\]{}<]')
_SCALAR_END = re.compile(r"[\s,\]}<]")


class Feed:
    """``push`` text and resume the reader; ``close`` after the last. While a reader does not know
    yet whether this is a call, ``hold`` keeps what it takes, to be given back or forgotten."""

    def __init__(self) -> None:
        self._text = ""
        self._pos = 0
        self._is_closed = False
        self._held: list[str] | None = None

    def push(self, text: str) -> None:
        self._text = self._text[self._pos :] + text
        self._pos = 0

    def close(self) -> None:
        self._is_closed = True

    def hold(self, text: str = "") -> None:
        """Keep ``text``, taken already, and all that is taken from now on."""
        self._held = [text]

    def forget(self) -> None:
        self._held = None

    def give_back(self) -> str:
        """What was held. Nothing is held any more."""
        held, self._held = self._held or [], None
        return "".join(held)

    def unread(self) -> None:
        """What was held is to be read again. Nothing is held any more."""
        self._text = self.give_back() + self._text[self._pos :]
        self._pos = 0

    def peek(self) -> Steps[str]:
        """The next character; empty at the end of the text."""
        while self._pos == len(self._text):
            if self._is_closed:
                return ""
            yield
        return self._text[self._pos]

    def take(self, num: int = 1) -> str:
        """The next ``num`` characters, which are here."""
        return self.take_to(self._pos + num)

    def rest(self) -> str:
        """All that is here."""
        return self.take_to(len(self._text))

    def put_back(self, text: str) -> None:
        """``text``, the end of what was taken last, is to be read again. Not while holding."""
        assert self._held is None
        self._pos -= len(text)

    def find(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The first match in what is here."""
        return pattern.search(self._text, self._pos)

    def take_to(self, end: int) -> str:
        """All before ``end``, which is a position of a match."""
        taken = self._text[self._pos : end]
        self._pos = end
        if self._held is not None:
            self._held.append(taken)
        return taken

    def skip_space(self) -> Steps[str]:
        """Take whitespace; the character after it, or nothing at the end."""
        while True:
            space = _SPACE.match(self._text, self._pos)
            assert space is not None
            self.take_to(space.end())
            after = yield from self.peek()
            if not after.isspace():
                return after

    def skip(self, word: str) -> Steps[bool]:
        """Take ``word`` if it comes next. What of it has come by then is taken in any case; hold
        it if that matters."""
        for char in word:
            if (yield from self.peek()) != char:
                return False
            self.take()
        return True


def read_string(feed: Feed) -> Steps[str | None]:
    """The JSON string that comes next, decoded; None if it is malformed or the text ends."""
    pieces: list[str] = []
    is_whole = yield from json_value(feed, pieces.append)
    return decoded("".join(pieces)) if is_whole else None


def decoded(literal: str) -> str | None:
    """The text of a JSON string; None if it is malformed or not fit to be sent."""
    try:
        value = json.loads(literal, strict=False)
        return value if isinstance(value, str) and value.encode() is not None else None
    except ValueError:  # half of a surrogate pair is one, too
        return None


def json_value(feed: Feed, emit: Emit) -> Steps[bool]:
    """Take one JSON value, passing its text on as it comes. Only strings and brackets are looked
    at: what is wrong within them is passed on as it is. False if it has no end."""
    first = yield from feed.peek()
    if first == '"':
        emit(feed.take())
        return (yield from _string_rest(feed, emit))
    if first and first in "{[":
        return (yield from _brackets(feed, emit))
    while (yield from feed.peek()):
        found = feed.find(_SCALAR_END)
        if found is not None:
            emit(feed.take_to(found.start()))
            return True
        emit(feed.rest())
    return bool(first)


def _brackets(feed: Feed, emit: Emit) -> Steps[bool]:
    depth = 0
    while (yield from feed.peek()):
        found = feed.find(_IN_BRACKETS)
        if found is None:
            emit(feed.rest())
            continue
        char = found.group()
        if char == "<":  # never JSON: the model closed the call before all of its brackets
            emit(feed.take_to(found.start()))
            return False
        emit(feed.take_to(found.end()))
        if char == '"':
            if not (yield from _string_rest(feed, emit)):
                return False
        else:
            depth += 1 if char in "{[" else -1
            if depth == 0:
                return True
    return False


def _string_rest(feed: Feed, emit: Emit) -> Steps[bool]:
    while (yield from feed.peek()):
        found = feed.find(_IN_STRING)
        if found is None:
            emit(feed.rest())
            continue
        emit(feed.take_to(found.end()))
        if found.group() == '"':
            return True
        if (yield from feed.peek()):
            emit(feed.take())
    return False
