"""The streamed linear against float64, bit for bit across batches, and its place in torch."""

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
from prelude.kernels.linear import MAX_ROWS, linear, select_linear

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
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


def check(x: Tensor, w: Tensor, bias: Tensor | None) -> None:
    expected = F.linear(x.double(), w.double(), None if bias is None else bias.double())
    torch.testing.assert_close(linear(x, w, bias).double(), expected, atol=1e-5, rtol=1e-4)


@given(
    rows=st.integers(1, MAX_ROWS + 2),
    outputs=st.sampled_from([1, 2, 11, 12, 13, 25, 100]),
    inputs=st.sampled_from([1, 7, 8, 15, 16, 17, 64, 100, 257]),
    has_bias=st.booleans(),
    seed=st.integers(0, 100),
)
def test_any_shape(rows: int, outputs: int, inputs: int, has_bias: bool, seed: int) -> None:
    x, w, bias = problem(rows, outputs, inputs, seed)
    check(x, w, bias if has_bias else None)


@pytest.mark.parametrize("shape", [(500, 1024), (96, 3072), (50, 12000)])
@pytest.mark.parametrize("rows", [1, 4, 9])
def test_shapes_of_several_strips(rows: int, shape: tuple[int, int]) -> None:
    check(*problem(rows, *shape))


def test_strided_rows() -> None:
    x, w, bias = problem(5, 40, 96)
    check(x[:, 16:80], w[:, 16:80], bias)
    check(x[::2, :64], w[::3, :64], bias[: len(w[::3])])


def test_what_the_library_must_take() -> None:
    x, w, _ = problem(6, 8, 6)
    check(x.t(), w[:, :6].contiguous(), None)  # inputs not adjacent
    assert linear(x.bfloat16(), w.bfloat16()).dtype is torch.bfloat16
    assert linear(x[:0], w).shape == (0, 8)
    assert linear(x.double(), w.double()).dtype is torch.float64


def test_wrong_shapes_are_refused() -> None:
    x, w, _ = problem(2, 8, 6)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear(x, w[:, :5])


@pytest.mark.parametrize("rows", [2, 3, 4, 5, 7, 16, MAX_ROWS])
def test_a_rows_bits_do_not_depend_on_batch_or_threads(rows: int) -> None:
    x, w, bias = problem(rows, 3000, 260)
    together = linear(x, w, bias)
    for i in range(rows):
        assert torch.equal(linear(x[i : i + 1], w, bias)[0], together[i])
    torch.set_num_threads(2)
    assert torch.equal(linear(x, w, bias), together)
    torch.set_num_threads(1)


def test_above_the_threshold_it_is_the_library() -> None:
    x, w, bias = problem(MAX_ROWS + 1, 40, 64)
    assert torch.equal(linear(x, w, bias), F.linear(x, w, bias))


def test_compiles_whole_for_any_number_of_rows() -> None:
    torch._dynamo.reset()
    w, bias = problem(1, 24, 64)[1:]
    compiled = torch.compile(lambda x: torch.relu(linear(x * 2, w, bias)), fullgraph=True)
    for rows in (3, 5, MAX_ROWS + 8):
        x = problem(rows, 24, 64, seed=rows)[0]
        torch.testing.assert_close(compiled(x), torch.relu(F.linear(x * 2, w, bias)))


def test_opcheck() -> None:
    x, w, bias = problem(3, 24, 64)
    torch.library.opcheck(torch.ops.prelude.linear, (x, w, bias))
    torch.library.opcheck(torch.ops.prelude.linear, (x, w, None))


def test_choosing(streamed: Path) -> None:
    x, w, bias = problem(2, 1000, 260)
    assert select_linear("torch") == "torch"
    assert torch.equal(linear(x, w, bias), F.linear(x, w, bias))
    assert select_linear("auto", streamed) == "cpu"
    check(x, w, bias)
    with pytest.raises(ValueError, match="auto, cpu, torch"):
        select_linear("onednn")


def test_auto_without_a_compiler_warns_and_runs_torch(
    streamed: Path,
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
    select_linear("cpu", streamed)
