"""Weights at random, for running a shape without a checkpoint: as fast as memory can be written.

A generator needs seconds for a billion numbers, so one stretch of them is repeated. Its length is
prime: no two rows of a matrix are alike before it has come around as often as a row is long.
"""

import torch
from torch import Tensor

_TILE = 4_194_301  # the largest prime below 2^22


class RandomWeights:
    """An endless sequence of normal numbers of standard deviation ``scale``. The same seed gives
    the same sequence on the same kind of device; up to ``total`` numbers none is repeated that
    need not be."""

    def __init__(self, seed: int, scale: float, total: int, device: torch.device) -> None:
        generator = torch.Generator(device).manual_seed(seed)
        size = min(max(total, 1), _TILE)
        self._tile = torch.empty(size, device=device).normal_(0.0, scale, generator=generator)
        self._next = 0

    def fill(self, out: Tensor) -> None:
        """The next numbers, converted to the type of ``out``, which must be contiguous."""
        flat, done = out.view(-1), 0
        while done < len(flat):
            part = self._tile[self._next : self._next + len(flat) - done]
            flat[done : done + len(part)].copy_(part)
            done += len(part)
            self._next = (self._next + len(part)) % len(self._tile)
