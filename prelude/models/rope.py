"""Rotary position embedding as config.json describes it. No torch: the engine's front end reads
specs too. The tables themselves are built in ``rotary.py``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_THETA = 10_000.0

# Keys of the rope dictionary that each type reads, beside those every type has.
ROPE_TYPES: Mapping[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor"}),
    "yarn": frozenset(
        {
            "factor",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        }
    ),
}
_COMMON_KEYS = frozenset(
    {
        "rope_theta",
        "rope_type",
        "type",
        "partial_rotary_factor",
        "original_max_position_embeddings",
    }
)


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotation of the first ``rotary_dim`` dimensions of every head (rotate-half layout).

    ``factor``, ``low_freq_factor``, ``high_freq_factor`` (llama3), ``beta_fast``, ``beta_slow``,
    ``truncate`` (yarn) and ``original_max_position`` (both) matter to those types only.
    ``attention_factor`` multiplies cos and sin.
    """

    rotary_dim: int
    theta: float = DEFAULT_THETA
    type: str = "default"
    factor: float = 1.0
    original_max_position: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0


def read_rope(
    config: Mapping[str, Any], *, head_dim: int, max_position: int, partial_rotary: bool
) -> RopeSpec:
    """Read ``rope_parameters`` (transformers 5) or ``rope_theta`` with ``rope_scaling`` (older).

    Raises ``ValueError`` naming the type or key that is not supported, or missing.
    """
    params = _merged(config)
    rope_type = params.get("rope_type", params.get("type", "default"))
    if not isinstance(rope_type, str) or rope_type not in ROPE_TYPES:
        raise ValueError(
            f"config.json: rope type {rope_type!r} is not supported; "
            f"supported: {', '.join(ROPE_TYPES)}"
        )
    unknown = sorted(params.keys() - _COMMON_KEYS - ROPE_TYPES[rope_type])
    if unknown:
        raise ValueError(
            f"config.json: rope type {rope_type!r} with {', '.join(unknown)} is not supported; "
            "remove what does not change the rotation"
        )
    rotary_dim = _rotary_dim(params, head_dim, partial_rotary)
    theta = _number(params, "rope_theta", DEFAULT_THETA)
    original = int(_number(params, "original_max_position_embeddings", float(max_position)))
    if rope_type == "default":
        return RopeSpec(rotary_dim, theta)
    if rope_type == "linear":
        return RopeSpec(rotary_dim, theta, "linear", _number(params, "factor"), original)
    if rope_type == "llama3":
        return RopeSpec(
            rotary_dim,
            theta,
            "llama3",
            _number(params, "factor"),
            original,
            low_freq_factor=_number(params, "low_freq_factor"),
            high_freq_factor=_number(params, "high_freq_factor"),
        )
    return _read_yarn(params, rotary_dim, theta, original, max_position)


def _read_yarn(
    params: Mapping[str, Any], rotary_dim: int, theta: float, original: int, max_position: int
) -> RopeSpec:
    factor = _number(params, "factor", max_position / original)
    return RopeSpec(
        rotary_dim,
        theta,
        "yarn",
        factor,
        original,
        beta_fast=_number(params, "beta_fast", 32.0),
        beta_slow=_number(params, "beta_slow", 1.0),
        truncate=bool(params.get("truncate", True)),
        attention_factor=_yarn_attention_factor(params, factor),
    )


def _yarn_attention_factor(params: Mapping[str, Any], factor: float) -> float:
    """Section 3.4 of arXiv:2309.00071, with DeepSeek's ratio of two mscales where given."""

    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0

    if "attention_factor" in params:
        return _number(params, "attention_factor")
    if params.get("mscale") and params.get("mscale_all_dim"):
        return mscale(_number(params, "mscale")) / mscale(_number(params, "mscale_all_dim"))
    return mscale(1.0)


def _merged(config: Mapping[str, Any]) -> dict[str, Any]:
    """One dictionary from either style; null values mean absent."""
    params = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(params, Mapping):
        raise ValueError(f"config.json: rope parameters must be an object, not {params!r}")
    if any(isinstance(value, Mapping) for value in params.values()):
        params = _one_for_all_layers(params)
    top = {key: config[key] for key in ("rope_theta", "partial_rotary_factor") if key in config}
    # As in transformers, the original length outside the dictionary wins over the one inside.
    original = config.get("original_max_position_embeddings")
    last = {} if original is None else {"original_max_position_embeddings": original}
    merged = {**top, **params, **last}
    return {key: value for key, value in merged.items() if value is not None}


def _one_for_all_layers(nested: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rope parameters per layer type are fine as long as they do not differ."""
    first, *rest = nested.values()
    if any(other != first for other in rest):
        raise ValueError(
            "config.json: rope_parameters that differ between layer types "
            f"({', '.join(nested)}) are not supported"
        )
    assert isinstance(first, Mapping)
    return first


def _rotary_dim(params: Mapping[str, Any], head_dim: int, partial_rotary: bool) -> int:
    share = _number(params, "partial_rotary_factor", 1.0)
    if share != 1.0 and not partial_rotary:
        raise ValueError(
            f"config.json: partial_rotary_factor={share} is not supported for this architecture"
        )
    rotary_dim = int(head_dim * share)
    if rotary_dim % 2 or not 0 < rotary_dim <= head_dim:
        raise ValueError(
            f"config.json: head_dim {head_dim} x partial_rotary_factor {share} must give a "
            "positive even number of rotated dimensions"
        )
    return rotary_dim


def _number(params: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = params.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"config.json: rope {key} must be a positive number, not {value!r}")
    return float(value)
