"""The linear kernel against float64, bit for bit across batches, and its place in torch."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prelude.kernels import build
from prelude.kernels import linear as module
from prelude.kernels.int8 import dequantize, int8_shape, quantize
from prelude.kernels.linear import linear, select_linear

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    cache_dir = tmp_path_factory.mktemp("kernels")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert select_linear("cpu", cache_dir) == "cpu"
    yield cache_dir
    select_linear("torch")
    torch.set_num_threads(threads)


def problem(rows: int, outputs: int, inputs: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=generator)
    w = torch.randn(outputs, inputs, generator=generator) * inputs**-0.5
    return x, w, torch.randn(outputs, generator=generator)


def rounded(w: Tensor) -> Tensor:
    out = torch.empty(int8_shape(*w.shape), dtype=torch.int8)
    quantize(w, out)
    return out


def check(x: Tensor, w: Tensor, bias: Tensor | None) -> None:
    wide = (dequantize(w) if w.dtype is torch.int8 else w).double()
    expected = F.linear(x.double(), wide, None if bias is None else bias.double())
    torch.testing.assert_close(linear(x, w, bias).double(), expected, atol=1e-5, rtol=1e-4)


@given(
    rows=st.integers(1, 18),
    outputs=st.sampled_from([1, 2, 11, 12, 13, 25, 100]),
    inputs=st.sampled_from([1, 7, 8, 15, 16, 17, 64, 100, 257]),
    has_bias=st.booleans(),
    seed=st.integers(0, 100),
)
def test_any_shape(rows: int, outputs: int, inputs: int, has_bias: bool, seed: int) -> None:
    x, w, bias = problem(rows, outputs, inputs, seed)
    check(x, w, bias if has_bias else None)


@given(
    rows=st.integers(1, 18),
    outputs=st.sampled_from([1, 11, 25, 100]),
    inputs=st.sampled_from([4, 12, 16, 20, 64, 100, 256]),
    has_bias=st.booleans(),
    seed=st.integers(0, 100),
)
def test_int8_of_any_shape(rows: int, outputs: int, inputs: int, has_bias: bool, seed: int) -> None:
    x, w, bias = problem(rows, outputs, inputs, seed)
    check(x, rounded(w), bias if has_bias else None)


@pytest.mark.parametrize("shape", [(500, 1024), (96, 3072), (50, 12000)])
@pytest.mark.parametrize("rows", [1, 4, 9])
def test_shapes_of_several_strips(rows: int, shape: tuple[int, int]) -> None:
    x, w, bias = problem(rows, *shape)
    check(x, w, bias)
    check(x, rounded(w), bias)


def test_more_rows_than_a_block_of_them() -> None:
    x, w, bias = problem(1100, 70, 48)
    check(x, w, bias)
    check(x, rounded(w), bias)


def test_strided_rows() -> None:
    x, w, bias = problem(5, 40, 96)
    check(x[:, 16:80], w[:, 16:80], bias)
    check(x[::2, :64], w[::3, :64], bias[: len(w[::3])])
    check(x[::2], rounded(w)[::3], bias[: len(w[::3])])


def test_what_the_library_must_take() -> None:
    x, w, _ = problem(6, 8, 6)
    check(x.t(), w[:, :6].contiguous(), None)  # inputs not adjacent
    assert linear(x.bfloat16(), w.bfloat16()).dtype is torch.bfloat16
    assert linear(x[:0], w).shape == (0, 8)
    assert linear(x.double(), w.double()).dtype is torch.float64


def test_wrong_shapes_are_refused() -> None:
    x, w, _ = problem(2, 8, 8)
    for wrong in (w[:, :5], rounded(w[:, :4])):
        with pytest.raises(ValueError, match="shapes cannot be multiplied"):
            linear(x, wrong)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("rows", [2, 3, 4, 5, 7, 16, 65, 514])
def test_a_rows_bits_do_not_depend_on_batch_or_threads(rows: int, int8: bool) -> None:
    x, w, bias = problem(rows, 601, 260)
    w = rounded(w) if int8 else w
    together = linear(x, w, bias)
    for i in range(rows):
        assert torch.equal(linear(x[i : i + 1], w, bias)[0], together[i])
    assert torch.equal(linear(x[1:], w, bias), together[1:])
    torch.set_num_threads(2)
    assert torch.equal(linear(x, w, bias), together)
    torch.set_num_threads(1)


@pytest.mark.parametrize("int8", [False, True])
def test_compiles_whole_for_any_number_of_rows(int8: bool) -> None:
    torch._dynamo.reset()
    w, bias = problem(1, 24, 64)[1:]
    stored = rounded(w) if int8 else w
    wide = dequantize(stored) if int8 else w
    compiled = torch.compile(lambda x: torch.relu(linear(x * 2, stored, bias)), fullgraph=True)
    for rows in (3, 5, 72):
        x = problem(rows, 24, 64, seed=rows)[0]
        torch.testing.assert_close(compiled(x), torch.relu(F.linear(x * 2, wide, bias)))


def test_opcheck() -> None:
    x, w, bias = problem(3, 24, 64)
    for stored in (w, rounded(w)):
        torch.library.opcheck(torch.ops.prelude.linear, (x, stored, bias))
        torch.library.opcheck(torch.ops.prelude.linear, (x, stored, None))


def test_choosing(compiled: Path) -> None:
    x, w, bias = problem(2, 1000, 260)
    assert select_linear("torch") == "torch"
    assert torch.equal(linear(x, w, bias), F.linear(x, w, bias))
    assert torch.equal(linear(x, rounded(w)), F.linear(x, dequantize(rounded(w))))
    assert select_linear("auto", compiled) == "cpu"
    check(x, w, bias)
    with pytest.raises(ValueError, match="auto, cpu, torch"):
        select_linear("onednn")


def test_auto_without_a_compiler_warns_and_runs_torch(
    compiled: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(build, "_COMPILERS", ("no-such-compiler",))
    with caplog.at_level(logging.WARNING, logger=module.__name__):
        assert select_linear("auto", tmp_path) == "torch"
    assert "install g++" in caplog.text
    with pytest.raises(build.CompileError, match="install g\\+\\+"):
        select_linear("cpu", tmp_path)
    monkeypatch.undo()
    select_linear("cpu", compiled)
