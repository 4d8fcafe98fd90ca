"""The fused kernels in Triton against the plain torch of ``kernels/fused.py``."""

import pytest
import torch
from torch import Tensor

from prelude.kernels import fused as plain
from prelude.kernels.triton import fused

# The interpreter truncates to bfloat16 instead of rounding: one unit in the last place.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1.6e-2}
DTYPES = list(TOLERANCE)


def randn(device: torch.device, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape) + shape[-1])
    return torch.randn(*shape, generator=generator).to(device, dtype)


def close(got: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[expected.dtype]
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [64, 100, 1536])
def test_rms_norm(device: torch.device, dtype: torch.dtype, dim: int) -> None:
    x = randn(device, 3, dim + 8, dtype=dtype)[:, :dim]
    weight = randn(device, dim, dtype=dtype)
    close(fused.rms_norm(x, weight, 1e-6), plain.rms_norm(x, weight, 1e-6))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inter", [64, 1030])
def test_silu_mul(device: torch.device, dtype: torch.dtype, inter: int) -> None:
    gate_up = randn(device, 3, 2 * inter, dtype=dtype)
    close(fused.silu_mul(gate_up), plain.silu_mul(gate_up))


def angles(device: torch.device, tokens: int, rotary_dim: int) -> tuple[Tensor, Tensor]:
    turns = torch.arange(tokens)[:, None] * 0.7 / torch.arange(1, rotary_dim // 2 + 1)
    turns = torch.cat((turns, turns), dim=-1).to(device)
    return turns.cos(), torch.cat((turns.sin(), turns), dim=-1)[:, :rotary_dim]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "rotary_dim"), [(8, 2, 32, 32), (5, 1, 24, 12), (2, 2, 16, 8)]
)
def test_rope_append(
    device: torch.device,
    dtype: torch.dtype,
    normed: bool,
    heads: int,
    kv_heads: int,
    head_dim: int,
    rotary_dim: int,
) -> None:
    tokens, block = 5, 8
    sizes = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]
    projected = randn(device, tokens, sum(sizes) + 8, dtype=dtype)[:, : sum(sizes)]
    q, k, v = (x.view(tokens, -1, head_dim) for x in torch.split(projected, sizes, dim=1))
    norms = (randn(device, head_dim, dtype=dtype), randn(device, head_dim, dtype=dtype) + 1)
    cos, sin = angles(device, tokens, rotary_dim)
    kv = torch.full((4, 2, block, kv_heads, head_dim), torch.nan, device=device, dtype=dtype)
    slots = torch.tensor([3, 17, -1, 31, 8], device=device)

    got = fused.rope_append(q, k, v, norms if normed else None, 1e-6, cos, sin, kv, slots)

    if normed:
        q, k = plain.rms_norm(q, norms[0], 1e-6), plain.rms_norm(k, norms[1], 1e-6)
    close(got, plain.apply_rope(q, cos, sin).to(dtype))
    keys, values = (half.flatten(0, 1) for half in kv.unbind(1))
    written = slots[slots >= 0]
    close(keys[written], plain.apply_rope(k, cos, sin).to(dtype)[slots >= 0])
    assert torch.equal(values[written], v[slots >= 0])
    assert (
        int(values.isnan().all(-1).all(-1).sum()) == int(keys.isnan().all(-1).all(-1).sum()) == 28
    )
