"""What the length of an answer may follow from, as rows of a hashed table: who asks, how long the
prompt is, how it is limited, and its last tokens, alone and in pairs. Bounded whatever comes.
"""

from math import log2
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from prelude.types.request import Request

NUM_ROWS = 4096
NUM_CLIENTS = 1024

_LAST_TOKENS = 32
_OPENING = 16
_SIZES_AN_OCTAVE = 4
_TOKEN, _BEFORE = 0x9E3779B1, 0x85EBCA77  # odd multipliers of Fibonacci and murmur hashing


class Features(NamedTuple):
    """``rows`` of the table, increasing, int64 [rows]; and the row of the client's own history,
    which is never 0."""

    rows: NDArray[np.int64]
    client: int


def features(request: Request, *, contract: bool) -> Features:
    """Without ``contract`` the limit of tokens is not looked at. A few microseconds."""
    hints, ids = request.hints, request.prompt_ids
    size = int(_SIZES_AN_OCTAVE * log2(max(len(ids), 1)))
    limit = request.params.max_tokens if contract else None
    words = (
        f"template {hints.template or ids[:_OPENING]}",
        f"size {size}",
        f"client {hints.client} {size}",
        f"limit {limit}",
        f"effort {hints.reasoning} {hints.is_bounded}",
    )
    last = ids[-_LAST_TOKENS:]
    single = [token * _TOKEN for token in last]
    found = {crc32(word.encode()) % NUM_ROWS for word in words}
    found.update([(one >> 8) % NUM_ROWS for one in single])
    pairs = zip(single[1:], last, strict=False)
    found.update([(one + before * _BEFORE >> 8) % NUM_ROWS for one, before in pairs])
    return Features(np.array(sorted(found), np.int64), client_row(hints.client))


def client_row(client: str) -> int:
    """Of the client's own history."""
    return 1 + crc32(client.encode()) % (NUM_CLIENTS - 1)
