"""The input tensors of one launch on a CPU, in a few vectorised writes."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prelude.kernels.attention import AttentionMeta
from prelude.runner.slots import Slots
from prelude.types.plan import Launch


@dataclass(frozen=True, slots=True)
class LaunchInputs:
    """ids and positions are int64 [tokens]; ``sample_at`` int64 [sampled rows] indexes the tokens
    whose logits are sampled, ``sample_slots`` and ``sample_rows`` say for whom."""

    ids: Tensor
    positions: Tensor
    meta: AttentionMeta
    sample_at: Tensor
    sample_slots: Tensor
    sample_rows: tuple[int, ...]


def build_inputs(launch: Launch, slots: Slots, block_size: int) -> LaunchInputs:
    """Flatten the rows of a launch; the token of a row that brings none is its slot's last."""
    rows = launch.rows
    num_rows = len(rows)
    starts = np.fromiter([row.start for row in rows], np.int64, num_rows)
    slot_ids = np.fromiter([row.slot for row in rows], np.int64, num_rows)
    if launch.key.kind == "decode":  # one new token a row
        cu_q = np.arange(num_rows + 1)
        row_of, positions, ctx_lens = cu_q[:-1], starts, starts + 1
    else:
        counts = np.fromiter([row.num_tokens for row in rows], np.int64, num_rows)
        cu_q = np.append(0, np.cumsum(counts))
        row_of = np.repeat(np.arange(num_rows), counts)
        positions = np.arange(len(row_of)) + (starts - cu_q[:-1])[row_of]
        ctx_lens = starts + counts
    tables = slots.block_tables[slot_ids, : -(-int(ctx_lens.max()) // block_size)]
    mapping = tables[row_of, positions // block_size].astype(np.int64) * block_size
    mapping += positions % block_size
    sample_rows = tuple([i for i, row in enumerate(rows) if row.samples])
    sample_at, sample_slots = cu_q[1:] - 1, slot_ids
    if len(sample_rows) < num_rows:
        sampled = np.array(sample_rows, dtype=np.int64)
        sample_at, sample_slots = sample_at[sampled], slot_ids[sampled]

    tensor = torch.from_numpy
    return LaunchInputs(
        ids=tensor(_ids(launch, slots, cu_q, slot_ids)),
        positions=tensor(positions),
        meta=AttentionMeta(
            cu_q=tensor(cu_q.astype(np.int32)),
            ctx_lens=tensor(ctx_lens.astype(np.int32)),
            block_tables=tensor(tables),
            slot_mapping=tensor(mapping),
        ),
        sample_at=tensor(sample_at),
        sample_slots=tensor(sample_slots),
        sample_rows=sample_rows,
    )


def _ids(launch: Launch, slots: Slots, cu_q: np.ndarray, slot_ids: np.ndarray) -> np.ndarray:
    last: np.ndarray = slots.last[slot_ids]
    ours = [i for i, row in enumerate(launch.rows) if not row.token_ids]
    if len(ours) == len(launch.rows):
        return last
    ids = np.array([token for row in launch.rows for token in row.token_ids or (0,)], np.int64)
    if ours:
        ids[cu_q[ours]] = last[ours]
    return ids
