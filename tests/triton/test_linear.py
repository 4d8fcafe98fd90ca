"""Linear layers of few rows in Triton against float64, and every row against itself alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prelude.kernels.triton.linear import MAX_ROWS, gemv, linear_few
from tests.bits import assert_same_bits

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3}
DTYPES = list(TOLERANCE)


def randn(device: torch.device, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).to(device, dtype)


def close(got: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[got.dtype]
    torch.testing.assert_close(got.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "inputs"), [(16, 512), (30, 1000), (7, 24)])
@pytest.mark.parametrize("extras", [False, True])
def test_gemv(
    device: torch.device, dtype: torch.dtype, outputs: int, inputs: int, extras: bool
) -> None:
    x = randn(device, 1, inputs, dtype=dtype)
    w = randn(device, outputs, inputs + 8, dtype=dtype)[:, :inputs] / 16
    bias = randn(device, outputs, dtype=dtype) if extras else None
    residual = randn(device, 1, outputs, dtype=dtype) if extras else None
    expected = x.double() @ w.double().T
    if bias is not None and residual is not None:
        expected = expected + bias + residual
    close(gemv(x, w, bias, residual), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gemv_of_a_gate(device: torch.device, dtype: torch.dtype) -> None:
    gate_up = randn(device, 1, 2 * 600, dtype=dtype)
    w = randn(device, 12, 600, dtype=dtype) / 16
    gate, up = gate_up.double().chunk(2, dim=1)
    close(gemv(gate_up, w, silu_mul=True), F.silu(gate) * up @ w.double().T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 5, MAX_ROWS])
@pytest.mark.parametrize(("outputs", "inputs"), [(70, 256), (40, 2100), (32, 4096)])
@pytest.mark.parametrize("extras", [False, True])
def test_few_rows(
    device: torch.device, dtype: torch.dtype, rows: int, outputs: int, inputs: int, extras: bool
) -> None:
    x = randn(device, rows, inputs, dtype=dtype)
    w = randn(device, outputs, inputs, dtype=dtype) / 32
    bias = randn(device, outputs, dtype=dtype) if extras else None
    residual = randn(device, rows, outputs + 2, dtype=dtype)[:, 2:] if extras else None
    expected = x.double() @ w.double().T
    if bias is not None and residual is not None:
        expected = expected + bias + residual
    close(linear_few(x, w, bias, residual), expected)


def test_a_row_does_not_depend_on_the_others(device: torch.device) -> None:
    x, w = randn(device, 9, 2048), randn(device, 40, 2048)
    together = linear_few(x, w)
    assert torch.equal(together, linear_few(x, w))  # the counters are ready again
    for row in range(9):
        assert_same_bits(linear_few(x[row : row + 1], w)[0], together[row])
