"""What lies between a decoder's matrix products, one launch each: norms, gate, and the way of new
heads into the cache. Numerics are those of ``prelude.kernels.fused``, roundings included."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_HEADS = 8  # per program of rope_append
_COLUMNS = 1024  # per program of silu_mul


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [tokens, dim] over its root mean square, times weight [dim]; statistics in float32."""
    tokens, dim = x.shape
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    dim_pad = triton.next_power_of_2(dim)
    _norm[(tokens,)](
        x,
        weight,
        out,
        eps,
        x.stride(0),
        DIM=dim,
        DIM_PAD=dim_pad,
        num_warps=min(16, max(1, dim_pad // 512)),
    )
    return out


@triton.jit
def _norm(x_ptr, weight_ptr, out_ptr, eps, x_row, DIM: tl.constexpr, DIM_PAD: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, DIM_PAD)
    inside = i < DIM
    x = tl.load(x_ptr + row * x_row + i, mask=inside, other=0.0).to(tl.float32)
    normed = x * tl.rsqrt(tl.sum(x * x, 0) / DIM + eps)
    weight = tl.load(weight_ptr + i, mask=inside, other=0.0).to(tl.float32)
    normed = normed.to(out_ptr.dtype.element_ty).to(tl.float32) * weight
    tl.store(out_ptr + row * DIM + i, normed.to(out_ptr.dtype.element_ty), mask=inside)


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of gate_up [tokens, 2 * inter] -> [tokens, inter]."""
    tokens, inter = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(tokens, inter)
    _silu_mul[(tokens, triton.cdiv(inter, _COLUMNS))](
        gate_up, out, inter, gate_up.stride(0), COLUMNS=_COLUMNS, num_warps=4
    )
    return out


@triton.jit
def _silu_mul(x_ptr, out_ptr, inter, x_row, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = i < inter
    gate = tl.load(x_ptr + row * x_row + i, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * x_row + inter + i, mask=inside, other=0.0).to(tl.float32)
    gate = (gate * tl.sigmoid(gate)).to(out_ptr.dtype.element_ty).to(tl.float32)
    tl.store(out_ptr + row * inter + i, (gate * up).to(out_ptr.dtype.element_ty), mask=inside)


def rope_append(
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
    """Norm every head of q and k if asked to, rotate both, write k and v into ``kv``; returns q.

    q is [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim], views of a fused
    projection allowed; norms are weights [head_dim] of q and k. cos and sin [tokens, rotary_dim]
    hold each angle twice, as ``fused.apply_rope`` takes them. ``kv`` is one layer's
    [blocks, 2, block, kv_heads, head_dim]; a slot below 0 is not written.
    """
    tokens, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    q_weight, k_weight = norms or (q, q)
    _rope_append[(tokens, triton.cdiv(heads + 2 * kv_heads, _HEADS))](
        q,
        k,
        v,
        q_weight,
        k_weight,
        cos,
        sin,
        out,
        kv,
        slot_mapping,
        eps,
        *q.stride()[:2],
        *k.stride()[:2],
        *v.stride()[:2],
        cos.stride(0),
        sin.stride(0),
        *kv.stride()[:4],
        Q_HEADS=heads,
        KV_HEADS=kv_heads,
        DIM=head_dim,
        DIM_PAD=triton.next_power_of_2(head_dim),
        ROTARY=cos.shape[1],
        BLOCK=kv.shape[2],
        HEADS=_HEADS,
        NORM=norms is not None,
        num_warps=4,
    )
    return out


@triton.jit
def _rope_append(
    q_ptr,
    k_ptr,
    v_ptr,
    q_weight_ptr,
    k_weight_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    kv_ptr,
    slot_ptr,
    eps,
    q_token,
    q_head,
    k_token,
    k_head,
    v_token,
    v_head,
    cos_token,
    sin_token,
    kv_block,
    kv_half,
    kv_token,
    kv_head,
    Q_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
    ROTARY: tl.constexpr,
    BLOCK: tl.constexpr,
    HEADS: tl.constexpr,
    NORM: tl.constexpr,
):
    """Heads are numbered q, then k, then v; a program takes HEADS of them."""
    token = tl.program_id(0).to(tl.int64)
    h = (tl.program_id(1) * HEADS + tl.arange(0, HEADS))[:, None]
    is_q, is_v = h < Q_HEADS, h >= Q_HEADS + KV_HEADS
    is_k = (h >= Q_HEADS) & (h < Q_HEADS + KV_HEADS)
    kv_h = (h - Q_HEADS) % KV_HEADS
    i = tl.arange(0, DIM_PAD)[None, :]
    inside = (i < DIM) & (h < Q_HEADS + 2 * KV_HEADS)
    q_row = q_ptr + token * q_token + h * q_head
    k_row = k_ptr + token * k_token + kv_h * k_head
    v_row = v_ptr + token * v_token + kv_h * v_head
    HALF: tl.constexpr = ROTARY // 2
    partner = tl.where(i < HALF, i + HALF, tl.where(i < ROTARY, i - HALF, i))

    x = tl.load(q_row + i, mask=inside & is_q, other=0.0).to(tl.float32)
    x += tl.load(k_row + i, mask=inside & is_k, other=0.0).to(tl.float32)
    x += tl.load(v_row + i, mask=inside & is_v, other=0.0).to(tl.float32)
    y = tl.load(q_row + partner, mask=inside & is_q, other=0.0).to(tl.float32)
    y += tl.load(k_row + partner, mask=inside & is_k, other=0.0).to(tl.float32)
    values = x
    if NORM:
        scale = tl.rsqrt(tl.sum(x * x, 1, keep_dims=True) / DIM + eps)
        x = _weighed(x * scale, q_weight_ptr, k_weight_ptr, i, is_q, inside, out_ptr)
        y = _weighed(y * scale, q_weight_ptr, k_weight_ptr, partner, is_q, inside, out_ptr)
    cos = tl.load(cos_ptr + token * cos_token + i, mask=i < ROTARY, other=1.0).to(tl.float32)
    sin = tl.load(sin_ptr + token * sin_token + i, mask=i < ROTARY, other=0.0).to(tl.float32)
    turned = x * cos + tl.where(i < HALF, -y, y) * sin

    out = out_ptr + (token * Q_HEADS + h) * DIM + i
    tl.store(out, turned.to(out_ptr.dtype.element_ty), mask=inside & is_q)
    slot = tl.load(slot_ptr + token).to(tl.int64)
    at = slot // BLOCK * kv_block + slot % BLOCK * kv_token + kv_h * kv_head
    cached = tl.where(is_k, turned, values).to(kv_ptr.dtype.element_ty)
    target = kv_ptr + at + tl.where(is_v, kv_half, 0) + i
    tl.store(target, cached, mask=inside & (h >= Q_HEADS) & (slot >= 0))


@triton.jit
def _weighed(normed, q_weight_ptr, k_weight_ptr, i, is_q, inside, out_ptr):
    """Normed heads times their weights, rounded to the type of ``out_ptr`` before and after."""
    weight = tl.load(q_weight_ptr + i, mask=inside & is_q, other=0.0).to(tl.float32)
    weight += tl.load(k_weight_ptr + i, mask=inside & (is_q == 0), other=0.0).to(tl.float32)
    product = normed.to(out_ptr.dtype.element_ty).to(tl.float32) * weight
    return product.to(out_ptr.dtype.element_ty).to(tl.float32)
