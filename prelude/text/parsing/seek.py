"""Plain text up to one of some words, passed on as soon as it cannot be part of one."""

from collections.abc import Sequence
from typing import NamedTuple

from prelude.text.parsing.feed import Emit, Feed, Steps


class Trim(NamedTuple):
    """Up to ``limit`` of ``chars`` before a word belong to the word, not to the text."""

    chars: str
    limit: int


SPACE = Trim(" \t\r\n", 64)
NEWLINE = Trim("\n", 1)


class Found(NamedTuple):
    """``word`` is empty at the end of the text; ``trimmed`` is what stood before it."""

    word: str
    trimmed: str


def text_to(feed: Feed, words: Sequence[str], emit: Emit, trim: Trim = SPACE) -> Steps[Found]:
    """Take text and the first of ``words`` in it, passing on what is before it. The feed must not
    be holding."""
    held = ""
    while (yield from feed.peek()):
        text = held + feed.rest()
        at, word = _first(text, words)
        if word:
            start = _trimmed(text, at, trim)
            emit(text[:start])
            feed.put_back(text[at + len(word) :])
            return Found(word, text[start:at])
        start = _trimmed(text, len(text) - _num_begun(text, words), trim)
        emit(text[:start])
        held = text[start:]
    emit(held)
    return Found("", "")


def _first(text: str, words: Sequence[str]) -> tuple[int, str]:
    found = [(at, word) for word in words if (at := text.find(word)) >= 0]
    return min(found, default=(-1, ""))


def _num_begun(text: str, words: Sequence[str]) -> int:
    """Length of the longest end of ``text`` with which one of ``words`` begins."""
    longest = 0
    for word in words:
        at = text.find(word[0], max(len(text) - len(word) + 1, 0))
        while at >= 0:
            if word.startswith(text[at:]):
                longest = max(longest, len(text) - at)
                break
            at = text.find(word[0], at + 1)
    return longest


def _trimmed(text: str, end: int, trim: Trim) -> int:
    """Where the text ends that is not trimmed off before ``end``."""
    start = end
    while start > 0 and end - start < trim.limit and text[start - 1] in trim.chars:
        start -= 1
    return start
