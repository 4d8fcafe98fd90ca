"""A decoder's operations on NVIDIA GPUs: cuBLAS for the large matrix products, Triton for what lies
between them and for products of a few rows, FlashInfer or Triton for attention.

A layer takes nine launches, eight for a single row; one more where attention merges its parts in
a launch of its own.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from prelude.kernels.triton import fused
from prelude.kernels.triton.gemm import linear_invariant
from prelude.kernels.triton.linear import MAX_ROWS, gemv, linear_few
from prelude.kernels.triton.prefill import attend_ragged


class Attend(Protocol):
    """``prelude.kernels.attention.attend`` with the step's tensors one by one."""

    def __call__(
        self,
        q: Tensor,
        kv: Tensor,
        cu_q: Tensor,
        ctx_lens: Tensor,
        block_tables: Tensor,
        scale: float,
        window: int,
        out: Tensor,
    ) -> None: ...


class CudaOps:
    """``LayerOps`` on CUDA tensors."""

    rms_norm = staticmethod(fused.rms_norm)
    final_norm = staticmethod(fused.rms_norm)
    silu_mul = staticmethod(fused.silu_mul)
    rope_append = staticmethod(fused.rope_append)

    def __init__(self, attend: Attend) -> None:
        self._attend = attend

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.shape[0] > MAX_ROWS:
            return F.linear(x, weight, bias)
        return gemv(x, weight, bias) if x.shape[0] == 1 else linear_few(x, weight, bias)

    def linear_add(self, x: Tensor, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.shape[0] > MAX_ROWS:
            x.addmm_(h, weight.t())  # the product ends by adding to what is there
            return x if bias is None else x.add_(bias)
        return gemv(h, weight, bias, x) if x.shape[0] == 1 else linear_few(h, weight, bias, x)

    def gated_linear_add(
        self, x: Tensor, gate_up: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        if x.shape[0] == 1:
            return gemv(gate_up, weight, bias, x, silu_mul=True)
        return self.linear_add(x, self.silu_mul(gate_up), weight, bias)

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
        out = torch.empty_like(q)
        self._attend(q, kv, cu_q, ctx_lens, block_tables, scale, window, out)
        return out


class InvariantOps(CudaOps):
    """The same bits for a token whatever it is computed with: one tiling of every product, and
    decode rows go through the prefill kernel, whose order of keys depends on nothing else."""

    def __init__(self) -> None:
        super().__init__(attend_ragged)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear_invariant(x, weight, bias)

    def linear_add(self, x: Tensor, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear_invariant(h, weight, bias, x)

    def gated_linear_add(
        self, x: Tensor, gate_up: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        return linear_invariant(self.silu_mul(gate_up), weight, bias, x)
