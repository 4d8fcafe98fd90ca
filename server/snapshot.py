"""What the live view is told: gauges, rates and the quantiles of the last minute, as one record.
Numbers only, and the model's name: nothing of what anybody asked or was answered."""

from typing import Literal

import msgspec

ServerState = Literal["starting", "ready", "restarting", "draining", "dead"]


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One instant of the charts. Steps, tokens and launches are those since the point before;
    milliseconds of steps are None where there were none. Lists are in the order of the classes;
    ``time_s`` is the age of the server."""

    time_s: float
    step_p50_ms: float | None
    step_max_ms: float | None
    budget_ms: float | None
    output_per_s: float
    prompt_per_s: float
    kv_used: float
    running: tuple[int, ...]
    waiting: tuple[int, ...]


class Quantiles(msgspec.Struct, frozen=True, array_like=True):
    """Of the last minute."""

    count: int
    p50_ms: float | None
    p99_ms: float | None


class ClassRow(msgspec.Struct, frozen=True):
    name: str
    waiting: int
    running: int
    parked: int
    blocks: int
    ttft: Quantiles
    itl: Quantiles
    e2e: Quantiles


class Steps(msgspec.Struct, frozen=True):
    """``count``, ``over`` (their budget), quantiles: of the last minute; the rest of the last
    step, and ``price_error``, which is the usual relative error of a price."""

    count: int
    over: int
    p50_ms: float | None
    p99_ms: float | None
    last_ms: float
    price_ms: float
    overhead_ms: float
    price_error: float


class Kv(msgspec.Struct, frozen=True):
    """Blocks."""

    used: int
    cached: int
    total: int
    block_size: int


class Programs(msgspec.Struct, frozen=True):
    ready: int
    total: int
    missed: int


class Totals(msgspec.Struct, frozen=True):
    """Since the engine started."""

    steps: int
    preemptions: int
    parks: int
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    wasted_tokens: int
    refused: int
    expired: int


class Snapshot(msgspec.Struct, frozen=True):
    state: ServerState
    note: str  # what it is doing instead of being ready
    model: str
    open_requests: int
    max_seqs: int
    point: Point
    steps: Steps
    kv: Kv
    programs: Programs
    totals: Totals
    classes: tuple[ClassRow, ...]
