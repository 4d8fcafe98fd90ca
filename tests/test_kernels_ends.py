"""Embedding, rotary tables and final norm: the C++ beside plain torch, and what it refuses."""

from collections.abc import Iterator

import pytest
import torch

from prelude.kernels import ends, fused
from prelude.kernels.build import CompileError
from prelude.kernels.int8 import int8_shape, quantize
from prelude.kernels.linear import select_linear


@pytest.fixture(autouse=True)
def compiled() -> Iterator[None]:
    try:
        select_linear("cpu")
    except CompileError:
        pytest.skip("no C++ compiler")
    yield
    select_linear("torch")


def int8(values: torch.Tensor) -> torch.Tensor:
    matrix = torch.empty(int8_shape(*values.shape), dtype=torch.int8)
    quantize(values, matrix)
    return matrix


@pytest.mark.parametrize("tokens", [0, 1, 7])
def test_rows_of_a_matrix(tokens: int) -> None:
    values = torch.randn(50, 36, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(tokens) * 8 + 1
    assert torch.equal(ends.embed(ids, values), values[ids])
    assert torch.equal(ends.embed(ids, int8(values)), ends._embed(ids, int8(values)))


def test_what_the_kernel_does_not_read_is_left_to_torch() -> None:
    values = torch.randn(9, 8)
    found = ends.embed(torch.tensor([8, 2]), values.bfloat16())
    assert torch.equal(found, values[[8, 2]].bfloat16())
    assert torch.equal(ends.embed(torch.tensor([8, 2], dtype=torch.int32), values), values[[8, 2]])
    x = torch.randn(3, 8).bfloat16()
    ones = torch.ones(8, dtype=torch.bfloat16)
    assert torch.equal(ends.final_norm(x, ones, 1e-6), fused.rms_norm(x, ones, 1e-6))


@pytest.mark.parametrize("token_id", [-1, 9])
def test_an_id_without_a_row_is_refused(token_id: int) -> None:
    with pytest.raises(ValueError, match="an id is out of range"):
        ends.embed(torch.tensor([3, token_id]), torch.randn(9, 8))


@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_tables_are_right_to_the_last_bits_far_into_a_context(factor: float) -> None:
    inv_freq = 1.0 / 1e6 ** (torch.arange(0, 64, 2) / 64)
    positions = torch.tensor([0, 1, 511, 32_768, 131_071])
    angles = (positions.float()[:, None] * inv_freq).double()
    cos, sin = ends.rope_tables(positions, inv_freq, factor)
    assert cos.shape == sin.shape == (5, 64) and cos.dtype == sin.dtype == torch.float32
    for found, exact in ((cos, angles.cos()), (sin, angles.sin())):
        wanted = (exact * factor).repeat(1, 2).float()
        torch.testing.assert_close(found, wanted, atol=2e-7, rtol=2e-7)
        assert torch.equal(found[:, :32], found[:, 32:])
    for found, plain in zip(
        (cos, sin), ends._rope_tables(positions, inv_freq, factor), strict=True
    ):
        torch.testing.assert_close(found, plain, atol=3e-7, rtol=3e-7)


@pytest.mark.parametrize("shape", [(0, 16), (1, 5), (9, 192)])
def test_the_final_norm_is_that_of_the_layers(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(*s, generator=generator) for s in (shape, shape[1:]))
    torch.testing.assert_close(
        ends.final_norm(x, weight, 1e-5), fused.rms_norm(x, weight, 1e-5), atol=1e-6, rtol=1e-6
    )


def test_bits_do_not_depend_on_the_batch() -> None:
    x, weight = torch.randn(11, 70), torch.randn(70)
    positions, inv_freq = torch.arange(11) * 999, torch.rand(21)
    whole, tables = ends.final_norm(x, weight, 1e-6), ends.rope_tables(positions, inv_freq, 1.0)
    for i in range(11):
        assert torch.equal(ends.final_norm(x[i : i + 1], weight, 1e-6)[0], whole[i])
        alone = ends.rope_tables(positions[i : i + 1], inv_freq, 1.0)
        assert all(torch.equal(a[0], t[i]) for a, t in zip(alone, tables, strict=True))


def test_other_shapes_and_types_are_named() -> None:
    with pytest.raises(ValueError, match="rms_norm: x must be float32"):
        torch.ops.prelude.rms_norm(torch.randn(2, 8), torch.ones(7), 1e-6)
    with pytest.raises(ValueError, match="inv_freq must be float32"):
        ends.rope_tables(torch.arange(3), torch.rand(4).double(), 1.0)
    with pytest.raises(ValueError, match="ids must be int64"):
        torch.ops.prelude.embed(torch.zeros(1, 2, dtype=torch.int64), torch.randn(3, 8))
