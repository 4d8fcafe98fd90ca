"""Ops in torch's namespace: whose implementation runs, and that a compiled one runs no Python."""

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

from prelude.kernels import ops
from prelude.kernels.attention import append, attend, select_backend
from prelude.kernels.build import CompileError, compile_library, load_library
from prelude.kernels.linear import linear, select_linear
from prelude.kernels.ops import CpuOps, define
from tests.kernel_cases import make_case

SOURCE = """
#include "op.h"
namespace {
int64_t added = 0;
Tensor plus(const Tensor& x) {
    require(is_float(x), "plus: float32 only");
    Tensor y = torch::stable::new_empty(x, {x.numel()});
    for (int64_t i = 0; i < x.numel(); i++) mutable_floats(y)[i] = floats(x)[i] + added;
    return y;
}
Registration registration;
}
extern "C" void prelude_register(int option) {
    added = option;
    registration.begin([](StableLibrary& library) { library.impl("test_plus", TORCH_BOX(&plus)); });
}
extern "C" void prelude_unregister() { registration.end(); }
"""


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="module")
def library(cache_dir: Path) -> Any:
    header = Path(ops.__file__).parent / "cpu" / "op.h"
    (cache_dir / "op.h").write_text(header.read_text())
    source = cache_dir / "plus.cpp"
    source.write_text(SOURCE)
    return load_library(compile_library(source, cache_dir / "built"))


@pytest.fixture(scope="module")
def plus() -> CpuOps:
    define("test_plus(Tensor x) -> Tensor", lambda x: x.new_empty(x.numel()))
    return CpuOps({"test_plus": lambda x: x - 1})


@pytest.fixture(autouse=True)
def back_to_python(plus: CpuOps) -> Iterator[None]:
    yield
    plus.use_python()


def call(x: Tensor) -> list[float]:
    result: list[float] = torch.ops.prelude.test_plus(x).tolist()
    return result


def test_the_choice_is_the_last_one_and_torch_never_warns(plus: CpuOps, library: Any) -> None:
    x = torch.zeros(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call(x) == [-1, -1]
        for option in (3, 4):
            plus.use_compiled(library, option)
            assert call(x) == [option, option]
        plus.use_python()
        plus.use_python()
        assert call(x) == [-1, -1]
        plus.use_compiled(library)
        assert call(x) == [0, 0]


def test_what_cpp_refuses_is_a_value_error(plus: CpuOps, library: Any) -> None:
    plus.use_compiled(library)
    with pytest.raises(ValueError, match="float32 only"):
        call(torch.zeros(2, dtype=torch.float64))


def test_shapes_are_known_without_running(plus: CpuOps, library: Any) -> None:
    plus.use_compiled(library)
    assert torch.ops.prelude.test_plus(torch.zeros(2, 3, device="meta")).shape == (6,)


def python_calls(run: Callable[[], object]) -> list[str]:
    """Python functions of this package that were called."""
    seen: list[str] = []

    def watch(frame: FrameType, event: str, _: Any) -> None:
        name = str(frame.f_globals.get("__name__"))
        if event == "call" and name.startswith("prelude."):
            seen.append(frame.f_code.co_name)

    sys.setprofile(watch)
    try:
        run()
    finally:
        sys.setprofile(None)
    return seen


def test_compiled_kernels_run_no_python(cache_dir: Path) -> None:
    x, w = torch.randn(3, 8), torch.randn(5, 8)
    case = make_case([(2, 3), (1, 20)])
    out = torch.empty(case.q.shape)

    def step() -> None:
        append(case.k, case.v, case.kv, case.meta)
        attend(case.q, case.kv, case.meta, case.scale, out)
        linear(x, w)

    names = ["append", "attend", "linear"]
    assert python_calls(step) != names  # the functions behind the ops, too
    select_backend("cpu", cache_dir)
    select_linear("cpu", cache_dir)
    try:
        assert python_calls(step) == names
        assert "_by_torch" in python_calls(lambda: linear(x.double(), w.double()))
    finally:
        select_backend("torch")
        select_linear("torch")


def test_torch_is_part_of_a_kernels_name(
    cache_dir: Path, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = compile_library(cache_dir / "plus.cpp", cache_dir / "built")
    monkeypatch.setattr(torch, "__version__", "3.0.0")
    assert compile_library(cache_dir / "plus.cpp", cache_dir / "built") != before


def test_a_missing_symbol_is_a_compile_error(cache_dir: Path) -> None:
    source = cache_dir / "missing.cpp"
    source.write_text('extern "C" int nowhere(); extern "C" int f() { return nowhere(); }\n')
    with pytest.raises(CompileError, match="does not load"):
        load_library(compile_library(source, cache_dir))
