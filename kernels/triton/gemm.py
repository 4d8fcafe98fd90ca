"""A matrix product whose rows do not depend on each other: one tiling for every number of rows and
no split of the inner dimension, so a token's result has the same bits alone and in any batch (the
recipe of He et al., "Defeating Nondeterminism in LLM Inference", 2025). cuBLAS chooses by size.
"""

import triton
import triton.language as tl
from torch import Tensor

_ROWS, _OUTPUTS, _INPUTS = 64, 64, 64
_GROUP = 8  # tiles of rows that share weights while those are in cache


def linear_invariant(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None = None
) -> Tensor:
    """``residual + x @ weight.T + bias``: x [rows, inputs], weight [outputs, inputs], bias
    [outputs], residual [rows, outputs]; sums in float32, rounded once."""
    rows, inputs = x.shape
    outputs = weight.shape[0]
    out = x.new_empty(rows, outputs)
    _gemm[(triton.cdiv(rows, _ROWS) * triton.cdiv(outputs, _OUTPUTS),)](
        x,
        weight,
        out if bias is None else bias,
        out if residual is None else residual,
        out,
        rows,
        outputs,
        inputs,
        x.stride(0),
        weight.stride(0),
        0 if residual is None else residual.stride(0),
        BIAS=bias is not None,
        RESIDUAL=residual is not None,
        ROWS=_ROWS,
        OUTPUTS=_OUTPUTS,
        INPUTS=_INPUTS,
        GROUP=_GROUP,
        num_warps=4,
        num_stages=4,
    )
    return out


@triton.jit
def _gemm(
    x_ptr,
    weight_ptr,
    bias_ptr,
    residual_ptr,
    out_ptr,
    rows,
    outputs,
    inputs,
    x_row,
    weight_row,
    residual_row,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Programs walk down ``GROUP`` tiles of rows before they go on to the next outputs."""
    program = tl.program_id(0)
    row_tiles, output_tiles = tl.cdiv(rows, ROWS), tl.cdiv(outputs, OUTPUTS)
    group = program // (GROUP * output_tiles)
    height = tl.minimum(row_tiles - group * GROUP, GROUP)
    within = program % (GROUP * output_tiles)
    m = ((group * GROUP + within % height) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    n = (within // height * OUTPUTS + tl.arange(0, OUTPUTS)).to(tl.int64)
    k = tl.arange(0, INPUTS)
    total = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for start in range(0, inputs, INPUTS):
        inside = start + k < inputs
        x = tl.load(
            x_ptr + m[:, None] * x_row + (start + k)[None, :],
            mask=(m < rows)[:, None] & inside[None, :],
            other=0.0,
        )
        weight = tl.load(
            weight_ptr + n[None, :] * weight_row + (start + k)[:, None],
            mask=(n < outputs)[None, :] & inside[:, None],
            other=0.0,
        )
        total = tl.dot(x, weight, total, input_precision="ieee")
    mine = (m < rows)[:, None] & (n < outputs)[None, :]
    if BIAS:
        total += tl.load(bias_ptr + n, mask=n < outputs, other=0.0).to(tl.float32)[None, :]
    if RESIDUAL:
        at = residual_ptr + m[:, None] * residual_row + n[None, :]
        total += tl.load(at, mask=mine, other=0.0).to(tl.float32)
    target = out_ptr + m[:, None] * outputs + n[None, :]
    tl.store(target, total.to(out_ptr.dtype.element_ty), mask=mine)
