"""The door to matrix products: what goes in, what comes out, and that compiled code keeps it."""

import pytest
import torch

from prelude.models.linear import empty_weight, linear

CPU = torch.device("cpu")


@pytest.mark.parametrize("tokens", [0, 1, 3])
@pytest.mark.parametrize("has_bias", [False, True])
def test_linear_is_x_times_weight_transposed(tokens: int, has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, 5, generator=generator)
    weight = torch.randn(7, 5, generator=generator)
    bias = torch.randn(7, generator=generator) if has_bias else None
    expected = (x.double() @ weight.double().T + (0 if bias is None else bias.double())).float()
    torch.testing.assert_close(linear(x, weight, bias), expected)


def test_strided_input_and_type() -> None:
    wide = torch.randn(4, 10, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    weight = torch.eye(5, dtype=torch.bfloat16)
    out = linear(wide[:, ::2], weight)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, wide[:, ::2])


def test_empty_weight_is_an_inference_parameter() -> None:
    weight = empty_weight(3, 4, dtype=torch.float16, device=CPU)
    assert isinstance(weight, torch.nn.Parameter)
    assert (weight.shape, weight.dtype, weight.requires_grad) == ((3, 4), torch.float16, False)
