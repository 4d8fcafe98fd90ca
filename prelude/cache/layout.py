"""What one KV block looks like in memory; swap, transfer and quantised KV must agree on it."""

from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from prelude.kernels.pages import zeros


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Per layer one tensor [blocks, 2, block, kv_heads, head_dim]: keys at 0, values at 1."""

    num_layers: int
    block_size: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers."""
        elements = 2 * self.block_size * self.num_kv_heads * self.head_dim
        return self.num_layers * elements * self.dtype.itemsize

    @property
    def digest(self) -> str:
        """Equal for two engines exactly when their blocks are interchangeable."""
        return blake2b(repr(self).encode(), digest_size=8).hexdigest()

    def allocate(self, num_blocks: int, device: torch.device) -> list[Tensor]:
        """One zeroed tensor a layer. Separate tensors: a view of one big cache would be cloned by
        compiled programs that write to it."""
        shape = (num_blocks, 2, self.block_size, self.num_kv_heads, self.head_dim)
        return [zeros(shape, self.dtype, device) for _ in range(self.num_layers)]

    def allocate_host(self, num_blocks: int, *, pinned: bool) -> list[Tensor]:
        """The same in host memory, in one piece: pinned memory is handed out in powers of two."""
        shape = (self.num_layers, num_blocks, 2, self.block_size, self.num_kv_heads, self.head_dim)
        if pinned or not num_blocks:
            return list(torch.empty(shape, dtype=self.dtype, pin_memory=pinned and num_blocks > 0))
        return list(zeros(shape, self.dtype, torch.device("cpu")))
