"""Linear layers of few rows, the cost of decoding on CPUs, as the custom op ``prelude::linear``.

The library multiplies a handful of rows at a third of memory speed or less. ``cpu/linear.cpp``
streams the weights, as the checkpoint has them, once. Above ``MAX_ROWS`` rows arithmetic is the
limit and the library is the faster (benchmarks/results/cpu/linear.md).
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
from prelude.kernels.ops import define

BACKENDS = ("auto", "cpu", "torch")
MAX_ROWS = 64  # about where the library catches up
_LOG = logging.getLogger(__name__)


def linear(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ w.T + bias``: x [rows, inputs], w [outputs, inputs], bias [outputs]; inference only.

    Same bits for a row whatever the other rows are, as long as there are at most ``MAX_ROWS``.
    """
    result: Tensor = torch.ops.prelude.linear(x, w, bias)
    return result


def select_linear(name: str = "auto", cache_dir: Path | None = None) -> str:
    """Choose how this process multiplies few rows on CPU: "cpu" (C++) or "torch"; returns it.

    ``auto`` is cpu where it compiles, else torch with a warning; until the first call the op is
    F.linear. Raises ``ValueError`` for another name and ``CompileError`` where cpu was asked for
    and does not compile.
    """
    if name not in BACKENDS:
        raise ValueError(f"linear backend: {name!r} is not one of {', '.join(BACKENDS)}")
    if name == "torch":
        _ACTIVE.streamed = None
        return name
    try:
        _ACTIVE.streamed = StreamedLinear(cache_dir or default_cache_dir() / "kernels")
    except CompileError as error:
        if name == "cpu":
            raise
        _LOG.warning("linear layers run in plain torch, decoding is slower: %s", error)
        return select_linear("torch")
    return "cpu"


class StreamedLinear:
    """The compiled library: float32, any number of rows, made for few."""

    def __init__(self, cache_dir: Path) -> None:
        """Compile if need be, and load. Raises ``build.CompileError``."""
        source = Path(__file__).parent / "cpu" / "linear.cpp"
        self._call: Any = load_library(compile_library(source, cache_dir)).prelude_linear
        self._call.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 5 + [ctypes.c_int]
        self._call.restype = None

    def __call__(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        """x [rows, inputs], w [outputs, inputs]: float32, neighbouring inputs adjacent."""
        rows, inputs = x.shape
        y = x.new_empty(rows, w.shape[0])
        self._call(
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

    streamed: StreamedLinear | None = None

    def linear(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        few = 0 < x.shape[0] <= MAX_ROWS
        if self.streamed is None or not few or not _streamable(x, w, bias):
            return F.linear(x, w, bias)
        return self.streamed(x, w, bias)


def _streamable(x: Tensor, w: Tensor, bias: Tensor | None) -> bool:
    """Whether the C++ can read these; what it cannot, the library takes or refuses."""
    if x.dtype is not torch.float32 or w.dtype is not torch.float32:
        return False
    if x.dim() != 2 or w.dim() != 2 or x.shape[1] != w.shape[1]:
        return False
    if bias is not None and (bias.dtype is not torch.float32 or not bias.is_contiguous()):
        return False
    return x.stride(1) == 1 and w.stride(1) == 1


def _shape_of(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[0])


_ACTIVE = _Active()
define("linear(Tensor x, Tensor w, Tensor? bias=None) -> Tensor", _shape_of, _ACTIVE.linear)
