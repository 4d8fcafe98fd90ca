"""The matrix product that keeps rows apart: right, and the same bits for a row in any company."""

import pytest
import torch
from torch import Tensor

from prelude.kernels.triton.gemm import linear_invariant
from tests.bits import assert_same_bits


def data(rows: int, outputs: int, inputs: int, device: torch.device) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(rows)
    shapes = (rows, inputs), (outputs, inputs), (outputs,), (rows, outputs)
    return tuple(torch.randn(s, generator=generator).to(device) for s in shapes)


@pytest.mark.parametrize("rows", [1, 3, 70])
@pytest.mark.parametrize("extras", [False, True])
def test_product(rows: int, extras: bool, device: torch.device) -> None:
    x, weight, bias, residual = data(rows, 80, 72, device)
    got = (
        linear_invariant(x, weight, bias, residual) if extras else linear_invariant(x, weight, None)
    )
    wanted = x.double() @ weight.double().T
    if extras:
        wanted = wanted + bias.double() + residual.double()
    torch.testing.assert_close(got.double(), wanted, atol=1e-4, rtol=1e-4)


def test_strided_rows(device: torch.device) -> None:
    x, weight, _, _ = data(5, 16, 64, device)
    wide = torch.cat((x, x), dim=1)
    assert torch.equal(
        linear_invariant(wide[:, :64], weight, None), linear_invariant(x, weight, None)
    )


def test_a_row_has_the_same_bits_in_any_company(device: torch.device) -> None:
    x, weight, bias, _ = data(130, 64, 200, device)
    together = linear_invariant(x, weight, bias)
    for rows in (slice(0, 1), slice(64, 66), slice(7, 129)):
        assert_same_bits(linear_invariant(x[rows], weight, bias), together[rows])
