"""The least time a step can take on a device: what must be read over how fast memory is read, or
what must be computed over how fast the device computes, whichever is longer.

Counted are each parameter once (the input embedding only where it is also the head), the KV of
the context, two operations per parameter and token, and attention. Activations are left out: the
floor is a bound, not a forecast.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prelude.bench.result import Probe
from prelude.models.spec import DTYPE_BYTES, ModelSpec


@dataclass(frozen=True, slots=True)
class Work:
    """Bytes read and floating-point operations."""

    num_bytes: float
    flops: float


@dataclass(frozen=True, slots=True)
class Floor:
    """Milliseconds, and what they are spent on: ``memory`` or ``compute``."""

    ms: float
    bound: str


def step_work(
    spec: ModelSpec, dtype: str, rows: Sequence[tuple[int, int]], weights: str | None = None
) -> Work:
    """What one step must do. ``rows`` are (tokens in the context before, new tokens); each row
    samples one token. KV is held in ``dtype``, and so are weights unless they are ``int8``."""
    size = DTYPE_BYTES[dtype]
    weight_size = 1 if weights == "int8" else size
    num_tokens = sum(new for _, new in rows)
    head = spec.vocab_size * spec.hidden_size
    layers = spec.num_layers * spec.num_layer_params
    contexts = sum(start + new for start, new in rows)
    pairs = sum(new * start + new * (new + 1) // 2 for start, new in rows)
    return Work(
        num_bytes=(layers + head) * weight_size + contexts * spec.kv_bytes_per_token(size),
        flops=2.0 * layers * num_tokens
        + 2.0 * head * len(rows)
        + 4.0 * spec.num_layers * spec.q_size * pairs,
    )


def floor_of(work: Work, probe: Probe) -> Floor:
    """The bound for this work on the device that was probed."""
    memory_ms = work.num_bytes / (probe.read_gb_s * 1e6)
    compute_ms = work.flops / (probe.gemm_gflop_s * 1e6)
    if memory_ms >= compute_ms:
        return Floor(memory_ms, "memory")
    return Floor(compute_ms, "compute")
