"""Paged attention, slow and obvious: the truth that tests hold every backend to.

One query at a time, straight from the definition, in whatever float type the inputs have; tests
pass float64. Shapes are those of ``prelude.kernels.attention``.
"""

import torch
from torch import Tensor

from prelude.kernels.attention import AttentionMeta


def append(k: Tensor, v: Tensor, kv: Tensor, meta: AttentionMeta) -> None:
    block_size = kv.shape[2]
    for token, slot in enumerate(meta.slot_mapping.tolist()):
        kv[slot // block_size, 0, slot % block_size] = k[token]
        kv[slot // block_size, 1, slot % block_size] = v[token]


def attend(
    q: Tensor, kv: Tensor, meta: AttentionMeta, scale: float, out: Tensor, window: int = 0
) -> None:
    group = q.shape[1] // kv.shape[3]
    out.zero_()
    for row in range(meta.ctx_lens.numel()):
        start, end = int(meta.cu_q[row]), int(meta.cu_q[row + 1])
        ctx = int(meta.ctx_lens[row])
        for token in range(start, end):
            position = ctx - (end - token)
            first = max(0, position - window + 1) if window > 0 else 0
            context = _context(kv, meta.block_tables[row].tolist(), first, position + 1)
            for head in range(q.shape[1]):
                keys, values = context[:, 0, head // group], context[:, 1, head // group]
                weights = torch.softmax(keys @ q[token, head] * scale, dim=0)
                out[token, head] = weights @ values


def _context(kv: Tensor, table: list[int], first: int, end: int) -> Tensor:
    """[end - first, 2, kv_heads, head_dim]"""
    block_size = kv.shape[2]
    return torch.stack([kv[table[p // block_size], :, p % block_size] for p in range(first, end)])
