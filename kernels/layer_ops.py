"""What a decoder asks of its device: the operations between and around its matrix products.

A ``Decoder`` is given one ``LayerOps``. ``PlainOps`` is torch and the custom ops of this package,
for tracing and for every device; ``prelude.kernels.cuda_ops`` launches hand-written kernels.
"""

from typing import Protocol

import torch
from torch import Tensor

from prelude.kernels import ends, fused
from prelude.kernels.linear import linear


class LayerOps(Protocol):
    """x is [tokens, hidden]; q, k and v are [tokens, heads, head_dim], strided views allowed;
    ``kv`` and what describes a step are as in ``prelude.kernels.attention``."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``x @ weight.T + bias``."""
        ...

    def linear_add(self, x: Tensor, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``x + h @ weight.T + bias``. May write into ``x``, which the caller gives up."""
        ...

    def gated_linear_add(
        self, x: Tensor, gate_up: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """``linear_add`` of ``silu_mul(gate_up)``."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor: ...

    def final_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """``rms_norm`` after the last layer, outside compiled code."""
        ...

    def silu_mul(self, gate_up: Tensor) -> Tensor: ...

    def rope_append(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        norms: tuple[Tensor, Tensor] | None,
        eps: float,
        cos: Tensor,
        sin: Tensor,
        kv: Tensor,
        slot_mapping: Tensor,
    ) -> Tensor:
        """Norm every head of q and k (``norms``: their weights [head_dim]) if asked to, rotate
        both, write k and v into ``kv``; returns q, contiguous."""
        ...

    def attend(
        self,
        q: Tensor,
        kv: Tensor,
        cu_q: Tensor,
        ctx_lens: Tensor,
        block_tables: Tensor,
        scale: float,
        window: int,
    ) -> Tensor:
        """Causal attention over each row's context, [tokens, heads, head_dim]."""
        ...


class PlainOps:
    """Plain torch and ``prelude::`` custom ops: what is exported, compiled and compared with."""

    linear = staticmethod(linear)
    rms_norm = staticmethod(fused.rms_norm)
    final_norm = staticmethod(ends.final_norm)
    silu_mul = staticmethod(fused.silu_mul)

    def linear_add(self, x: Tensor, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return x + self.linear(h, weight, bias)

    def gated_linear_add(
        self, x: Tensor, gate_up: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        return self.linear_add(x, self.silu_mul(gate_up), weight, bias)

    def rope_append(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        norms: tuple[Tensor, Tensor] | None,
        eps: float,
        cos: Tensor,
        sin: Tensor,
        kv: Tensor,
        slot_mapping: Tensor,
    ) -> Tensor:
        dtype = q.dtype
        if norms is not None:
            q, k = fused.rms_norm(q, norms[0], eps), fused.rms_norm(k, norms[1], eps)
        # Rotation is float32; the KV pool and the kernels expect the activations' type.
        q = fused.apply_rope(q, cos, sin).to(dtype)
        k = fused.apply_rope(k, cos, sin).to(dtype)
        torch.ops.prelude.append(k, v, kv, slot_mapping)
        return q

    def attend(
        self,
        q: Tensor,
        kv: Tensor,
        cu_q: Tensor,
        ctx_lens: Tensor,
        block_tables: Tensor,
        scale: float,
        window: int,
    ) -> Tensor:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        torch.ops.prelude.attend(q, kv, cu_q, ctx_lens, block_tables, scale, window, out)
        return out
