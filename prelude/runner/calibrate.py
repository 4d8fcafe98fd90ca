"""First prices: parts of a step timed at start, for a second or so. Steps correct them from there.

A few layers stand for all, as many as no cache can hold: streamed weights are what decoding costs.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from prelude.kernels import sampling
from prelude.kernels.attention import AttentionMeta
from prelude.models.decoder import Decoder
from prelude.models.spec import ModelSpec
from prelude.types.prices import Curve, PriceTable, Sums
from prelude.types.request import SampleMode

_SIZES = (1, 16, 64)  # weight reading, the bend, arithmetic
_MORE_SIZES = (4, 256)  # where they cost little
_ROWS = (1, 16)
_CONTEXT = 512
_REPEATS = 4
_ENOUGH_MS = 40.0  # of repeating
_LONG_MS = 100.0  # of a step of 64 tokens: too long to time larger ones at start
_LEAST = 0.5  # of what attention should cost: a difference of two times may drown in noise
_STREAMED_BYTES = 128 * 2**20
_BODY_GRID = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # where the curves can be corrected
_HEAD_GRID = (1, 2, 4, 8, 16, 32, 64)


@torch.inference_mode()
def measure_prices(decoder: Decoder, kv: list[Tensor], block_size: int) -> PriceTable:
    """Time forwards of a few sizes on the dummy block, then one and many tokens behind a context,
    then head and sampler; larger steps are priced by extrapolation."""
    greedy, filtered, full = (_head_curve(decoder, mode) for mode in _SAMPLERS)
    body, ctx_ms, pair_ms = _body(decoder, kv, block_size, _REPEATS)
    return PriceTable(body, ctx_ms, pair_ms, (greedy, filtered, full))


@torch.inference_mode()
def remeasure_body(
    prices: PriceTable, decoder: Decoder, kv: list[Tensor], block_size: int
) -> PriceTable:
    """The list after the layers' code has changed between two steps: quickly, every size once."""
    body, ctx_ms, pair_ms = _body(decoder, kv, block_size, repeats=1)
    return PriceTable(body, ctx_ms, pair_ms, prices.heads)


def _body(
    decoder: Decoder, kv: list[Tensor], block_size: int, repeats: int
) -> tuple[Curve, float, float]:
    """Milliseconds over new tokens, per KV token read and per query-key pair."""
    layers = _num_streamed(decoder)
    times = len(decoder.layers) / layers

    def timed(count: int, context: int) -> float:
        run = partial(_forward, decoder, kv[:layers], block_size, count, context)
        return times * _timed_ms(run, repeats)

    few, many = _SIZES[0], _SIZES[-1]
    timed(few, few)  # pays for pages and threads
    points = {size: timed(size, size) for size in _SIZES}
    if points[many] < _LONG_MS:
        points |= {size: timed(size, size) for size in _MORE_SIZES}
    ctx_ms = (timed(few, _CONTEXT) - points[few]) / Sums().plus(_CONTEXT - few, few).ctx
    pairs = Sums().plus(_CONTEXT - many, many).pairs - Sums().plus(0, many).pairs
    pair_ms = (timed(many, _CONTEXT) - points[many]) / pairs
    ctx_ms = max(ctx_ms, _LEAST * points[few] * _kv_share(decoder.spec))
    pair_ms = max(pair_ms, _LEAST * points[many] / many * _pair_share(decoder.spec))
    return Curve.of(_rising(points)).resampled(_BODY_GRID), ctx_ms, pair_ms


def _num_streamed(decoder: Decoder) -> int:
    """Layers whose weights no cache holds; all of a small model's."""
    layer_bytes = sum(p.numel() * p.element_size() for p in decoder.layers[0].parameters())
    return min(-(-_STREAMED_BYTES // layer_bytes), len(decoder.layers))


def _kv_share(spec: ModelSpec) -> float:
    """KV of a token over the layers' weights: what reading it costs if it is read as fast."""
    return 2 * spec.kv_size / spec.num_layer_params


def _pair_share(spec: ModelSpec) -> float:
    """Arithmetic of a query-key pair over that of a token in the linear layers."""
    return 2 * spec.q_size / spec.num_layer_params


def _forward(decoder: Decoder, kv: list[Tensor], block_size: int, count: int, ctx: int) -> None:
    """``count`` new tokens at the end of a context of ``ctx``, all of it in the dummy block,
    through as many layers as ``kv`` has."""
    device = kv[0].device

    def ints(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    meta = AttentionMeta(
        cu_q=ints([0, count]),
        ctx_lens=ints([ctx]),
        block_tables=ints([0] * -(-ctx // block_size))[None],
        slot_mapping=torch.zeros(count, dtype=torch.int64, device=device),
    )
    x = torch.zeros(count, decoder.spec.hidden_size, dtype=kv[0].dtype, device=device)
    cos, sin = decoder.rotary(torch.arange(ctx - count, ctx, device=device))
    decoder.layers_fn(decoder.layers, x, cos, sin, kv, *meta)


def _head_curve(decoder: Decoder, mode: SampleMode) -> Curve:
    points, norm = {}, decoder.norm
    for rows in _ROWS:
        hidden = torch.rand(rows, len(norm), dtype=norm.dtype, device=norm.device)
        run = partial(_SAMPLERS[mode], decoder, hidden)
        run()
        points[rows] = _timed_ms(run, _REPEATS)
    return Curve.of(_rising(points)).resampled(_HEAD_GRID)


def _greedy(decoder: Decoder, hidden: Tensor) -> None:
    sampling.greedy(decoder.logits(hidden)).tolist()


def _filtered(decoder: Decoder, hidden: Tensor) -> None:
    _draw(decoder.logits(hidden))


def _full(decoder: Decoder, hidden: Tensor) -> None:
    logits = decoder.logits(hidden)
    counts = torch.zeros_like(logits, dtype=torch.int32)
    zeros = torch.zeros(len(hidden), device=hidden.device)
    seen, ones = counts.bool(), torch.ones_like(zeros)
    _draw(sampling.penalize(logits, counts, seen, zeros, zeros, ones, torch.zeros_like(logits)))


def _draw(logits: Tensor) -> None:
    """With the settings that most people use."""
    rows, device = len(logits), logits.device

    def all_rows(value: float, dtype: torch.dtype) -> Tensor:
        return torch.full((rows,), value, dtype=dtype, device=device)

    sampling.filtered(
        logits,
        temperature=all_rows(0.8, torch.float32),
        top_k=all_rows(0, torch.int64),
        top_p=all_rows(0.95, torch.float32),
        min_p=all_rows(0.0, torch.float32),
        seeds=all_rows(0, torch.int64),
        index=all_rows(0, torch.int64),
    ).tolist()


_SAMPLERS: Mapping[SampleMode, Callable[[Decoder, Tensor], None]] = {
    "greedy": _greedy,
    "filtered": _filtered,
    "full": _full,
}


def _timed_ms(run: Callable[[], None], repeats: int) -> float:
    """Best of up to ``repeats`` runs, fewer where a run is long."""
    times_ms: list[float] = []
    while len(times_ms) < repeats and sum(times_ms) < _ENOUGH_MS:
        start = time.perf_counter()
        run()
        times_ms.append((time.perf_counter() - start) * 1e3)
    return min(times_ms)


def _rising(points: Mapping[int, float]) -> dict[int, float]:
    """More tokens never cost less: noise in a short measurement must not say so."""
    best = 0.0
    rising = {}
    for size, ms in sorted(points.items()):
        best = max(best, ms)
        rising[size] = best
    return rising
