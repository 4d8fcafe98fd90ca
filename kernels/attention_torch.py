"""Paged attention in plain torch: gather a row's context, then scaled_dot_product_attention.

The fallback where no C++ compiler exists. It copies the context of every row in every layer, so
its cost grows with context; results agree with the C++ backend within float32 rounding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def append(k: Tensor, v: Tensor, kv: Tensor, slot_mapping: Tensor) -> None:
    """Scatter k, v [tokens, kv_heads, head_dim] to the slots of kv; see attention.append."""
    block_size = kv.shape[2]
    blocks = slot_mapping // block_size
    offsets = slot_mapping % block_size
    num_slots = kv.shape[0] * block_size
    if slot_mapping.numel() and not 0 <= int(slot_mapping.min()) <= int(slot_mapping.max()) < (
        num_slots
    ):
        raise IndexError(f"slot_mapping has slots outside 0..{num_slots - 1}")
    kv[blocks, 0, offsets] = k
    kv[blocks, 1, offsets] = v


def attend(
    q: Tensor,
    kv: Tensor,
    cu_q: Tensor,
    ctx_lens: Tensor,
    block_tables: Tensor,
    scale: float,
    window: int,
    out: Tensor,
) -> None:
    """Attention of ragged rows over their paged context; see attention.attend."""
    ends: list[int] = cu_q.tolist()
    for row, ctx in enumerate(ctx_lens.tolist()):
        start, end = ends[row], ends[row + 1]
        if start == end:
            continue
        keys, values = _gather(kv, block_tables[row], ctx)
        queries = q[start:end].transpose(0, 1).unsqueeze(0)
        mixed = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=causal_mask(end - start, ctx, window),
            scale=scale,
            enable_gqa=q.shape[1] != kv.shape[3],
        )
        out[start:end] = mixed[0].transpose(0, 1)
    out[ends[-1] :] = 0


def causal_mask(num_new: int, ctx: int, window: int) -> Tensor | None:
    """[num_new, ctx] bool, True where a new token may look; None where all may see everything."""
    if num_new == 1 and not 0 < window < ctx:
        return None
    positions = torch.arange(ctx - num_new, ctx)[:, None]
    seen = torch.arange(ctx)[None, :]
    mask = seen <= positions
    return mask & (seen > positions - window) if window > 0 else mask


def _gather(kv: Tensor, table: Tensor, ctx: int) -> tuple[Tensor, Tensor]:
    block_size = kv.shape[2]
    if not 0 < ctx <= table.numel() * block_size:
        raise ValueError(f"ctx_lens: {ctx} does not fit a table of {table.numel()} blocks")
    pages = kv[table[: -(-ctx // block_size)]]  # [used, 2, block, kv_heads, head_dim]
    flat = pages.transpose(0, 1).flatten(1, 2)[:, :ctx].transpose(1, 2)
    return flat[0].unsqueeze(0), flat[1].unsqueeze(0)  # [1, kv_heads, ctx, head_dim]
