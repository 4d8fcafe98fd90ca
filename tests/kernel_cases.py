"""Random paged-attention problems for the kernel tests."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prelude.kernels import attention_reference
from prelude.kernels.attention import AttentionMeta


@dataclass(frozen=True, slots=True)
class Case:
    """Ragged rows on a shuffled pool; unused slots hold NaN, so reading one is seen."""

    q: Tensor  # [tokens, heads, head_dim], a view of a fused projection
    k: Tensor  # [tokens, kv_heads, head_dim], the same
    v: Tensor
    kv: Tensor  # contexts before the step
    meta: AttentionMeta
    scale: float
    window: int

    def expected(self) -> Tensor:
        """Output of the float64 reference, after appending."""
        kv = self.kv.double()
        attention_reference.append(self.k.double(), self.v.double(), kv, self.meta)
        out = torch.empty(self.q.shape, dtype=torch.float64)
        attention_reference.attend(self.q.double(), kv, self.meta, self.scale, out, self.window)
        return out


def make_case(
    rows: Sequence[tuple[int, int]],
    *,
    block: int = 16,
    kv_heads: int = 2,
    group: int = 2,
    head_dim: int = 32,
    window: int = 0,
    spare_tokens: int = 0,
    seed: int = 0,
) -> Case:
    """``rows`` are (new tokens, context before them); ``spare_tokens`` belong to no row."""
    generator = torch.Generator().manual_seed(seed)
    ctx_lens = [num_new + before for num_new, before in rows]
    width = max(1, -(-max(ctx_lens, default=1) // block))
    num_blocks = 1 + width * len(rows)
    ids = torch.randperm(num_blocks - 1, generator=generator) + 1
    tables = ids.view(len(rows), width).to(torch.int32)
    kv = torch.full((num_blocks, 2, block, kv_heads, head_dim), torch.nan)
    kv[0] = 0.0
    slots: list[int] = []
    for row, (num_new, before) in enumerate(rows):
        of_row = [int(tables[row, p // block]) * block + p % block for p in range(before + num_new)]
        slots += of_row[before:]
        for slot in of_row[:before]:
            shape = (2, kv_heads, head_dim)
            kv[slot // block, :, slot % block] = torch.randn(shape, generator=generator)
    slots += [0] * spare_tokens
    fused = torch.randn(len(slots), (group + 2) * kv_heads * head_dim, generator=generator)
    sizes = [group * kv_heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]
    q, k, v = (
        part.view(len(slots), part.shape[1] // head_dim, head_dim)
        for part in torch.split(fused, sizes, dim=1)
    )
    meta = AttentionMeta(
        cu_q=torch.tensor([0, *(n for n, _ in rows)]).cumsum(0).to(torch.int32),
        ctx_lens=torch.tensor(ctx_lens, dtype=torch.int32),
        block_tables=tables,
        slot_mapping=torch.tensor(slots, dtype=torch.int64),
    )
    return Case(q, k, v, kv, meta, head_dim**-0.5, window)
