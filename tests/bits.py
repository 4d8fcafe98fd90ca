"""Equal bits, of kernels that run on a device or in Triton's interpreter."""

from functools import cache

import numpy as np
import torch
from torch import Tensor


def assert_same_bits(got: Tensor, wanted: Tensor) -> None:
    """The interpreter multiplies with numpy. Where this processor's numpy gives a row other bits at
    another place, values count."""
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    if got.device.type != "cpu" or _rows_keep_their_bits():
        assert torch.equal(got, wanted)


@cache
def _rows_keep_their_bits() -> bool:
    rng = np.random.default_rng(0)
    for rows, inputs, outputs in ((16, 64, 16), (16, 64, 64), (64, 16, 64), (64, 64, 32)):
        x = rng.standard_normal((rows, inputs), dtype=np.float32)
        for w in (
            rng.standard_normal((inputs, outputs), dtype=np.float32),
            rng.standard_normal((outputs, inputs), dtype=np.float32).T,
        ):
            whole = x @ w
            moved = [np.roll(np.roll(x, by, 0) @ w, -by, 0) for by in range(1, rows)]
            if not all((part == whole).all() for part in moved):
                return False
    return True
