"""``sampling.filtered`` in one launch, one program per row, without a look by the host.

Sets and draws are those of ``filtered``. A first pass keeps the best token of every lane, which
gives a level that enough tokens reach; a second gathers these, in the order of the vocabulary.
Nearly always they hold all that top-k and top-p keep, and the rest of the work is among them;
otherwise it goes over the whole row. Probabilities are summed as integers, as in
``sampling_static``, so that no sum depends on its order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_VOCAB = 2**18
_LANES = 4096  # tokens looked at in one go, and gathered at most

_ONE: tl.constexpr = tl.constexpr(2.0**44)  # weight of the best token: 2**18 of them fit an int64
_LOWEST: tl.constexpr = tl.constexpr(-2139095041)  # key of minus infinity
_GOLDEN: tl.constexpr = tl.constexpr(0x9E3779B97F4A7C15)
_MIX_1: tl.constexpr = tl.constexpr(0xBF58476D1CE4E5B9)
_MIX_2: tl.constexpr = tl.constexpr(0x94D049BB133111EB)


def filtered(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    index: Tensor,
) -> Tensor:
    """Sample each row of logits [rows, vocab]; returns int64 [rows]. See ``sampling.filtered``.

    Parameters are [rows], views with strides allowed: top_k, seeds and index integers, the others
    float32. A vocabulary has at most ``MAX_VOCAB`` tokens.
    """
    rows, vocab = logits.shape
    parameters = (temperature, top_k, top_p, min_p, seeds, index)
    ids = seeds.new_empty(rows, dtype=torch.int64)
    gathered = logits.new_empty((2, rows, _LANES), dtype=torch.int32)
    _filtered[(rows,)](
        logits,
        *parameters,
        gathered[0],
        gathered[1],
        ids,
        vocab,
        logits.stride(0),
        *(x.stride(0) for x in parameters),
        LANES=_LANES,
        num_warps=16,
    )
    return ids


@triton.jit
def _filtered(
    logits_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    seeds_ptr,
    index_ptr,
    keys_ptr,  # [rows, LANES] int32: keys of the gathered tokens
    ids_ptr,  # [rows, LANES] int32: and their ids, ascending
    out_ptr,
    vocab,
    logits_row,
    temperature_row,
    top_k_row,
    top_p_row,
    min_p_row,
    seeds_row,
    index_row,
    LANES: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * logits_row
    keys_ptr += row * LANES
    ids_ptr += row * LANES
    temperature = tl.load(temperature_ptr + row * temperature_row)
    best, best_ids = _best_of_lanes(logits_ptr, vocab, LANES)
    highest = tl.max(best, 0)
    if temperature == 0:
        tl.store(out_ptr + row, tl.min(tl.where(best == highest, best_ids, vocab - 1), 0))
        return

    peak = tl.maximum(tl.div_rn(highest, temperature), -3e38)  # finite, whatever the logits
    top_p = tl.load(top_p_ptr + row * top_p_row)
    k = tl.load(top_k_ptr + row * top_k_row).to(tl.int32)
    k = tl.where(k > 0, tl.minimum(k, vocab), vocab)
    threshold = tl.full([], _LOWEST, tl.int32)
    gathered = tl.full([], 0, tl.int32)  # tokens to look at if not all
    if (k < vocab) | (top_p < 1):
        lanes = _keys(tl.div_rn(best, temperature))
        level = _level_of(lanes, tl.minimum(k, LANES // 2), _keys(peak))
        count, total = _gather(
            logits_ptr, keys_ptr, ids_ptr, temperature, peak, level, vocab, LANES
        )  # fmt: skip
        if count <= LANES:
            reached = _sum(
                logits_ptr, keys_ptr, temperature, peak, count, vocab, level, True, LANES
            )
            if tl.where(k < vocab, count >= k, reached >= _share(total, top_p)):
                gathered = count
                threshold = level
        if k < vocab:
            threshold = _threshold(
                logits_ptr, keys_ptr, temperature, peak, gathered, vocab,
                threshold, k.to(tl.int64), False, LANES,
            )  # fmt: skip
            total = _sum(
                logits_ptr, keys_ptr, temperature, peak, gathered, vocab, threshold, True, LANES
            )
        if top_p < 1:
            threshold = _threshold(
                logits_ptr, keys_ptr, temperature, peak, gathered, vocab,
                threshold, _share(total, top_p), True, LANES,
            )  # fmt: skip
    min_p = tl.load(min_p_ptr + row * min_p_row)
    if min_p > 0:
        threshold = tl.maximum(threshold, _keys(peak + tl.log(min_p)))
    total = _sum(logits_ptr, keys_ptr, temperature, peak, gathered, vocab, threshold, True, LANES)
    u = _uniform(tl.load(seeds_ptr + row * seeds_row), tl.load(index_ptr + row * index_row))
    target = tl.minimum((u.to(tl.float64) * total.to(tl.float64)).to(tl.int64), total - 1)
    drawn = _draw(
        logits_ptr, keys_ptr, ids_ptr, temperature, peak, gathered, vocab, threshold, target, LANES
    )
    tl.store(out_ptr + row, drawn)


@triton.jit
def _best_of_lanes(logits_ptr, vocab, LANES: tl.constexpr):
    """([LANES] highest logit of the tokens i, i + LANES, ..., the first id that has it)."""
    lane = tl.arange(0, LANES)
    best = tl.full([LANES], float("-inf"), tl.float32)
    ids = tl.zeros([LANES], tl.int32)
    for start in tl.range(0, vocab, LANES, num_stages=4):
        i = start + lane
        x = tl.load(logits_ptr + i, mask=i < vocab, other=float("-inf")).to(tl.float32)
        ids = tl.where(x > best, i, ids)
        best = tl.where(x > best, x, best)
    return best, ids


@triton.jit
def _keys(x):
    """int32 that compare as the float32 x do; both zeros give 0."""
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _weights(keys, peak):
    """int64, proportional to the probabilities."""
    x = (keys ^ ((keys >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    return (tl.exp(x - peak) * _ONE).to(tl.int64)


@triton.jit
def _share(total, top_p):
    share = tl.ceil(total.to(tl.float64) * top_p.to(tl.float64)).to(tl.int64)
    return tl.maximum(share, 1)


@triton.jit
def _level_of(keys, wanted, peak_key):
    """Highest key that ``wanted`` of ``keys`` reach."""
    low, high = tl.full([], _LOWEST, tl.int64), peak_key.to(tl.int64) + 1
    while high - low > 1:
        middle = (low + high) >> 1
        reached = tl.sum((keys >= middle.to(tl.int32)).to(tl.int32), 0) >= wanted
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle)
    return low.to(tl.int32)


@triton.jit
def _gather(
    logits_ptr, keys_ptr, ids_ptr, temperature, peak, level, vocab, LANES: tl.constexpr
):  # fmt: skip
    """Write the tokens that reach ``level``, as many as fit; (their number, the weight of all)."""
    count = tl.full([], 0, tl.int32)
    total = tl.zeros([LANES], tl.int64)
    for start in tl.range(0, vocab, LANES, num_stages=4):
        i = start + tl.arange(0, LANES)
        keys = _load_keys(logits_ptr, temperature, i, vocab)
        reaches = (keys >= level) & (i < vocab)
        at = count + tl.cumsum(reaches.to(tl.int32), 0) - 1
        tl.store(keys_ptr + at, keys, mask=reaches & (at < LANES))
        tl.store(ids_ptr + at, i, mask=reaches & (at < LANES))
        count += tl.sum(reaches.to(tl.int32), 0)
        total += _weights(keys, peak)
    tl.debug_barrier()  # what a thread wrote, others read
    return count, tl.sum(total, 0)


@triton.jit
def _load_keys(logits_ptr, temperature, i, vocab):
    x = tl.load(logits_ptr + i, mask=i < vocab, other=float("-inf")).to(tl.float32)
    x = tl.where(x > float("-inf"), x, float("-inf"))  # what is not a number is excluded
    return _keys(tl.div_rn(x, temperature))


@triton.jit
def _some_keys(logits_ptr, keys_ptr, temperature, i, gathered, vocab):
    """Keys of the gathered tokens, or of all if ``gathered`` is 0; the lowest key past the end."""
    if gathered > 0:
        keys = tl.load(keys_ptr + i, mask=i < gathered, other=_LOWEST)
    else:
        keys = _load_keys(logits_ptr, temperature, i, vocab)
    return keys


@triton.jit
def _sum(
    logits_ptr, keys_ptr, temperature, peak, gathered, vocab, threshold,
    WEIGHTS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Weight, or else number, of the tokens that reach ``threshold``."""
    sums = tl.zeros([LANES], tl.int64)
    end = tl.where(gathered > 0, gathered, vocab)
    for start in range(0, end, LANES):
        i = start + tl.arange(0, LANES)
        keys = _some_keys(logits_ptr, keys_ptr, temperature, i, gathered, vocab)
        reaches = (keys >= threshold) & (i < end)
        if WEIGHTS:
            sums += tl.where(reaches, _weights(keys, peak), 0)
        else:
            sums += reaches.to(tl.int64)
    return tl.sum(sums, 0)


@triton.jit
def _threshold(
    logits_ptr, keys_ptr, temperature, peak, gathered, vocab, low, wanted,
    WEIGHTS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Highest key such that the tokens that reach it sum up to ``wanted``; those at ``low`` do."""
    low, high = low.to(tl.int64), _keys(peak).to(tl.int64) + 1
    while high - low > 1:
        middle = (low + high) >> 1
        have = _sum(
            logits_ptr, keys_ptr, temperature, peak, gathered, vocab,
            middle.to(tl.int32), WEIGHTS, LANES,
        )  # fmt: skip
        low = tl.where(have >= wanted, middle, low)
        high = tl.where(have >= wanted, high, middle)
    return low.to(tl.int32)


@triton.jit
def _draw(
    logits_ptr, keys_ptr, ids_ptr, temperature, peak, gathered, vocab, threshold, target,
    LANES: tl.constexpr,
):  # fmt: skip
    """Id of the first token at which the running sum of weights is above ``target``."""
    end = tl.where(gathered > 0, gathered, vocab)
    passed = tl.full([], 0, tl.int64)
    start = tl.full([], 0, tl.int32)
    found = tl.full([], 0, tl.int32) + vocab
    while (found == vocab) & (start < end):
        i = start + tl.arange(0, LANES)
        keys = _some_keys(logits_ptr, keys_ptr, temperature, i, gathered, vocab)
        weights = tl.where((keys >= threshold) & (i < end), _weights(keys, peak), 0)
        above = (passed + tl.cumsum(weights, 0) > target) & (i < end)
        found = tl.minimum(found, tl.min(tl.where(above, i, vocab), 0))
        passed += tl.sum(weights, 0)
        start += LANES
    found = tl.minimum(found, end - 1)
    if gathered > 0:
        found = tl.load(ids_ptr + found)
    return found


@triton.jit
def _uniform(seed, index):
    """``sampling.uniform`` for drawing the next token."""
    state = _mix(seed.to(tl.int64).to(tl.uint64, bitcast=True) + _GOLDEN)
    state = _mix(state + _GOLDEN)
    state = _mix(state + _GOLDEN * (index.to(tl.int64) + 1).to(tl.uint64, bitcast=True))
    return ((state >> 41).to(tl.float32) + 0.5) * (2.0**-23)


@triton.jit
def _mix(x):
    x = (x ^ (x >> 30)) * _MIX_1
    x = (x ^ (x >> 27)) * _MIX_2
    return x ^ (x >> 31)
