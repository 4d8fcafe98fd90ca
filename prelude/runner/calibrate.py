"""First prices: a few dummy steps timed at start. Online correction takes over from there."""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from prelude.kernels.attention import AttentionMeta
from prelude.models.decoder import Decoder
from prelude.types.prices import PriceTable

_SIZES = (1, 16, 64, 4, 256)  # weight reading, the bend, arithmetic; then what time allows
_NEEDED = 3
_PATIENCE_S = 1.0
_CONTEXT = 512
_REPEATS = 4
_LONG_MS = 100.0


@torch.inference_mode()
def measure_prices(
    decoder: Decoder, kv: list[Tensor], block_size: int, device: torch.device
) -> PriceTable:
    """Time forwards of a few sizes on the dummy block, more of them while a second has not gone;
    larger steps are priced by extrapolation."""
    points: list[tuple[int, float]] = []
    start = time.perf_counter()
    for size in _SIZES:
        if len(points) >= _NEEDED and time.perf_counter() - start > _PATIENCE_S:
            break
        points.append((size, _timed_ms(partial(_forward, decoder, kv, block_size, size, size))))
    one_ms = points[0][1]
    context_ms = _timed_ms(partial(_forward, decoder, kv, block_size, 1, _CONTEXT))
    per_token = max(context_ms - one_ms, 0.0) / _CONTEXT
    return PriceTable(_rising(points), ms_per_ctx_token=per_token, ms_per_pair=per_token)


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


def _rising(points: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """More tokens never cost less: noise in a short measurement must not say so."""
    best = 0.0
    rising = []
    for size, ms in sorted(points):
        best = max(best, ms)
        rising.append((size, best))
    return tuple(rising)
