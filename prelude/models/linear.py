"""A decoder's parameters as they are made, and the one place that knows how matrices are stored."""

import torch
from torch import Tensor
from torch.nn import Parameter

from prelude.kernels import pages
from prelude.kernels.int8 import SCALE_BYTES, int8_shape, quantize


def empty_weight(*shape: int, dtype: torch.dtype, device: torch.device) -> Parameter:
    """An uninitialised inference parameter; ``loading.py`` fills it."""
    return Parameter(pages.empty(shape, dtype, device), requires_grad=False)


def empty_matrix(outputs: int, inputs: int, dtype: torch.dtype, device: torch.device) -> Parameter:
    """The same for [outputs, inputs]; int8 as in ``kernels.int8``. Raises ``ValueError``."""
    shape = int8_shape(outputs, inputs) if dtype is torch.int8 else (outputs, inputs)
    return empty_weight(*shape, dtype=dtype, device=device)


def num_inputs(matrix: Tensor) -> int:
    """Of a matrix as it is stored."""
    return matrix.shape[1] - (SCALE_BYTES if matrix.dtype is torch.int8 else 0)


def store(matrix: Tensor, values: Tensor) -> None:
    """Fill a parameter, or some rows of it, with values of any type, converting on the way."""
    if matrix.dtype is torch.int8:
        quantize(values, matrix)
    else:
        matrix.copy_(values)
