"""Rounding matrices to int8: how far off, what a row holds, and how little memory it takes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prelude.kernels import int8
from prelude.kernels.int8 import dequantize, int8_shape, quantize


@given(
    rows=st.integers(1, 9),
    inputs=st.sampled_from([4, 8, 20, 64]),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 50),
)
def test_a_value_is_off_by_at_most_half_a_step(
    rows: int, inputs: int, scale: float, dtype: torch.dtype, seed: int
) -> None:
    w = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(seed)).mul(scale)
    w = w.to(dtype)
    out = torch.empty(int8_shape(rows, inputs), dtype=torch.int8)
    quantize(w, out)
    step = w.float().abs().amax(dim=1, keepdim=True) / 127
    assert bool(((dequantize(out) - w.float()).abs() <= 0.5001 * step).all())
    assert int(out[:, :inputs].abs().max()) == 127


def test_what_can_be_held_exactly_is() -> None:
    w = torch.tensor([[127.0, -3.0, 0.0, 5.0], [0.0, 0.0, 0.0, 0.0], [-254.0, 2.0, 4.0, 6.0]])
    out = torch.empty(int8_shape(3, 4), dtype=torch.int8)
    quantize(w, out)
    assert torch.equal(dequantize(out), w)


def test_parts_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    w = torch.randn(11, 8, generator=torch.Generator().manual_seed(0))
    whole, parts = (torch.empty(int8_shape(11, 8), dtype=torch.int8) for _ in range(2))
    quantize(w, whole)
    monkeypatch.setattr(int8, "_AT_ONCE", 20)
    quantize(w, parts)
    assert torch.equal(whole, parts)


def test_rows_must_leave_their_scale_aligned() -> None:
    assert int8_shape(5, 8) == (5, 12)
    with pytest.raises(ValueError, match=r"multiple of 4; set model\.weights=auto"):
        int8_shape(5, 6)
