"""Linear layers on CPU as the custom op ``prelude::linear``: float32, weights float32 or int8.

The library multiplies a handful of rows at a third of memory speed or less. ``cpu/linear.cpp``
streams the weights, as the checkpoint has them, once, and is as fast as the library at many rows
(benchmarks/results/cpu/linear.md). One kernel for every number of rows also means that the bits
of a row do not depend on what it is batched with.
"""

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from prelude.kernels import ends
from prelude.kernels.build import CompileError, compiled
from prelude.kernels.int8 import dequantize
from prelude.kernels.ops import CpuOps, define

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
        _CPU.use_python()
        return name
    try:
        library = compiled("linear", cache_dir)
    except CompileError as error:
        if name == "cpu":
            raise
        _LOG.warning("linear layers run in plain torch, decoding is slower: %s", error)
        return select_linear("torch")
    _CPU.use_compiled(library)
    return "cpu"


def _by_torch(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """Also of what the C++ does not read: other types, inputs that are not adjacent, no rows."""
    return F.linear(x, dequantize(w) if w.dtype is torch.int8 else w, bias)


def _shape_of(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[0])


define("linear(Tensor x, Tensor w, Tensor? bias=None) -> Tensor", _shape_of)
define("linear_by_torch(Tensor x, Tensor w, Tensor? bias=None) -> Tensor", _shape_of)
_CPU = CpuOps({"linear": _by_torch, **ends.FUNCTIONS})
_BY_TORCH = CpuOps({"linear_by_torch": _by_torch})  # for the C++ to call
