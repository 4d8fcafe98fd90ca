"""Paged attention for CUDA and ROCm, in Triton.

It asks the host for nothing: grids depend on shapes alone, so it can be captured. The arguments and
their meaning are those of ``prelude.kernels.attention``; nothing is checked on the device.
"""

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
