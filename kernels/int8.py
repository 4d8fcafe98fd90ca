"""Matrices in int8: a row is its values and, in its last four bytes, the float32 that scales them.

One tensor per matrix, so that a quantised weight travels wherever a weight does. Symmetric, one
scale a row: scales for groups of 64 inputs would lower the error of a weight by a seventh and
change no output of the demo model (benchmarks/results/cpu/linear.md).
"""

import torch
from torch import Tensor

SCALE_BYTES = 4
_AT_ONCE = 2**20  # values, so that what is in between stays in cache


def int8_shape(outputs: int, inputs: int) -> tuple[int, int]:
    """Shape of the int8 tensor that holds [outputs, inputs]. Raises ``ValueError`` where a row
    would leave its scale unaligned."""
    if inputs % SCALE_BYTES:
        raise ValueError(
            f"a matrix of {inputs} inputs cannot be int8: they must be a multiple of {SCALE_BYTES};"
            " set model.weights=auto"
        )
    return outputs, inputs + SCALE_BYTES


def quantize(w: Tensor, out: Tensor) -> None:
    """Round w [outputs, inputs] into ``out``, int8 [outputs, inputs + 4]: to nearest, -127 to 127.

    A value is off by at most half its row's scale. A row of zeros keeps the scale 1.
    """
    num_rows = max(1, _AT_ONCE // w.shape[1])
    for first in range(0, len(w), num_rows):
        wide, rows = w[first : first + num_rows].float(), out[first : first + num_rows]
        peak = wide.abs().amax(dim=1, keepdim=True)
        scale = torch.where(peak > 0, peak / 127, 1.0)
        rows[:, :-SCALE_BYTES] = (wide / scale).round_()
        rows[:, -SCALE_BYTES:] = scale.view(torch.int8)


def dequantize(w: Tensor) -> Tensor:
    """int8 [rows, inputs + 4] -> float32 [rows, inputs]."""
    scale = w[:, -SCALE_BYTES:].contiguous().view(torch.float32)
    return w[:, :-SCALE_BYTES].float() * scale
