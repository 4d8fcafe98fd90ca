"""What a captured program reads: one int32 buffer, filled by one copy per launch.

An id below zero stands for the token that slot ``-1 - id`` sampled last, which never leaves the
device. A launch is padded to its program's shape. Padding rows belong to the dummy slot: a decode
program gives them one token in the dummy block, a prefill program no new tokens.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prelude.graphs.buckets import Buckets
from prelude.runner.device_slots import DeviceSlots
from prelude.types.plan import Launch, LaunchKind, Row
from prelude.types.request import SampleMode


class Shape(NamedTuple):
    """The static shape of a forward program; ``num_tokens == num_rows`` for decode."""

    kind: LaunchKind
    num_tokens: int
    num_rows: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Lengths of the fields, in the order of ``DecodeFields`` or ``PrefillFields``."""
        tokens, rows = self.num_tokens, self.num_rows
        if self.kind == "decode":
            return (rows,) * len(DecodeFields._fields)
        return (rows,) * 5 + (rows + 1,) + (tokens,) * 3


class SampleKey(NamedTuple):
    """A sampling program: what it can do, for how many rows."""

    mode: SampleMode
    num_rows: int


def shapes_of(buckets: Buckets) -> tuple[Shape, ...]:
    """The forward programs that ``buckets`` ask for."""
    return tuple(Shape(*key[:3]) for key in buckets.keys(("greedy",)))


class DecodeFields(NamedTuple):
    """Per row, int32: whose output is sampled and how many output tokens it has, whose tables are
    read, context length with the new token, the new token's id."""

    sample_slots: Tensor
    sample_index: Tensor
    slots: Tensor
    ctx_lens: Tensor
    ids: Tensor


class PrefillFields(NamedTuple):
    """Per row as above, the token that is sampled from, prefix sums of the new tokens; per token
    its id, position and KV slot. All int32."""

    sample_slots: Tensor
    sample_index: Tensor
    slots: Tensor
    ctx_lens: Tensor
    sample_at: Tensor
    cu_q: Tensor
    ids: Tensor
    positions: Tensor
    slot_mapping: Tensor


@dataclass(frozen=True, slots=True)
class Packed:
    """A launch on the host: ``flat`` is the buffer's content, the rest is what attention plans
    with, padded rows included (context 1 in the dummy block)."""

    flat: np.ndarray
    cu_q: np.ndarray  # int32 [rows + 1]
    ctx_lens: np.ndarray  # int32 [rows]
    block_tables: np.ndarray  # int32 [rows, width]


def fields(shape: Shape, buffer: Tensor) -> DecodeFields | PrefillFields:
    """The views of the buffer that a program of this shape reads."""
    parts = torch.split(buffer[: sum(shape.sizes)], list(shape.sizes))
    return DecodeFields(*parts) if shape.kind == "decode" else PrefillFields(*parts)


def pack(launch: Launch, shape: Shape, slots: DeviceSlots, block_size: int) -> Packed:
    """Lay out a launch for the program of ``shape``, which it must fit."""
    rows, num_rows = launch.rows, shape.num_rows
    num = len(rows)
    counts = np.zeros(num_rows, dtype=np.int32)
    starts = np.zeros(num_rows, dtype=np.int32)
    slot_ids = np.full(num_rows, slots.dummy, dtype=np.int32)
    counts[:num] = [row.num_tokens for row in rows]
    starts[:num] = [row.start for row in rows]
    slot_ids[:num] = [row.slot for row in rows]
    ctx_lens = np.maximum(starts + counts, 1)
    sample_slots = np.full(num_rows, slots.dummy, dtype=np.int32)
    index = np.zeros(num_rows, dtype=np.int32)
    for i, row in enumerate(rows):
        if row.samples:
            sample_slots[i] = row.slot
            index[i] = slots.output_index(row.slot, row.start + row.num_tokens)
    per_row = [sample_slots, index, slot_ids, ctx_lens]
    if shape.kind == "decode":
        ids = np.zeros(num_rows, dtype=np.int32)
        ids[:num] = _ids(rows)
        flat = np.concatenate([*per_row, ids])
        cu_q = np.arange(num_rows + 1, dtype=np.int32)
    else:
        cu_q = np.zeros(num_rows + 1, dtype=np.int32)
        np.cumsum(counts, out=cu_q[1:])
        tokens = _tokens(launch, shape, slots, block_size, counts, starts, slot_ids, cu_q)
        flat = np.concatenate([*per_row, np.maximum(cu_q[1:] - 1, 0), cu_q, *tokens])
    used = -(-int(ctx_lens.max()) // block_size)
    return Packed(flat, cu_q, ctx_lens, slots.host_tables[:, :used][slot_ids])


def _ids(rows: tuple[Row, ...]) -> list[int]:
    return [token for row in rows for token in (row.token_ids or (-1 - row.slot,))]


def _tokens(
    launch: Launch,
    shape: Shape,
    slots: DeviceSlots,
    block_size: int,
    counts: np.ndarray,
    starts: np.ndarray,
    slot_ids: np.ndarray,
    cu_q: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, positions and KV slots of a prefill's tokens; padding goes to the dummy block."""
    num = int(cu_q[-1])
    ids, positions, mapping = np.zeros((3, shape.num_tokens), dtype=np.int32)
    ids[:num] = _ids(launch.rows)
    row_of = np.repeat(np.arange(len(counts)), counts)
    positions[:num] = np.arange(num) - cu_q[row_of] + starts[row_of]
    blocks = slots.host_tables[slot_ids[row_of], positions[:num] // block_size]
    mapping[:num] = blocks * block_size + positions[:num] % block_size
    return ids, positions, mapping


def dummy(shape: Shape, slots: DeviceSlots, context: int) -> Packed:
    """A harmless launch that fills ``shape``: rows of equal length, each behind ``context`` tokens,
    all in the dummy block. What capture warms up with and prices are measured on."""
    rows, tokens = shape.num_rows, shape.num_tokens
    nobody = np.full(rows, slots.dummy, dtype=np.int32)
    none = np.zeros(rows, dtype=np.int32)
    cu_q = np.linspace(0, tokens, rows + 1).astype(np.int32)
    counts = np.diff(cu_q)
    ctx_lens = np.maximum(counts + context, 1).astype(np.int32)
    parts = [nobody, none, nobody, ctx_lens, none]
    if shape.kind == "prefill":
        positions = np.arange(tokens) - np.repeat(cu_q[:-1], counts) + context
        zeros = np.zeros(tokens, dtype=np.int32)
        parts += [cu_q, zeros, positions.astype(np.int32), zeros]
    return Packed(np.concatenate(parts), cu_q, ctx_lens, slots.host_tables[nobody])
