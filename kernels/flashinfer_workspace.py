"""How many bytes FlashInfer's split-KV partial results need, from its planner's own arithmetic.

A buffer too small is an error of the planner at some batch size only, so it is computed from every
shape that will ever be planned (``scheduler.cuh`` of FlashInfer 0.6.9: ``PrefillPlan`` and
``DecodePlan``). The planner splits so that about two blocks per multiprocessor have work; under a
CUDA graph its grid, and so the room for partial results, depends on the bucket alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass

_FLOAT = 4
_ALIGNMENT = 64  # four sections, each aligned to 16 bytes
_BLOCKS_PER_SM = 2
_DECODE_BLOCKS_PER_SM = 16  # most blocks of 128 threads that one multiprocessor holds


@dataclass(frozen=True, slots=True)
class HeadShape:
    """Query heads, key/value heads and their dimension, per device."""

    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        return self.num_heads // self.num_kv_heads

    @property
    def tensor_core_decode(self) -> bool:
        """Whether one-token rows run on tensor cores, the group filling the tile."""
        return self.group >= 4


def workspace_bytes(heads: HeadShape, num_sms: int, shapes: Iterable[tuple[int, int]]) -> int:
    """Bytes for captured launches of ``shapes`` (tokens, rows) and for any launch not captured."""
    split = _BLOCKS_PER_SM * num_sms // heads.num_kv_heads
    largest_tile = 128 if heads.head_dim < 256 else 64
    tiles = [split * largest_tile, *(_captured_rows(heads, split, *shape) for shape in shapes)]
    if not heads.tensor_core_decode:
        tiles.append(_DECODE_BLOCKS_PER_SM * num_sms // heads.num_kv_heads)
    return heads.num_heads * max(tiles) * (heads.head_dim + 1) * _FLOAT + _ALIGNMENT


def _captured_rows(heads: HeadShape, split: int, num_tokens: int, num_rows: int) -> int:
    """Rows of partial results of a captured launch: thread blocks times the tile of each."""
    tile = _tile(max(num_tokens - num_rows + 1, 1) * heads.group, heads.head_dim)
    blocks = -(-num_tokens * heads.group // tile) + num_rows - 1
    return max(split, blocks) * tile


def _tile(packed_tokens: int, head_dim: int) -> int:
    """Query rows per thread block (``FA2DetermineCtaTileQ``)."""
    if packed_tokens > 64 and head_dim < 256:
        return 128
    return 64 if packed_tokens > 16 else 16
