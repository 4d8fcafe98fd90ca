"""What one KV block looks like in memory; swap, transfer and quantised KV must agree on it."""

import math
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor


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
        return [_zeros(shape, self.dtype, device) for _ in range(self.num_layers)]

    def allocate_host(self, num_blocks: int, *, pinned: bool) -> list[Tensor]:
        """The same in host memory, in one piece: pinned memory is handed out in powers of two."""
        shape = (self.num_layers, num_blocks, 2, self.block_size, self.num_kv_heads, self.head_dim)
        if pinned or not num_blocks:
            return list(torch.empty(shape, dtype=self.dtype, pin_memory=pinned and num_blocks > 0))
        return list(_zeros(shape, self.dtype, torch.device("cpu")))


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On CPU from memory that the system zeroes when it is first used: gigabytes need not be
    written before the first request. torch.zeros would write them."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(dtype).view(shape)
