"""First prices: a few dummy steps timed at start. Online correction takes over from there."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from prelude.kernels.attention import AttentionMeta
from prelude.models.decoder import Decoder
from prelude.types.prices import PriceTable, Sums

_SIZES = (1, 16, 64)  # weight reading, the bend, arithmetic
_MORE_SIZES = (4, 256)  # where they cost little
_CONTEXT = 512
_REPEATS = 4
_LONG_MS = 100.0


@torch.inference_mode()
def measure_prices(
    decoder: Decoder, kv: list[Tensor], block_size: int, device: torch.device
) -> PriceTable:
    """Time forwards of a few sizes on the dummy block, then of one and of many tokens behind a
    context; larger steps are priced by extrapolation."""

    def timed(count: int, context: int) -> float:
        return _timed_ms(partial(_forward, decoder, kv, block_size, count, context))

    points = {size: timed(size, size) for size in _SIZES}
    few, many = _SIZES[0], _SIZES[-1]
    if points[many] < _LONG_MS:
        points |= {size: timed(size, size) for size in _MORE_SIZES}
    per_ctx_token = _per(timed(few, _CONTEXT) - points[few], Sums().plus(_CONTEXT - few, few).ctx)
    pairs = Sums().plus(_CONTEXT - many, many).pairs - Sums().plus(0, many).pairs
    per_pair = _per(timed(many, _CONTEXT) - points[many], pairs)
    return PriceTable(_rising(points), per_ctx_token, per_pair)


def _per(ms: float, count: int) -> float:
    """Noise may make a difference negative; a price of nothing could never be corrected."""
    return max(ms / count, 1e-7)


def _forward(decoder: Decoder, kv: list[Tensor], block_size: int, count: int, ctx: int) -> None:
    """``count`` new tokens at the end of a context of ``ctx``, all of it in the dummy block."""
    device = kv[0].device

    def ints(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    meta = AttentionMeta(
        cu_q=ints([0, count]),
        ctx_lens=ints([ctx]),
        block_tables=ints([0] * -(-ctx // block_size))[None],
        slot_mapping=torch.zeros(count, dtype=torch.int64, device=device),
    )
    ids = torch.zeros(count, dtype=torch.int64, device=device)
    positions = torch.arange(ctx - count, ctx, device=device)
    hidden = decoder(ids, positions, kv, meta)
    decoder.logits(hidden[-1:])


def _timed_ms(run: Callable[[], None]) -> float:
    """Best of up to ``_REPEATS`` runs, fewer where a run is long."""
    times_ms: list[float] = []
    while len(times_ms) < _REPEATS and sum(times_ms) < _LONG_MS:
        start = time.perf_counter()
        run()
        times_ms.append((time.perf_counter() - start) * 1e3)
    return min(times_ms)


def _rising(points: Mapping[int, float]) -> tuple[tuple[int, float], ...]:
    """More tokens never cost less: noise in a short measurement must not say so."""
    best = 0.0
    rising = []
    for size, ms in sorted(points.items()):
        best = max(best, ms)
        rising.append((size, best))
    return tuple(rising)
