"""Equal bits, where the device makes them."""

import torch
from torch import Tensor


def assert_same_bits(got: Tensor, wanted: Tensor) -> None:
    """Triton's interpreter multiplies with numpy: on some processors its bits depend on where a row
    lies, so on CPU values count."""
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert got.device.type == "cpu" or torch.equal(got, wanted)
