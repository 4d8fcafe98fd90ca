"""How a decoder's parameters are made, filled and looked up, as float32 and as int8."""

import pytest
import torch

from prelude.kernels.ends import embed
from prelude.models.linear import empty_matrix, empty_weight, num_inputs, store

CPU = torch.device("cpu")


def test_empty_weight_is_an_inference_parameter() -> None:
    weight = empty_weight(3, 4, dtype=torch.float16, device=CPU)
    assert isinstance(weight, torch.nn.Parameter)
    assert (weight.shape, weight.dtype, weight.requires_grad) == ((3, 4), torch.float16, False)


@pytest.mark.parametrize(("dtype", "width"), [(torch.bfloat16, 8), (torch.int8, 12)])
def test_empty_matrix(dtype: torch.dtype, width: int) -> None:
    matrix = empty_matrix(3, 8, dtype, CPU)
    assert (matrix.shape, matrix.dtype, num_inputs(matrix)) == ((3, width), dtype, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_rows_are_stored_and_looked_up(dtype: torch.dtype) -> None:
    values = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    matrix = empty_matrix(6, 16, dtype, CPU)
    store(matrix.data[:2], values[:2].bfloat16())
    store(matrix.data[2:], values[2:])
    found = embed(torch.tensor([5, 0, 5]), matrix)
    assert (found.shape, found.dtype) == ((3, 16), torch.float32)
    torch.testing.assert_close(found, values[[5, 0, 5]], atol=2e-2, rtol=0)
    assert torch.equal(found[0], found[2])
