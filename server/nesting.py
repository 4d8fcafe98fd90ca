"""How deep JSON is nested and how much of everything it has, found without building it: what
recurses over it later must not run out of stack, and one body must not hold up everybody's streams.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BACKSLASHES = re.compile(rb"\\*", re.DOTALL)
_CHUNK_BYTES = 2**20  # one step holds up other threads no longer than this takes


@dataclass(frozen=True, slots=True)
class Shape:
    """Of valid JSON: the brackets and braces outside of strings, as ``[`` and ``]``, the commas
    there, and how many strings there are, names included."""

    brackets: bytes
    num_commas: int
    num_strings: int

    @property
    def num_nodes(self) -> int:
        """Arrays and objects."""
        return len(self.brackets) // 2


def num_openings(body: bytes) -> int:
    """An upper bound on arrays and objects, for those in strings count too."""
    return body.count(b"[") + body.count(b"{")


def shape_of(body: bytes) -> Shape:
    """Of what is not valid JSON it is any shape."""
    brackets, num_commas, num_quotes = [], 0, 0
    for chunk in _chunks(body):
        pieces = chunk.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
        outside = b"".join(pieces[num_quotes % 2 :: 2])
        brackets.append(outside.translate(_AS_SQUARE, _ALL_BUT_BRACKETS))
        num_commas += outside.count(b",")
        num_quotes += len(pieces) - 1
    return Shape(b"".join(brackets), num_commas, num_quotes // 2)


def is_deeper(nested: bytes, limit: int) -> bool:
    """True if the brackets of a shape are nested more than ``limit`` deep. Each pass takes away all
    innermost pairs at once, so that nothing loops over bytes."""
    if b"[" * (limit + 1) in nested:
        return True
    for _ in range(limit):
        fewer = nested.replace(b"[]", b"")
        if len(fewer) == len(nested):
            break
        nested = fewer
    return bool(nested)


def _chunks(body: bytes) -> Iterator[bytes]:
    """No escape is cut in two: backslashes at the end of a chunk have what follows them there."""
    start = 0
    while start < len(body):
        end = start + _CHUNK_BYTES
        if body[end - 1 : end] == b"\\" and (run := _BACKSLASHES.match(body, end)):
            end = run.end() + 1
        yield body[start:end]
        start = end
