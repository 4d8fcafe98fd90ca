"""The small ops against transformers' modules, eager and compiled."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import (
    Qwen3RMSNorm,
    Qwen3RotaryEmbedding,
    apply_rotary_pos_emb,
)

from prelude.kernels.fused import apply_rope, rms_norm, silu_mul

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_rms_norm_is_that_of_transformers(dtype: torch.dtype, eps: float) -> None:
    module = Qwen3RMSNorm(48, eps=eps).to(dtype)
    module.weight.data = randn(48).to(dtype)
    x = randn(5, 48).to(dtype) * 3
    assert torch.equal(rms_norm(x, module.weight, eps), module(x))


def test_rms_norm_of_heads_in_a_fused_projection() -> None:
    heads = randn(5, 12, 16)[:, 2:6]
    weight = randn(16)
    expected = F.rms_norm(heads, (16,), weight, 1e-6)
    torch.testing.assert_close(rms_norm(heads, weight, 1e-6), expected)


def test_rms_norm_of_large_half_precision_values_does_not_overflow() -> None:
    x = torch.full((1, 16), 3e4, dtype=torch.float16)
    normed = rms_norm(x, torch.ones(16, dtype=torch.float16), 1e-6)
    torch.testing.assert_close(normed, torch.ones_like(x))


def rope_tables(tokens: int, dim: int) -> tuple[Tensor, Tensor]:
    config = Qwen3Config(head_dim=dim, hidden_size=64, num_attention_heads=4)
    positions = torch.arange(100, 100 + tokens)[None]
    cos, sin = Qwen3RotaryEmbedding(config)(torch.empty(1), positions)
    return cos[0], sin[0]


def test_rope_is_that_of_transformers() -> None:
    cos, sin = rope_tables(7, 32)
    q, k = randn(7, 4, 32), randn(7, 2, 32)
    expected = apply_rotary_pos_emb(
        q.transpose(0, 1)[None], k.transpose(0, 1)[None], cos[None], sin[None]
    )
    assert torch.equal(apply_rope(q, cos, sin), expected[0][0].transpose(0, 1))
    assert torch.equal(apply_rope(k, cos, sin), expected[1][0].transpose(0, 1))


def test_partial_rope_leaves_the_rest_of_the_head_alone() -> None:
    cos, sin = rope_tables(7, 16)
    x = randn(7, 4, 40)
    out = apply_rope(x, cos, sin)
    assert torch.equal(out[..., :16], apply_rope(x[..., :16], cos, sin))
    assert torch.equal(out[..., 16:], x[..., 16:])


def test_rope_keeps_lengths_and_relative_positions() -> None:
    cos, sin = rope_tables(9, 32)
    q, k = randn(1, 1, 32).expand(9, 1, 32), randn(1, 2, 32)[:, 1:].expand(9, 1, 32)
    turned_q, turned_k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm(dim=-1))
    near = (turned_q[1] * turned_k[0]).sum()
    torch.testing.assert_close((turned_q[8] * turned_k[7]).sum(), near, atol=1e-4, rtol=1e-4)


def test_silu_mul() -> None:
    gate_up = randn(3, 40)
    expected = F.silu(gate_up[:, :20]) * gate_up[:, 20:]
    assert torch.equal(silu_mul(gate_up), expected)


def test_all_of_it_compiles_whole_with_dynamic_tokens() -> None:
    torch._dynamo.reset()
    weight = randn(32)

    def block(x: Tensor, residual: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        total = x + residual
        normed = rms_norm(total, weight, 1e-6)
        turned = apply_rope(normed.view(-1, 2, 16), cos, sin).flatten(1)
        return silu_mul(torch.cat((turned, total), dim=-1))

    compiled = torch.compile(block, fullgraph=True, dynamic=True)
    for tokens in (3, 8):
        args = (randn(tokens, 32), randn(tokens + 1, 32)[1:], *rope_tables(tokens, 16))
        torch.testing.assert_close(compiled(*args), block(*args))
