"""Which tokens constrained answers may have next, as bits. No torch here."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prelude.types.constraint import Matcher


def num_words(vocab_size: int) -> int:
    """32-bit words of a mask."""
    return -(-vocab_size // 32)


def fill(matchers: Sequence[Matcher], vocab_size: int) -> NDArray[np.int32]:
    """Bits [matchers, words]."""
    bits = np.empty((len(matchers), num_words(vocab_size)), dtype=np.int32)
    for row, matcher in zip(bits, matchers, strict=True):
        matcher.fill(row)
    return bits


def unpack(bits: NDArray[np.int32], vocab_size: int) -> NDArray[np.bool_]:
    """Booleans [rows, vocab] of bits [rows, words]."""
    flags = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little", count=vocab_size)
    return flags.view(np.bool_)


def nearest(matcher: Matcher, token_id: int, vocab_size: int) -> int:
    """``token_id``, a model's only wish, if it may come next, else the first id after it that may,
    from the beginning again behind the last."""
    if token_id == matcher.wish_id:
        return token_id
    allowed = unpack(fill([matcher], vocab_size), vocab_size)[0].nonzero()[0]
    at = int(np.searchsorted(allowed, token_id))
    return int(allowed[at % len(allowed)])
