"""Paged attention on NVIDIA GPUs by FlashInfer: planned on the host, run inside CUDA graphs.

FlashInfer splits the rows of a launch over the GPU by a schedule that the host computes before the
launch. A captured graph is therefore planned again before every replay, and reads the new schedule
from where the captured one was. FlashInfer is imported here and only when this backend is built.
"""

import logging
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from packaging.specifiers import SpecifierSet
from torch import Tensor

from prelude.kernels.build import CompileError
from prelude.kernels.flashinfer_batch import NO_ROWS, HostRows
from prelude.kernels.flashinfer_buckets import (
    AttentionShape,
    Bucket,
    DecodeBucket,
    PrefillBucket,
)
from prelude.kernels.flashinfer_programs import (
    FA3_TOKENS,
    CapturedProgram,
    ExactProgram,
    Program,
    choose_backend,
)
from prelude.kernels.flashinfer_staging import Lane
from prelude.kernels.flashinfer_workspace import HeadShape, workspace_bytes

PREFILL_BACKENDS = ("auto", "fa2", "fa3")
LaunchShape = tuple[str, int, int]  # kind, tokens, rows
_KINDS = ("decode", "prefill", "exact")
_HEAD_DIMS = (64, 128, 256)
_DTYPES = (torch.bfloat16, torch.float16)
_HOPPER = 9
_VERSIONS = SpecifierSet(">=0.6.9,<0.7")
_INSTALL = "pip install 'prelude-llm[cuda]', or choose attention.backend=triton"
_PREBUILT = (
    "install flashinfer-jit-cache of the same version, or put nvcc and ninja on the PATH and unset "
    "FLASHINFER_DISABLE_JIT to build them once, in minutes"
)
_LOG = logging.getLogger(__name__)


class FlashInferAttention:
    """Attention of a model's launches on one device.

    ``plan`` every launch before it runs, outside the graph; call ``attend`` once per layer inside.
    All of it, construction included, belongs to the stream that runs the launches. A shape is
    (kind, tokens, rows); ``shapes`` are those that will be captured. ``row_blocks`` is the most
    blocks that one row can have. ``scale`` multiplies the scores, by default ``head_dim ** -0.5``.
    ``prefill_backend`` ``auto`` is ``fa3`` for long launches on Hopper, else ``fa2``.

    Raises ``ValueError`` for what FlashInfer cannot do or where it is not installed,
    ``CompileError`` where its kernels are neither prebuilt nor can be built.
    """

    def __init__(
        self,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        windows: tuple[int, ...] = (0,),
        shapes: Sequence[LaunchShape],
        max_rows: int,
        max_tokens: int,
        row_blocks: int,
        scale: float | None = None,
        prefill_backend: str = "fa2",
    ) -> None:
        heads = HeadShape(num_heads, num_kv_heads, head_dim)
        _check(heads, dtype, prefill_backend)
        self._library = _load()
        hardware = torch.cuda.get_device_properties(device)
        if prefill_backend == "auto" and (hardware.major != _HOPPER or max_tokens < FA3_TOKENS):
            prefill_backend = "fa2"
        self._prefill_backend = prefill_backend
        self._shape = AttentionShape(heads, block_size, dtype, scale or head_dim**-0.5)
        self._shapes = set(shapes)
        sizes = [(tokens, rows + (kind != "decode")) for kind, tokens, rows in shapes]
        self.workspace_bytes = workspace_bytes(heads, hardware.multi_processor_count, sizes)
        self._workspace = torch.zeros(self.workspace_bytes, dtype=torch.uint8, device=device)
        max_pages = max_rows * row_blocks + -(-max_tokens // block_size)
        self._lanes = {kind: Lane(max_rows + 1, max_pages, windows, device) for kind in _KINDS}
        self._captured: dict[LaunchShape, CapturedProgram] = {}
        self._exact = self._load_kernels()
        self._active: Program = self._exact

    def prepare(self, shape: LaunchShape) -> None:
        """Make ``shape`` ready for warm-up and capture, with a dummy launch planned."""
        self._activate(self._program(shape), NO_ROWS)

    def plan(
        self, shape: LaunchShape | None, cu_q: np.ndarray, ctx_lens: np.ndarray, tables: np.ndarray
    ) -> None:
        """Enqueue the schedule of a launch: of a shape, or of any size for ``None``.

        ``cu_q`` [rows + 1], ``ctx_lens`` [rows] and ``tables`` [rows, width] are int32 and may be
        changed once this returns. Rows and tokens that a shape lacks are padded here. Raises
        ``ValueError`` for a shape that this was not built for and for rows that do not fit.
        """
        program = self._exact if shape is None else self._program(shape)
        self._activate(program, HostRows(cu_q, ctx_lens, tables))

    def attend(
        self,
        q: Tensor,
        kv: Tensor,
        cu_q: Tensor,
        ctx_lens: Tensor,
        block_tables: Tensor,
        scale: float,
        window: int,
        out: Tensor,
    ) -> None:
        """``prelude::attend`` for the launch planned last, whose rows the tensors repeat.

        ``q`` and ``out`` are exactly the bucket's tokens long; tokens of no row get finite values.
        """
        if scale != self._shape.scale or kv.shape[2] != self._shape.block_size:
            raise ValueError(f"planned for {self._shape}, got scale {scale}, kv {kv.shape}")
        self._active.run(window, q, kv, out)

    def _activate(self, program: Program, rows: HostRows) -> None:
        program.plan(rows)
        self._active = program

    def _program(self, shape: LaunchShape) -> CapturedProgram:
        program = self._captured.get(shape)
        if program is None:
            if shape not in self._shapes:
                raise ValueError(f"attention was not built for {shape}")
            program = self._captured[shape] = self._capture(*shape)
        return program

    def _capture(self, kind: str, num_tokens: int, num_rows: int) -> CapturedProgram:
        if kind == "decode":
            bucket: Bucket = DecodeBucket(self._shape, num_rows)
        else:
            backend = choose_backend(self._prefill_backend, num_tokens)
            bucket = PrefillBucket(self._shape, num_rows, num_tokens, backend)
        lane = self._lanes["decode" if kind == "decode" else "prefill"]
        return CapturedProgram(self._library, bucket, self._shape.block_size, self._workspace, lane)

    def _load_kernels(self) -> ExactProgram:
        """Every kernel that a launch can need, so that none is compiled while requests wait."""
        start = time.perf_counter()
        shape, workspace, lane = self._shape, self._workspace, self._lanes["exact"]
        try:
            exact = ExactProgram(self._library, shape, workspace, lane, self._prefill_backend)
            for decode in sorted(shape for shape in self._shapes if shape[0] == "decode")[-1:]:
                self._program(decode)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, OSError) as error:
            what = str(error).partition("\n")[0]
            raise CompileError(f"FlashInfer has no kernels ({what}): {_PREBUILT}") from error
        _LOG.info("FlashInfer kernels loaded in %.1f s", time.perf_counter() - start)
        return exact


def unsupported(head_dim: int, dtype: torch.dtype) -> str:
    """What FlashInfer has no kernels for, or nothing."""
    if head_dim not in _HEAD_DIMS:
        return f"head_dim {head_dim}"
    return "" if dtype in _DTYPES else str(dtype)


def _check(heads: HeadShape, dtype: torch.dtype, prefill_backend: str) -> None:
    if prefill_backend not in PREFILL_BACKENDS:
        raise ValueError(f"{prefill_backend!r} is not one of {', '.join(PREFILL_BACKENDS)}")
    if what := unsupported(heads.head_dim, dtype):
        raise ValueError(f"FlashInfer has no kernels for {what}; choose attention.backend=triton")


def _load() -> Any:
    """The library, or an error that says how to get it."""
    try:
        library = import_module("flashinfer")
    except ImportError as error:
        raise ValueError(f"FlashInfer cannot be imported ({error}): {_INSTALL}") from error
    if not _VERSIONS.contains(library.__version__):
        raise ValueError(f"FlashInfer {library.__version__} is not {_VERSIONS}: {_INSTALL}")
    return library
