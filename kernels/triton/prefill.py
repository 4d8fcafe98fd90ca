"""Paged attention of ragged rows of new tokens, after FlashAttention-2 (Dao 2023).

The launch has one shape for a given number of tokens and rows; a program finds its row and tile
from ``cu_q``. A tile holds all query heads of one key-value head for a few tokens.
"""

import triton
import triton.language as tl
from torch import Tensor

_LOG2_E = 1.4426950408889634
_TILES = {2: (128, 64, 8, 3), 4: (64, 32, 4, 2)}  # by bytes: queries, keys, warps, stages


def attend_ragged(
    q: Tensor,
    kv: Tensor,
    cu_q: Tensor,
    ctx_lens: Tensor,
    block_tables: Tensor,
    scale: float,
    window: int,
    out: Tensor,
) -> None:
    """Causal attention of q [tokens, heads, head_dim], into ``out`` like q; tokens past
    ``cu_q[-1]`` become zero. Shapes as in ``prelude.kernels.attention``.

    A token's result does not depend on how rows are batched or cut into chunks.
    """
    tokens, heads, head_dim = q.shape
    rows, kv_heads = ctx_lens.shape[0], kv.shape[3]
    group = heads // kv_heads
    tile, tile_keys, num_warps, num_stages = _TILES[q.element_size()]
    tile = max(tile, triton.next_power_of_2(group))
    _prefill[(triton.cdiv(tokens, tile // group) + rows, kv_heads)](
        q,
        kv,
        out,
        cu_q,
        ctx_lens,
        block_tables,
        scale * _LOG2_E,
        window,
        tokens,
        rows,
        *q.stride()[:2],
        *out.stride()[:2],
        *kv.stride()[:4],
        block_tables.stride(0),
        GROUP=group,
        TILE_Q=tile,
        TILE_K=tile_keys,
        DIM=head_dim,
        DIM_PAD=max(16, triton.next_power_of_2(head_dim)),
        BLOCK=kv.shape[2],
        ROWS_PAD=triton.next_power_of_2(rows),
        WINDOWED=window > 0,
        num_warps=num_warps,
        num_stages=num_stages,
    )


# One program for all batches of a size class: values that change must not specialise it.
@triton.jit(do_not_specialize=["window", "tokens", "rows", "table_row"])
def _prefill(
    q_ptr,  # [tokens, heads, DIM]
    kv_ptr,  # [blocks, 2, BLOCK, kv_heads, DIM]
    out_ptr,  # [tokens, heads, DIM]
    cu_q_ptr,  # [rows + 1]
    ctx_ptr,  # [rows]
    table_ptr,  # [rows, width]
    scale_log2,
    window,
    tokens,
    rows,
    q_token,
    q_head,
    out_token,
    out_head,
    kv_block,
    kv_half,
    kv_token,
    kv_head,
    table_row,
    GROUP: tl.constexpr,
    TILE_Q: tl.constexpr,
    TILE_K: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS_PAD: tl.constexpr,
    WINDOWED: tl.constexpr,
):
    TOKENS: tl.constexpr = TILE_Q // GROUP  # per tile
    # Later tiles of a row read more context, and go first so that short ones fill the end.
    item = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1)
    row, first, end, ctx = _find_tile(item, cu_q_ptr, ctx_ptr, rows, ROWS_PAD, TOKENS)
    end = tl.where(row < rows, end, tokens)

    m = tl.arange(0, TILE_Q)
    d = tl.arange(0, DIM_PAD)
    token = first + m // GROUP
    mine = ((m < TOKENS * GROUP) & (token < end))[:, None] & (d < DIM)[None, :]
    heads = head * GROUP + m % GROUP
    at = token.to(tl.int64)
    targets = out_ptr + at[:, None] * out_token + heads[:, None] * out_head + d[None, :]
    if row >= rows:
        tl.store(targets, tl.zeros([TILE_Q, DIM_PAD], out_ptr.dtype.element_ty), mask=mine)
        return
    q_ptrs = q_ptr + at[:, None] * q_token + heads[:, None] * q_head + d[None, :]
    q = tl.load(q_ptrs, mask=mine, other=0.0)

    position = ctx - end + token
    begin = ctx - end + first  # position of the tile's first token
    high = tl.minimum(begin + TOKENS, ctx)
    low = 0
    if WINDOWED:
        low = tl.maximum(begin - window + 1, 0) // TILE_K * TILE_K
    # All of the tile sees all before ``full``. Padding may have more tokens than context.
    full = low if WINDOWED else tl.maximum(begin + 1, 0) // TILE_K * TILE_K
    best = tl.full([TILE_Q], float("-inf"), tl.float32)
    weight = tl.zeros([TILE_Q], tl.float32)
    mixed = tl.zeros([TILE_Q, DIM_PAD], tl.float32)
    table = table_ptr + row.to(tl.int64) * table_row
    base = kv_ptr + head * kv_head
    best, weight, mixed = _attend_range(
        q, best, weight, mixed, low, full, ctx, position, window, scale_log2,
        base, table, kv_block, kv_half, kv_token,
        False, WINDOWED, TILE_K, DIM, DIM_PAD, BLOCK,
    )  # fmt: skip
    best, weight, mixed = _attend_range(
        q, best, weight, mixed, full, high, ctx, position, window, scale_log2,
        base, table, kv_block, kv_half, kv_token,
        True, WINDOWED, TILE_K, DIM, DIM_PAD, BLOCK,
    )  # fmt: skip
    mixed = mixed / tl.where(weight > 0, weight, 1.0)[:, None]
    tl.store(targets, mixed.to(out_ptr.dtype.element_ty), mask=mine)


@triton.jit
def _find_tile(
    item, cu_q_ptr, ctx_ptr, rows, ROWS_PAD: tl.constexpr, TOKENS: tl.constexpr
):  # fmt: skip
    """(row, first token of the tile, end of the row's tokens, context); row == rows: padding."""
    r = tl.arange(0, ROWS_PAD)
    starts = tl.load(cu_q_ptr + r, mask=r < rows, other=0)
    stops = tl.load(cu_q_ptr + r + 1, mask=r < rows, other=0)
    num_tiles = tl.cdiv(stops - starts, TOKENS)
    ends = tl.cumsum(num_tiles, 0)
    row = tl.minimum(tl.sum((ends <= item).to(tl.int32), 0), rows)
    here = r == row
    is_row = row < rows
    tile = item - tl.where(is_row, tl.sum(tl.where(here, ends - num_tiles, 0), 0), tl.max(ends, 0))
    start = tl.where(is_row, tl.sum(tl.where(here, starts, 0), 0), tl.max(stops, 0))
    stop = tl.sum(tl.where(here, stops, 0), 0)
    ctx = tl.load(ctx_ptr + row, mask=is_row, other=0)
    return row, start + tile * TOKENS, stop, ctx


@triton.jit
def _attend_range(
    q,
    best,
    weight,
    mixed,
    low,
    high,
    ctx,
    position,
    window,
    scale_log2,
    base,
    table,
    kv_block,
    kv_half,
    kv_token,
    MASKED: tl.constexpr,
    WINDOWED: tl.constexpr,
    TILE_K: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One turn of online softmax for every TILE_K keys of [low, high)."""
    d = tl.arange(0, DIM_PAD)
    for start in range(low, high, TILE_K):
        n = start + tl.arange(0, TILE_K)
        exists = n < ctx
        readable = exists[:, None] & (d < DIM)[None, :]
        if MASKED:
            block = tl.load(table + n // BLOCK, mask=exists, other=0)
        else:
            block = tl.load(table + n // BLOCK)
        slots = block.to(tl.int64) * kv_block + (n % BLOCK) * kv_token
        pointers = base + slots[:, None] + d[None, :]
        if MASKED or DIM != DIM_PAD:
            keys = tl.load(pointers, mask=readable, other=0.0)
            values = tl.load(pointers + kv_half, mask=readable, other=0.0)
        else:
            keys = tl.load(pointers)
            values = tl.load(pointers + kv_half)
        # Of float32 inputs three products of the tensor cores keep all bits that matter.
        scores = tl.dot(q, tl.trans(keys), input_precision="tf32x3") * scale_log2
        if MASKED:
            seen = n[None, :] <= position[:, None]
            if WINDOWED:
                seen = seen & (n[None, :] > (position - window)[:, None])
            scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        # A row that has seen nothing yet has no highest score to be relative to.
        origin = tl.where(higher == float("-inf"), 0.0, higher) if MASKED else higher
        shrink = tl.exp2(best - origin)
        weights = tl.exp2(scores - origin[:, None])
        weight = weight * shrink + tl.sum(weights, 1)
        mixed = mixed * shrink[:, None]
        mixed += tl.dot(weights.to(values.dtype), values, input_precision="tf32x3")
        best = higher
    return best, weight, mixed
