"""Messages between the server process and the engine process: msgpack, one version, one union
a direction. The engine sends at most one ``StepEvents`` a step."""

from typing import Literal, get_args

import msgspec

from prelude.types.request import Request, TokenEvent

WIRE_VERSION = 3


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    request: Request


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """The client is gone: free the request's slots and blocks by the next step."""

    uid: int


class Truncate(msgspec.Struct, frozen=True, tag="truncate"):
    """The text layer found a stop string: the choice ends with ``num_tokens`` output tokens."""

    uid: int
    index: int
    num_tokens: int


class ForgetPrefixes(msgspec.Struct, frozen=True, tag="forget"):
    """From now on no new request finds anything cached; who runs keeps what it has."""


class SetLogLevel(msgspec.Struct, frozen=True, tag="log"):
    """Of the engine's own process: DEBUG, INFO, WARNING or ERROR."""

    level: str


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """End the loop after the current step; what is still running ends as aborted."""


DeathReason = Literal["error", "exit", "hang", "memory", "signal", "start", "wire"]
DEATH_REASONS: tuple[DeathReason, ...] = get_args(DeathReason)

ToEngine = Submit | Abort | Truncate | ForgetPrefixes | SetLogLevel | Shutdown


class ClassStats(msgspec.Struct, frozen=True, array_like=True):
    """Gauges of one service class: sequences that wait, those that have a slot, those that gave
    it up and kept their blocks, and the blocks they hold."""

    num_waiting: int = 0
    num_running: int = 0
    num_parked: int = 0
    num_blocks: int = 0


class EngineStats(msgspec.Struct, frozen=True, array_like=True):
    """Gauges and counters at the end of a step. Counters only grow. ``classes`` are in the order
    of ``SERVICE_CLASSES``; ``refused`` counts requests that were not served, and sequences that
    expired, in the order of ``REFUSAL_CODES``; ``num_swaps`` sequences whose KV went to the host,
    ``num_swapped_blocks`` blocks copied there or back; ``alive_s`` is the whole seconds of its
    clock, so that an engine without work still has news once a second."""

    num_waiting: int = 0
    num_running: int = 0
    num_blocks: int = 0
    num_blocks_referenced: int = 0
    num_blocks_cached: int = 0
    num_steps: int = 0
    num_preemptions: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    wasted_tokens: int = 0
    programs_ready: int = 0
    programs_total: int = 0
    programs_missed: int = 0
    step_ms: float = 0.0
    step_price_ms: float = 0.0
    overhead_ms: float = 0.0
    price_error: float = 0.0
    price_p90: float = 0.0
    budget_ms: float = 0.0
    num_parks: int = 0
    classes: tuple[ClassStats, ...] = ()
    refused: tuple[int, ...] = ()
    num_swaps: int = 0
    num_swapped_blocks: int = 0
    alive_s: int = 0


class StepEvents(msgspec.Struct, frozen=True, tag="step"):
    events: list[TokenEvent]
    stats: EngineStats


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """Start-up: what the engine is doing now, and how much of it is done (0 to 1)."""

    phase: str
    fraction: float


class EngineInfo(msgspec.Struct, frozen=True):
    """What the front end must know of the engine behind it."""

    model_name: str
    model_path: str
    device: str
    dtype: str
    max_len: int
    vocab_size: int
    eos_ids: list[int]
    num_blocks: int
    block_size: int
    max_seqs: int
    startup_s: dict[str, float]
    startup_bytes: dict[str, tuple[int, int]] = {}  # read and newly allocated, by phase
    rules: dict[str, str] = {}  # what was derived, and from what
    weights: str | None = None  # type of the matrices where it is not ``dtype``


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    info: EngineInfo
    version: int = WIRE_VERSION


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The engine could not start or died: ``message`` is the root cause, in one line."""

    message: str
    reason: DeathReason = "error"


FromEngine = StepEvents | Progress | Ready | Failed


def encode(message: ToEngine | FromEngine) -> bytes:
    return msgspec.msgpack.encode(message)


_TO_ENGINE: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_FROM_ENGINE: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)


def decode_to_engine(frame: bytes) -> ToEngine:
    return _TO_ENGINE.decode(frame)


def decode_from_engine(frame: bytes) -> FromEngine:
    return _FROM_ENGINE.decode(frame)
