"""Linear layers on CPU as the custom op ``prelude::linear``: float32, weights float32 or int8.

The library multiplies a handful of rows at a third of memory speed or less. ``cpu/linear.cpp``
streams the weights, as the checkpoint has them, once, and is as fast as the library at many rows
(benchmarks/results/cpu/linear.md). One kernel for every number of rows also means that the bits
of a row do not depend on what it is batched with.
"""

import ctypes
import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prelude.kernels.build import (
    CompileError,
    compile_library,
    default_cache_dir,
    load_library,
)
from prelude.kernels.int8 import SCALE_BYTES, dequantize
from prelude.kernels.ops import define

BACKENDS = ("auto", "cpu", "torch")
_LOG = logging.getLogger(__name__)


def linear(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ w.T + bias``: x [rows, inputs], bias [outputs], w [outputs, inputs] or, as int8,
    [outputs, inputs + 4] (``kernels.int8``); inference only.

    With the C++ kernel a row's bits are the same whatever the other rows and the threads are.
    """
    result: Tensor = torch.ops.prelude.linear(x, w, bias)
    return result


def select_linear(name: str = "auto", cache_dir: Path | None = None) -> str:
    """Choose how this process multiplies on CPU: "cpu" (C++) or "torch"; returns it.

    ``auto`` is cpu where it compiles, else torch with a warning; until the first call the op is
    F.linear. Raises ``ValueError`` for another name and ``CompileError`` where cpu was asked for
    and does not compile.
    """
    if name not in BACKENDS:
        raise ValueError(f"linear backend: {name!r} is not one of {', '.join(BACKENDS)}")
    if name == "torch":
        _ACTIVE.kernel = None
        return name
    try:
        _ACTIVE.kernel = CpuLinear(cache_dir or default_cache_dir() / "kernels")
    except CompileError as error:
        if name == "cpu":
            raise
        _LOG.warning("linear layers run in plain torch, decoding is slower: %s", error)
        return select_linear("torch")
    return "cpu"


class CpuLinear:
    """The compiled library: any number of rows, at least one."""

    def __init__(self, cache_dir: Path) -> None:
        """Compile if need be, and load. Raises ``build.CompileError``."""
        source = Path(__file__).parent / "cpu" / "linear.cpp"
        library = load_library(compile_library(source, cache_dir))
        self._float32: Any = library.prelude_linear
        self._int8: Any = library.prelude_linear_int8
        for call in (self._float32, self._int8):
            call.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 5 + [ctypes.c_int]
            call.restype = None

    def __call__(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        """x and w with neighbouring inputs adjacent."""
        call = self._int8 if w.dtype is torch.int8 else self._float32
        rows, inputs = x.shape
        y = x.new_empty(rows, w.shape[0])
        call(
            x.data_ptr(),
            w.data_ptr(),
            None if bias is None else bias.data_ptr(),
            y.data_ptr(),
            rows,
            w.shape[0],
            inputs,
            x.stride(0),
            w.stride(0),
            torch.get_num_threads(),
        )
        return y


class _Active:
    """The process's choice; the op is registered with torch once per process."""

    kernel: CpuLinear | None = None

    def linear(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.kernel is None or not _readable(x, w, bias):
            return F.linear(x, dequantize(w) if w.dtype is torch.int8 else w, bias)
        return self.kernel(x, w, bias)


def _readable(x: Tensor, w: Tensor, bias: Tensor | None) -> bool:
    """Whether the C++ can read these; what it cannot, the library takes or refuses."""
    if x.dtype is not torch.float32 or w.dtype not in (torch.float32, torch.int8):
        return False
    scales = SCALE_BYTES if w.dtype is torch.int8 else 0
    if x.dim() != 2 or w.dim() != 2 or x.shape[1] != w.shape[1] - scales or not x.numel():
        return False
    if bias is not None and (bias.dtype is not torch.float32 or not bias.is_contiguous()):
        return False
    return x.stride(1) == 1 and w.stride(1) == 1


def _shape_of(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[0])


_ACTIVE = _Active()
define("linear(Tensor x, Tensor w, Tensor? bias=None) -> Tensor", _shape_of, _ACTIVE.linear)
