"""Prompts that cost almost nothing: token ids say whose they are, and nothing else.

Equal beginnings are equal ids, so that a prefix cache finds what it should and nothing more.
"""

from typing import NamedTuple

VOCAB_SIZE = 2**31
EOS_ID = 0
_FIRST = 1


class Part(NamedTuple):
    """``length`` tokens of the text number ``text``."""

    text: int
    length: int

    @property
    def token_id(self) -> int:
        return _FIRST + self.text


class Texts:
    """Numbers texts: nothing has the number of something else."""

    def __init__(self) -> None:
        self._next = 0

    def part(self, length: int) -> Part:
        self._next += 1
        return Part(self._next, length)


def token_ids(parts: tuple[Part, ...]) -> list[int]:
    """A prompt. Made when it is needed: a list of 12,000 pointers to one number."""
    ids: list[int] = []
    for part in parts:
        ids += [part.token_id] * part.length
    return ids


def num_tokens(parts: tuple[Part, ...]) -> int:
    return sum(part.length for part in parts)
