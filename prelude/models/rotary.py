"""Rotary frequencies and the cos and sin of a batch of positions, in float32.

The frequency formulas follow transformers' expression for expression: a rounding difference in a
frequency grows with the position.
"""

import math

import torch
from torch import Tensor

from prelude.kernels.ends import rope_tables
from prelude.models.rope import RopeSpec


class Rotary(torch.nn.Module):
    """positions int64 [tokens] -> cos, sin float32 [tokens, rotary_dim].

    Computed rather than gathered: a few microseconds per step against a table that takes
    67 MB for a 131,072-token context.
    """

    inv_freq: Tensor

    def __init__(self, rope: RopeSpec, device: torch.device) -> None:
        super().__init__()
        self.attention_factor = rope.attention_factor
        self.register_buffer("inv_freq", inverse_frequencies(rope).to(device), persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return rope_tables(positions, self.inv_freq, self.attention_factor)


def inverse_frequencies(rope: RopeSpec) -> Tensor:
    """Radians per position of each rotated pair, float32 [rotary_dim / 2], on the CPU."""
    exponents = torch.arange(0, rope.rotary_dim, 2, dtype=torch.float32) / rope.rotary_dim
    inv_freq = 1.0 / (rope.theta**exponents)
    match rope.type:
        case "default":
            return inv_freq
        case "linear":
            return inv_freq / rope.factor
        case "llama3":
            return _llama3(rope, inv_freq)
        case "yarn":
            return _yarn(rope, rope.theta**exponents)
    raise ValueError(f"rope type {rope.type!r} has no frequencies")


def _llama3(rope: RopeSpec, inv_freq: Tensor) -> Tensor:
    """Long wavelengths are stretched by the factor, short ones kept, those between blended."""
    original, low, high = rope.original_max_position, rope.low_freq_factor, rope.high_freq_factor
    wavelen = 2 * math.pi / inv_freq
    smooth = (original / wavelen - low) / (high - low)
    blended = (1 - smooth) * inv_freq / rope.factor + smooth * inv_freq
    scaled = torch.where(wavelen > original / low, inv_freq / rope.factor, blended)
    return torch.where(wavelen < original / high, inv_freq, scaled)


def _yarn(rope: RopeSpec, pos_freqs: Tensor) -> Tensor:
    """NTK by parts, arXiv:2309.00071 section 3.2: a ramp between keeping and stretching."""
    low, high = (_yarn_dim(rope, rotations) for rotations in (rope.beta_fast, rope.beta_slow))
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.rotary_dim - 1)
    high += 0.001 if low == high else 0.0
    ramp = (torch.arange(rope.rotary_dim // 2, dtype=torch.float32) - low) / (high - low)
    keep = 1 - ramp.clamp(0, 1)
    return 1.0 / (rope.factor * pos_freqs) * (1 - keep) + 1.0 / pos_freqs * keep


def _yarn_dim(rope: RopeSpec, num_rotations: float) -> float:
    """The dimension that turns ``num_rotations`` times within the original context."""
    turns = rope.original_max_position / (num_rotations * 2 * math.pi)
    return rope.rotary_dim * math.log(turns) / (2 * math.log(rope.theta))
