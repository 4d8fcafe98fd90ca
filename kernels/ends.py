"""What a step does before its first layer and after its last: embedding, rotary tables, final norm.

In torch these are a dozen operations, which were a tenth of a small model's step: each finds its
code out of cache, and for some MKL wakes threads. On CPU they are custom ops of ``prelude::``, C++
in the library of the linear layers (``cpu/ends.h``), plain torch until that is in use.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prelude.kernels import fused
from prelude.kernels.int8 import SCALE_BYTES, dequantize
from prelude.kernels.ops import define

_EMBEDDED = (torch.float32, torch.int8)


def embed(ids: Tensor, matrix: Tensor) -> Tensor:
    """Rows of a matrix as it is stored (``kernels.int8``): ids int64 [tokens] -> [tokens, inputs];
    int8 becomes float32. Raises ``ValueError`` or ``IndexError`` for an id that has no row."""
    if matrix.is_cpu and matrix.dtype in _EMBEDDED and ids.dtype is torch.int64:
        x: Tensor = torch.ops.prelude.embed(ids, matrix)
        return x
    return _embed(ids, matrix)


def rope_tables(positions: Tensor, inv_freq: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """positions int64 [tokens], inv_freq float32 [half], radians per position -> cos and sin
    float32 [tokens, 2 half], each angle twice, both times ``factor``."""
    if positions.is_cpu and positions.dtype is torch.int64:
        tables: tuple[Tensor, Tensor] = torch.ops.prelude.rope_tables(positions, inv_freq, factor)
        return tables
    return _rope_tables(positions, inv_freq, factor)


def final_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``fused.rms_norm`` of x [rows, dim] outside compiled code."""
    if x.is_cpu and x.dtype is torch.float32:
        normed: Tensor = torch.ops.prelude.rms_norm(x, weight, eps)
        return normed
    return fused.rms_norm(x, weight, eps)


def _embed(ids: Tensor, matrix: Tensor) -> Tensor:
    rows = F.embedding(ids, matrix)
    return dequantize(rows) if matrix.dtype is torch.int8 else rows


def _rope_tables(positions: Tensor, inv_freq: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    half = positions.to(torch.float32)[:, None] * inv_freq
    angles = torch.cat((half, half), dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return (cos, sin) if factor == 1.0 else (cos * factor, sin * factor)


def _embedded(ids: Tensor, matrix: Tensor) -> Tensor:
    inputs = matrix.shape[1] - (SCALE_BYTES if matrix.dtype is torch.int8 else 0)
    return matrix.new_empty(len(ids), inputs, dtype=torch.float32)


def _tables(positions: Tensor, inv_freq: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    shape = len(positions), 2 * len(inv_freq)
    return inv_freq.new_empty(shape), inv_freq.new_empty(shape)


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape)


define("embed(Tensor ids, Tensor matrix) -> Tensor", _embedded)
define("rope_tables(Tensor positions, Tensor inv_freq, float factor) -> (Tensor, Tensor)", _tables)
define("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", _normed)
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "embed": _embed,
    "rope_tables": _rope_tables,
    "rms_norm": fused.rms_norm,
}
