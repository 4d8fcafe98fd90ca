"""Paged attention of one new token per row, its context split over the whole device.

The launch has one shape for a given number of rows, whatever their contexts, so a CUDA graph may
hold it: every program finds its share of the work from ``ctx_lens``. All heads that read one
key-value head share a tile. The last program to finish a row merges its parts, so that there is
no second launch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from prelude.kernels.triton.arrivals import arrival_counters, arrives_last

_TILE = 64  # keys per turn of the loop
_PROGRAMS = 264  # two per multiprocessor of an H100 or H200: enough to keep the memory busy
_LOG2_E = 1.4426950408889634


def attend_decode(
    q: Tensor,
    kv: Tensor,
    ctx_lens: Tensor,
    block_tables: Tensor,
    scale: float,
    window: int,
    out: Tensor,
) -> None:
    """Attention of q [rows, heads, head_dim] over each row's context, into ``out`` like q.

    Shapes as in ``prelude.kernels.attention``; a row of context 0 gives zeros. All rows together
    are split evenly over the device. Launches that share rows must not run at the same time on two
    streams.
    """
    rows, heads, head_dim = q.shape
    kv_heads = kv.shape[3]
    parts = triton.cdiv(_PROGRAMS, kv_heads)
    items = rows + parts
    group = heads // kv_heads
    partial = q.new_empty((items, heads, head_dim), dtype=torch.float32)
    stats = q.new_empty((2, items, heads), dtype=torch.float32)
    _decode[(items, kv_heads)](
        q,
        kv,
        out,
        ctx_lens,
        block_tables,
        partial,
        stats,
        arrival_counters(q.device, rows * kv_heads),
        scale * _LOG2_E,
        window,
        rows,
        *q.stride()[:2],
        *out.stride()[:2],
        *kv.stride()[:4],
        block_tables.stride(0),
        stats.stride(0),
        parts,
        GROUP=group,
        GROUP_PAD=max(16, triton.next_power_of_2(group)),
        DIM=head_dim,
        DIM_PAD=max(16, triton.next_power_of_2(head_dim)),
        BLOCK=kv.shape[2],
        ROWS_PAD=triton.next_power_of_2(rows),
        PARTS_PAD=triton.next_power_of_2(parts + 1),
        TILE=_TILE,
        num_warps=4,
        num_stages=3,
    )


# One program for all batches of a size class: values that change must not specialise it.
@triton.jit(do_not_specialize=["window", "rows", "table_row", "stats_half", "parts"])
def _decode(
    q_ptr,  # [rows, heads, DIM]
    kv_ptr,  # [blocks, 2, BLOCK, kv_heads, DIM]
    out_ptr,  # [rows, heads, DIM]
    ctx_ptr,  # [rows]
    table_ptr,  # [rows, width]
    partial_ptr,  # [items, heads, DIM] float32, not yet divided by the sum of weights
    stats_ptr,  # [2, items, heads] float32: highest score, sum of weights
    arrivals_ptr,  # [rows * kv_heads] int32
    scale_log2,
    window,
    rows,
    q_row,
    q_head,
    out_row,
    out_head,
    kv_block,
    kv_half,
    kv_token,
    kv_head,
    table_row,
    stats_half,
    parts,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS_PAD: tl.constexpr,
    PARTS_PAD: tl.constexpr,
    TILE: tl.constexpr,
):
    item, head = tl.program_id(0), tl.program_id(1)
    kv_heads = tl.num_programs(1)
    row, ctx, seen, part, num_parts = _find_item(item, ctx_ptr, rows, window, parts, ROWS_PAD, TILE)
    if row >= rows:
        return
    size = tl.cdiv(tl.cdiv(seen, num_parts), TILE) * TILE
    low = ctx - seen + part * size
    high = tl.minimum(low + size, ctx)

    g = tl.arange(0, GROUP_PAD)
    d = tl.arange(0, DIM_PAD)
    mine = (g < GROUP)[:, None] & (d < DIM)[None, :]
    heads = head * GROUP + g
    row = row.to(tl.int64)
    q = tl.load(q_ptr + row * q_row + heads[:, None] * q_head + d[None, :], mask=mine, other=0.0)
    best = tl.full([GROUP_PAD], float("-inf"), tl.float32)
    weight = tl.zeros([GROUP_PAD], tl.float32)
    mixed = tl.zeros([GROUP_PAD, DIM_PAD], tl.float32)
    for start in range(low, high, TILE):
        n = start + tl.arange(0, TILE)
        valid = n < high
        block = tl.load(table_ptr + row * table_row + n // BLOCK, mask=valid, other=0)
        slots = block.to(tl.int64) * kv_block + (n % BLOCK) * kv_token + head * kv_head
        pointers = kv_ptr + slots[:, None] + d[None, :]
        readable = valid[:, None] & (d < DIM)[None, :]
        keys = tl.load(pointers, mask=readable, other=0.0)
        values = tl.load(pointers + kv_half, mask=readable, other=0.0)
        scores = tl.dot(q, tl.trans(keys), input_precision="ieee") * scale_log2
        scores = tl.where(valid[None, :], scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        shrink = tl.exp2(best - higher)
        weights = tl.exp2(scores - higher[:, None])
        weight = weight * shrink + tl.sum(weights, 1)
        mixed = mixed * shrink[:, None]
        mixed += tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        best = higher

    targets = out_ptr + row * out_row + heads[:, None] * out_head + d[None, :]
    if num_parts == 1:
        mixed = mixed / tl.where(weight > 0, weight, 1.0)[:, None]
        tl.store(targets, mixed.to(out_ptr.dtype.element_ty), mask=mine)
        return
    all_heads = kv_heads * GROUP
    at = item * all_heads + heads
    tl.store(partial_ptr + at[:, None] * DIM + d[None, :], mixed, mask=mine)
    tl.store(stats_ptr + at, best, mask=g < GROUP)
    tl.store(stats_ptr + stats_half + at, weight, mask=g < GROUP)
    if arrives_last(arrivals_ptr + row * kv_heads + head, num_parts):
        first = (item - part) * all_heads + heads
        mixed = _merge(
            partial_ptr, stats_ptr, stats_half, first, all_heads, num_parts,
            GROUP, GROUP_PAD, DIM, DIM_PAD, PARTS_PAD,
        )  # fmt: skip
        tl.store(targets, mixed.to(out_ptr.dtype.element_ty), mask=mine)


@triton.jit
def _find_item(
    item,
    ctx_ptr,
    rows,
    window,
    parts,
    ROWS_PAD: tl.constexpr,
    TILE: tl.constexpr,
):
    """(row, its context, how much of that is seen, which part of it, of how many parts)."""
    r = tl.arange(0, ROWS_PAD)
    ctx = tl.load(ctx_ptr + r, mask=r < rows, other=0)
    seen = tl.where(window > 0, tl.minimum(ctx, window), ctx)
    chunk = tl.maximum(tl.cdiv(tl.sum(seen, 0), parts), TILE)
    num_parts = tl.where(r < rows, tl.maximum(tl.cdiv(seen, chunk), 1), 0)
    ends = tl.cumsum(num_parts, 0)
    row = tl.sum((ends <= item).to(tl.int32), 0)
    here = r == row
    part = item - tl.sum(tl.where(here, ends - num_parts, 0), 0)
    return (
        row,
        tl.sum(tl.where(here, ctx, 0), 0),
        tl.sum(tl.where(here, seen, 0), 0),
        part,
        tl.sum(tl.where(here, num_parts, 0), 0),
    )


@triton.jit
def _merge(
    partial_ptr,
    stats_ptr,
    stats_half,
    first,
    all_heads,
    num_parts,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
    PARTS_PAD: tl.constexpr,
):
    """[GROUP_PAD, DIM_PAD] from the parts of a row; reads past the first-level cache, which may
    hold what another launch left at these addresses."""
    g = tl.arange(0, GROUP_PAD)
    d = tl.arange(0, DIM_PAD)
    p = tl.arange(0, PARTS_PAD)
    mine = (p < num_parts)[:, None] & (g < GROUP)[None, :]
    stats = stats_ptr + p[:, None] * all_heads + first[None, :]
    best = tl.load(stats, mask=mine, other=float("-inf"), cache_modifier=".cg")
    weight = tl.load(stats + stats_half, mask=mine, other=0.0, cache_modifier=".cg")
    highest = tl.max(best, 0)
    highest = tl.where(highest == float("-inf"), 0.0, highest)
    total = tl.sum(tl.exp2(best - highest[None, :]) * weight, 0)
    mixed = tl.zeros([GROUP_PAD, DIM_PAD], tl.float32)
    readable = (g < GROUP)[:, None] & (d < DIM)[None, :]
    for part in tl.range(0, num_parts, loop_unroll_factor=4):
        at = first + part * all_heads
        best_here = tl.load(stats_ptr + at, mask=g < GROUP, other=0.0, cache_modifier=".cg")
        pointers = partial_ptr + at[:, None] * DIM + d[None, :]
        here = tl.load(pointers, mask=readable, other=0.0, cache_modifier=".cg")
        mixed += here * tl.exp2(best_here - highest)[:, None]
    return mixed / tl.where(total > 0, total, 1.0)[:, None]
