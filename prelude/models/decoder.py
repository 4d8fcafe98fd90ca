"""The decoder: one definition for every family in ``registry.py``.

Projections are fused, every layer is the same code on its own tensors, and what differs between
devices is behind ``LayerOps``. ``DecoderLayer.forward`` is the region that is compiled: once, and
called for all layers.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from prelude.kernels.attention import AttentionMeta
from prelude.kernels.ends import embed
from prelude.kernels.layer_ops import LayerOps, PlainOps
from prelude.models.linear import empty_matrix, empty_weight
from prelude.models.rotary import Rotary
from prelude.models.spec import ModelSpec

# (layer, x, cos, sin, kv, cu_q, ctx_lens, block_tables, slot_mapping) -> x
LayerFn = Callable[..., Tensor]
# The same for all layers: (layers, x, cos, sin, kv of each layer, cu_q, ...) -> x
LayersFn = Callable[..., Tensor]


class DecoderLayer(nn.Module):
    """Attention and MLP with their residual connections.

    Holds nothing that differs between layers but tensors, and the window where a model mixes
    windowed with full layers: a number that differs costs one more compiled program.
    """

    q_norm: nn.Parameter | None
    k_norm: nn.Parameter | None
    qkv_bias: nn.Parameter | None
    o_bias: nn.Parameter | None
    gate_up_bias: nn.Parameter | None
    down_bias: nn.Parameter | None

    def __init__(
        self,
        spec: ModelSpec,
        window: int,
        dtype: torch.dtype,
        device: torch.device,
        weights: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.ops: LayerOps = PlainOps()
        self.head_dim = spec.head_dim
        self.sizes = [spec.q_size, spec.kv_size, spec.kv_size]
        self.scale = spec.head_dim**-0.5
        self.window = window
        self.eps = spec.norm_eps
        self.pre_norm = spec.norm_placement == "pre"
        self.norm_heads = spec.qk_norm == "head"

        def weight(*shape: int) -> nn.Parameter:
            return empty_weight(*shape, dtype=dtype, device=device)

        def matrix(outputs: int, inputs: int) -> nn.Parameter:
            return empty_matrix(outputs, inputs, weights or dtype, device)

        def optional(present: bool, size: int) -> nn.Parameter | None:
            return weight(size) if present else None

        hidden, inter = spec.hidden_size, spec.intermediate_size
        norm_sizes = (spec.head_dim,) * 2 if self.norm_heads else self.sizes[:2]
        has_qk_norm = spec.qk_norm != "none"
        self.attn_norm = weight(hidden)
        self.qkv_proj = matrix(sum(self.sizes), hidden)
        self.qkv_bias = optional(spec.qkv_bias, sum(self.sizes))
        self.q_norm = optional(has_qk_norm, norm_sizes[0])
        self.k_norm = optional(has_qk_norm, norm_sizes[1])
        self.o_proj = matrix(hidden, spec.q_size)
        self.o_bias = optional(spec.o_bias, hidden)
        self.mlp_norm = weight(hidden)
        self.gate_up_proj = matrix(2 * inter, hidden)
        self.gate_up_bias = optional(spec.mlp_bias, 2 * inter)
        self.down_proj = matrix(hidden, inter)
        self.down_bias = optional(spec.mlp_bias, hidden)

    def forward(
        self,
        x: Tensor,  # [tokens, hidden]
        cos: Tensor,  # float32 [tokens, rotary_dim]
        sin: Tensor,  # float32 [tokens, rotary_dim]
        kv: Tensor,  # [blocks, 2, block, kv_heads, head_dim], written in place
        cu_q: Tensor,  # int32 [rows + 1]
        ctx_lens: Tensor,  # int32 [rows]
        block_tables: Tensor,  # int32 [rows, width]
        slot_mapping: Tensor,  # int64 [tokens]
    ) -> Tensor:
        """Returns the residual stream after this layer, [tokens, hidden]; ``x`` is used up."""
        ops = self.ops
        h = ops.rms_norm(x, self.attn_norm, self.eps) if self.pre_norm else x
        q = self._append(h, cos, sin, kv, slot_mapping)
        h = ops.attend(q, kv, cu_q, ctx_lens, block_tables, self.scale, self.window)
        h = h.view(x.shape[0], -1)
        if not self.pre_norm:
            return self._mlp_post_norm(self._post_normed(x, h))
        x = ops.linear_add(x, h, self.o_proj, self.o_bias)
        h = ops.rms_norm(x, self.mlp_norm, self.eps)
        gate_up = ops.linear(h, self.gate_up_proj, self.gate_up_bias)
        return ops.gated_linear_add(x, gate_up, self.down_proj, self.down_bias)

    def _append(
        self, h: Tensor, cos: Tensor, sin: Tensor, kv: Tensor, slot_mapping: Tensor
    ) -> Tensor:
        """Extends ``kv`` and returns q, [tokens, heads, head_dim], rotated."""
        ops, norms = self.ops, None
        qkv = ops.linear(h, self.qkv_proj, self.qkv_bias)
        q, k, v = torch.split(qkv, self.sizes, dim=-1)
        if self.q_norm is not None and self.k_norm is not None:
            if self.norm_heads:
                norms = self.q_norm, self.k_norm
            else:
                q = ops.rms_norm(q, self.q_norm, self.eps)
                k = ops.rms_norm(k, self.k_norm, self.eps)
        q, k, v = self._heads(q), self._heads(k), self._heads(v)
        return ops.rope_append(q, k, v, norms, self.eps, cos, sin, kv, slot_mapping)

    def _post_normed(self, x: Tensor, h: Tensor) -> Tensor:
        h = self.ops.linear(h, self.o_proj, self.o_bias)
        return x + self.ops.rms_norm(h, self.attn_norm, self.eps)

    def _mlp_post_norm(self, x: Tensor) -> Tensor:
        ops = self.ops
        h = ops.silu_mul(ops.linear(x, self.gate_up_proj, self.gate_up_bias))
        h = ops.linear(h, self.down_proj, self.down_bias)
        return x + ops.rms_norm(h, self.mlp_norm, self.eps)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, self.head_dim)


def run_layer(layer: DecoderLayer, *args: Tensor) -> Tensor:
    """The eager ``LayerFn``."""
    output: Tensor = layer(*args)
    return output


def run_layers(
    layers: Iterable[nn.Module],
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    kv: Sequence[Tensor],
    *step: Tensor,
    layer_fn: LayerFn = run_layer,
) -> Tensor:
    """The ``LayersFn`` that calls ``layer_fn`` for one layer after the other, as many as ``kv`` has
    tensors."""
    for layer, layer_kv in zip(layers, kv, strict=False):
        x = layer_fn(layer, x, cos, sin, layer_kv, *step)
    return x


class Decoder(nn.Module):
    """Embedding, layers, final norm and head. Parameters are uninitialised: see ``loading.py``.

    ``weights`` is the type of the matrices where it is not ``dtype``: int8 (``kernels.int8``).
    ``layers_fn`` runs the layers; replace it with a compiled callable of the same signature.
    """

    layers_fn: LayersFn
    lm_head: nn.Parameter  # only where the head is not tied

    def __init__(
        self,
        spec: ModelSpec,
        dtype: torch.dtype,
        device: torch.device,
        weights: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.ops: LayerOps = PlainOps()
        table = spec.vocab_size, spec.hidden_size, weights or dtype, device
        self.embedding = empty_matrix(*table)
        self.layers = nn.ModuleList(
            DecoderLayer(spec, window, dtype, device, weights) for window in spec.windows
        )
        self.norm = empty_weight(spec.hidden_size, dtype=dtype, device=device)
        if not spec.tie_embeddings:
            self.lm_head = empty_matrix(*table)
        self.rotary = Rotary(spec.rope, device)
        self.layers_fn = run_layers

    def use_ops(self, ops: LayerOps) -> None:
        """Run all layers on the kernels of ``ops`` from now on."""
        self.ops = ops
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            layer.ops = ops

    @property
    def head(self) -> Tensor:
        """The weight of the output projection, [vocab, hidden]."""
        return self.embedding if self.spec.tie_embeddings else self.lm_head

    def forward(
        self, ids: Tensor, positions: Tensor, kv: Sequence[Tensor], meta: AttentionMeta
    ) -> Tensor:
        """ids, positions int64 [tokens]; ``kv`` one tensor per layer [blocks, 2, block, kv_heads,
        head_dim], extended in place. Returns the normed hidden states [tokens, hidden]."""
        x = embed(ids, self.embedding)
        cos, sin = self.rotary(positions)
        if len(kv) != len(self.layers):
            raise ValueError(f"kv: {len(kv)} tensors, longer or shorter than the layers")
        x = self.layers_fn(self.layers, x, cos, sin, kv, *meta)
        return self.ops.final_norm(x, self.norm, self.spec.norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [rows, hidden] -> float32 [rows, vocab]."""
        return self.ops.linear(hidden, self.head, None).float()
