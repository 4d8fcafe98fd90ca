"""Linear layers of few rows at the speed of memory: each weight is read once, straight through.

One row multiplies on the general cores; up to 16 share one tensor-core tile, and where the outputs
alone do not fill the device, inputs are split and the last program merges the parts. For more
rows cuBLAS is at home.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from prelude.kernels.triton.arrivals import arrival_counters, arrives_last

MAX_ROWS = 16
_PROGRAMS = 264  # two per multiprocessor of an H100 or H200
_GEMV_WARPS = 2  # each thread keeps to 8 inputs of a turn, so x needs no exchange between threads
_TILE = 32  # outputs per program of linear_few
_DEPTH = 128  # inputs per turn of its loop
_MAX_SPLIT = 8


def gemv(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    silu_mul: bool = False,
) -> Tensor:
    """``x @ w.T + bias + residual`` of one row: x [1, inputs], w [outputs, inputs] -> [1, outputs].

    ``silu_mul``: x is [1, 2 * inputs], gate and up; see ``fused.silu_mul``. Sums are float32;
    results are rounded before the residual is added, as separate operations would.
    """
    outputs, inputs = w.shape
    y = x.new_empty(1, outputs)
    # Few enough outputs per program that every multiprocessor has several programs at work.
    tile = 4 if outputs < 8192 else 8
    _gemv[(triton.cdiv(outputs, tile),)](
        x,
        w,
        y if bias is None else bias,
        y if residual is None else residual,
        y,
        outputs,
        w.stride(0),
        INPUTS=inputs,
        SILU_MUL=silu_mul,
        BIAS=bias is not None,
        RESIDUAL=residual is not None,
        TILE=tile,
        DEPTH=_GEMV_WARPS * 32 * 8,
        num_warps=_GEMV_WARPS,
    )
    return y


@triton.jit
def _gemv(
    x_ptr,
    w_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    outputs,
    w_row,
    INPUTS: tl.constexpr,
    SILU_MUL: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    TILE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    n = tl.program_id(0) * TILE + tl.arange(0, TILE)
    exists = n < outputs
    rows = w_ptr + tl.minimum(n, outputs - 1).to(tl.int64)[:, None] * w_row
    products = tl.zeros([TILE, DEPTH], tl.float32)
    for start in tl.range(0, INPUTS, DEPTH, loop_unroll_factor=2):
        i = start + tl.arange(0, DEPTH)
        if INPUTS % DEPTH == 0:
            w = tl.load(rows + i[None, :], eviction_policy="evict_first")
        else:
            inside = (i < INPUTS)[None, :]
            w = tl.load(rows + i[None, :], mask=inside, other=0.0, eviction_policy="evict_first")
        x = tl.load(x_ptr + i, mask=i < INPUTS, other=0.0).to(tl.float32)
        if SILU_MUL:
            up = tl.load(x_ptr + INPUTS + i, mask=i < INPUTS, other=0.0).to(tl.float32)
            x = (x * tl.sigmoid(x)).to(x_ptr.dtype.element_ty).to(tl.float32) * up
            x = x.to(x_ptr.dtype.element_ty).to(tl.float32)
        products += w.to(tl.float32) * x[None, :]
    y = tl.sum(products, 1)
    if BIAS:
        y += tl.load(bias_ptr + n, mask=exists, other=0.0).to(tl.float32)
    if RESIDUAL:
        y = y.to(y_ptr.dtype.element_ty).to(tl.float32)
        y += tl.load(residual_ptr + n, mask=exists, other=0.0).to(tl.float32)
    tl.store(y_ptr + n, y.to(y_ptr.dtype.element_ty), mask=exists)


def linear_few(
    x: Tensor, w: Tensor, bias: Tensor | None = None, residual: Tensor | None = None
) -> Tensor:
    """``x @ w.T + bias + residual``: x [rows, inputs], rows at most ``MAX_ROWS``; w as in gemv.

    residual is [rows, outputs]. The same bits for a row whatever the other rows are.
    """
    rows, inputs = x.shape
    outputs = w.shape[0]
    y = x.new_empty(rows, outputs)
    tiles = triton.cdiv(outputs, _TILE)
    split = 1
    while tiles * split < _PROGRAMS and split < _MAX_SPLIT and inputs >= 8 * _DEPTH * split:
        split *= 2
    _few[(tiles, split)](
        x,
        w,
        y if bias is None else bias,
        y if residual is None else residual,
        y,
        x.new_empty((split, rows, outputs), dtype=torch.float32) if split > 1 else y,
        arrival_counters(x.device, tiles),
        rows,
        outputs,
        x.stride(0),
        w.stride(0),
        0 if residual is None else residual.stride(0),
        INPUTS=inputs,
        BIAS=bias is not None,
        RESIDUAL=residual is not None,
        SPLIT=split,
        ROWS_PAD=MAX_ROWS,
        TILE=_TILE,
        DEPTH=_DEPTH,
        num_warps=4,
        num_stages=4,
    )
    return y


@triton.jit(do_not_specialize=["rows"])
def _few(
    x_ptr,
    w_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    partial_ptr,  # [SPLIT, rows, outputs] float32
    arrivals_ptr,
    rows,
    outputs,
    x_row,
    w_row,
    residual_row,
    INPUTS: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS_PAD: tl.constexpr,
    TILE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    tile, part = tl.program_id(0), tl.program_id(1)
    m = tl.arange(0, ROWS_PAD)
    n = tile * TILE + tl.arange(0, TILE)
    TURNS: tl.constexpr = (INPUTS + DEPTH - 1) // DEPTH
    SHARE: tl.constexpr = (TURNS + SPLIT - 1) // SPLIT * DEPTH
    x_rows = x_ptr + m[:, None] * x_row
    w_rows = w_ptr + tl.minimum(n, outputs - 1).to(tl.int64)[:, None] * w_row
    low = part * SHARE
    y = tl.zeros([ROWS_PAD, TILE], tl.float32)
    for start in range(low, tl.minimum(low + SHARE, INPUTS), DEPTH):
        i = start + tl.arange(0, DEPTH)
        if INPUTS % DEPTH == 0:
            x = tl.load(x_rows + i[None, :], mask=(m < rows)[:, None], other=0.0)
            w = tl.load(w_rows + i[None, :], eviction_policy="evict_first")
        else:
            inside = (i < INPUTS)[None, :]
            x = tl.load(x_rows + i[None, :], mask=(m < rows)[:, None] & inside, other=0.0)
            w = tl.load(w_rows + i[None, :], mask=inside, other=0.0, eviction_policy="evict_first")
        y = tl.dot(x, tl.trans(w), y, input_precision="ieee")

    mine = (m < rows)[:, None] & (n < outputs)[None, :]
    at = m[:, None] * outputs + n[None, :]
    if SPLIT > 1:
        tl.store(partial_ptr + part * rows * outputs + at, y, mask=mine)
        if arrives_last(arrivals_ptr + tile, SPLIT) == 0:
            return
        y = tl.zeros([ROWS_PAD, TILE], tl.float32)
        for other in tl.static_range(SPLIT):
            partial = partial_ptr + other * rows * outputs + at
            y += tl.load(partial, mask=mine, other=0.0, cache_modifier=".cg")
    if BIAS:
        y += tl.load(bias_ptr + n, mask=n < outputs, other=0.0).to(tl.float32)[None, :]
    if RESIDUAL:
        y = y.to(y_ptr.dtype.element_ty).to(tl.float32)
        residual = residual_ptr + m[:, None] * residual_row + n[None, :]
        y += tl.load(residual, mask=mine, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mine)
