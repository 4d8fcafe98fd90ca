"""The one door to matrix products, so that packed or quantised weights can take its place."""

import torch
from torch import Tensor

from prelude.kernels import linear as kernel


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x [tokens, in] @ weight [out, in].T + bias [out]``, in the dtype of ``x``."""
    return kernel.linear(x, weight, bias)


def empty_weight(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.nn.Parameter:
    """An uninitialised inference parameter; ``loading.py`` fills it."""
    return torch.nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)
