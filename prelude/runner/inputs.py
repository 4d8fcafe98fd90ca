"""The input tensors of one launch, built on the host in a few vectorised writes."""

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
    """Flatten the rows of a launch; tokens that only the device knows are gathered there."""
    rows = launch.rows
    device = slots.device
    counts = np.array([row.num_tokens for row in rows], dtype=np.int64)
    starts = np.array([row.start for row in rows], dtype=np.int64)
    slot_ids = np.array([row.slot for row in rows], dtype=np.int64)
    cu_q = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum(counts, out=cu_q[1:])
    ctx_lens = starts + counts
    width = -(-int(ctx_lens.max()) // block_size)
    tables = slots.block_tables[slot_ids, :width]
    row_of = np.repeat(np.arange(len(rows)), counts)
    positions = np.arange(len(row_of)) - cu_q[row_of] + starts[row_of]
    mapping = tables[row_of, positions // block_size].astype(np.int64)
    mapping = mapping * block_size + positions % block_size
    sample_rows = tuple(i for i, row in enumerate(rows) if row.samples)
    sampled = np.array(sample_rows, dtype=np.int64)

    def send(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)

    return LaunchInputs(
        ids=_ids(launch, slots, cu_q, slot_ids),
        positions=send(positions),
        meta=AttentionMeta(
            cu_q=send(cu_q),
            ctx_lens=send(ctx_lens.astype(np.int32)),
            block_tables=send(tables),
            slot_mapping=send(mapping),
        ),
        sample_at=send(cu_q[1:][sampled].astype(np.int64) - 1),
        sample_slots=send(slot_ids[sampled]),
        sample_rows=sample_rows,
    )


def _ids(launch: Launch, slots: Slots, cu_q: np.ndarray, slot_ids: np.ndarray) -> Tensor:
    known = [row.token_ids if row.token_ids else (0,) for row in launch.rows]
    flat = np.fromiter((token for ids in known for token in ids), np.int64, int(cu_q[-1]))
    ids = torch.from_numpy(flat).to(slots.device)
    ours = np.array([i for i, row in enumerate(launch.rows) if not row.token_ids], dtype=np.int64)
    if len(ours):
        at = torch.from_numpy(cu_q[ours].astype(np.int64)).to(slots.device)
        ids[at] = slots.last[torch.from_numpy(slot_ids[ours]).to(slots.device)]
    return ids
