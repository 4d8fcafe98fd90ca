"""The small operations between a decoder's matrix products, written so that Inductor fuses them.

Each is plain torch with the numerics of transformers' modules (statistics in float32, result in
the input's type), and accepts strided views of fused projections.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., dim] over its root mean square, times weight [dim]; statistics in float32."""
    wide = x.to(torch.float32)
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * (wide * scale).to(x.dtype)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first ``rotary_dim`` of x [tokens, heads, dim] by position, rotate-half style.

    cos and sin are [tokens, rotary_dim] with rotary_dim <= dim (partial rotary) and hold each
    angle twice, as transformers' rotary modules return them.
    """
    rotary_dim = cos.shape[-1]
    rotated, rest = x[..., :rotary_dim], x[..., rotary_dim:]
    low, high = rotated.chunk(2, dim=-1)
    turned = torch.cat((-high, low), dim=-1)
    rotated = rotated * cos.unsqueeze(1) + turned * sin.unsqueeze(1)
    return rotated if rotary_dim == x.shape[-1] else torch.cat((rotated, rest), dim=-1)


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of gate_up [tokens, 2 * inter] -> [tokens, inter]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
