"""``prelude::append`` and ``prelude::attend`` for CUDA and ROCm, in Triton.

Neither asks the host for anything: grids depend on shapes alone, so both can be captured. The
arguments and their meaning are those of ``prelude.kernels.attention``; nothing is checked on the
device.
"""

import triton
import triton.language as tl
from torch import Tensor

from prelude.kernels.triton.decode import attend_decode
from prelude.kernels.triton.prefill import attend_ragged


def attend(
    q: Tensor,
    kv: Tensor,
    cu_q: Tensor,
    ctx_lens: Tensor,
    block_tables: Tensor,
    scale: float,
    window: int,
    out: Tensor,
) -> None:
    """Causal attention of q [tokens, heads, head_dim] over each row's context, into ``out``.

    As many rows as tokens make a decode launch: token r is the newest of row r.
    """
    if q.shape[0] == ctx_lens.shape[0]:
        attend_decode(q, kv, ctx_lens, block_tables, scale, window, out)
    else:
        attend_ragged(q, kv, cu_q, ctx_lens, block_tables, scale, window, out)


def append(k: Tensor, v: Tensor, kv: Tensor, slot_mapping: Tensor) -> None:
    """Write k and v [tokens, kv_heads, head_dim] to their slots of kv; below 0 means nowhere."""
    tokens, kv_heads, head_dim = k.shape
    _append[(tokens,)](
        k,
        v,
        kv,
        slot_mapping,
        *k.stride()[:2],
        *v.stride()[:2],
        *kv.stride()[:4],
        HEADS=kv_heads,
        HEADS_PAD=triton.next_power_of_2(kv_heads),
        DIM=head_dim,
        DIM_PAD=triton.next_power_of_2(head_dim),
        BLOCK=kv.shape[2],
        num_warps=4,
    )


@triton.jit
def _append(
    k_ptr,
    v_ptr,
    kv_ptr,
    slot_ptr,
    k_token,
    k_head,
    v_token,
    v_head,
    kv_block,
    kv_half,
    kv_token,
    kv_head,
    HEADS: tl.constexpr,
    HEADS_PAD: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_ptr + token).to(tl.int64)
    h = tl.arange(0, HEADS_PAD)[:, None]
    d = tl.arange(0, DIM_PAD)[None, :]
    mine = (h < HEADS) & (d < DIM) & (slot >= 0)
    k = tl.load(k_ptr + token * k_token + h * k_head + d, mask=mine)
    v = tl.load(v_ptr + token * v_token + h * v_head + d, mask=mine)
    target = kv_ptr + slot // BLOCK * kv_block + slot % BLOCK * kv_token + h * kv_head + d
    tl.store(target, k.to(kv_ptr.dtype.element_ty), mask=mine)
    tl.store(target + kv_half, v.to(kv_ptr.dtype.element_ty), mask=mine)
