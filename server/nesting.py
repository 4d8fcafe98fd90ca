"""How deep JSON is nested and how many arrays and objects it has, found without building them: what
recurses over it later must not run out of stack, and one body must not hold up everybody's streams.
"""

import re

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_ALL_BUT_SQUARE = bytes(set(range(256)) - set(b"[]"))


def num_openings(body: bytes) -> int:
    """An upper bound on arrays and objects, for those in strings count too."""
    return body.count(b"[") + body.count(b"{")


def brackets(body: bytes) -> bytes:
    """Of ``body``, valid JSON: all brackets and braces outside strings, as ``[`` and ``]``."""
    return _STRING.sub(b"", body).translate(_AS_SQUARE).translate(None, _ALL_BUT_SQUARE)


def is_deeper(nested: bytes, limit: int) -> bool:
    """True if ``brackets`` are nested more than ``limit`` deep. Each pass takes away all innermost
    pairs at once, so that nothing loops over bytes."""
    if b"[" * (limit + 1) in nested:
        return True
    for _ in range(limit):
        fewer = nested.replace(b"[]", b"")
        if len(fewer) == len(nested):
            break
        nested = fewer
    return bool(nested)
