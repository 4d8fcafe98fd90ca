"""Paged attention in C++ (``cpu/attention.cpp``), called with plain pointers through ctypes."""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prelude.kernels.build import compile_library, load_library

_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_APPEND_TYPES = [_POINTER] * 4 + [_LONG] * 2 + [_INT] * 3 + [_LONG] * 4 + [_INT]
_ATTEND_TYPES = (
    [_POINTER] * 6
    + [_LONG] * 2
    + [_INT] * 2
    + [_LONG]
    + [_INT] * 4
    + [_LONG] * 4
    + [ctypes.c_float]
    + [_INT] * 3
)
_ERRORS = {
    1: "cu_q: must start at 0, never fall, and end within the tokens of q",
    2: "ctx_lens: must be at least the row's new tokens and fit the row's block table",
    3: "block_tables: a block id within the row's context is not in the KV pool",
    4: "slot_mapping: a slot is not in the KV pool",
}


class CpuAttention:
    """The compiled library; its methods implement the ops ``prelude::append`` and ``attend``."""

    def __init__(self, cache_dir: Path, invariant: bool = False) -> None:
        """Compile if need be, and load. Raises ``build.CompileError``. ``invariant``: a token's
        bits depend on its context alone, not on how many tokens are attended together."""
        self._invariant = invariant
        source = Path(__file__).parent / "cpu" / "attention.cpp"
        library = load_library(compile_library(source, cache_dir))
        self._append: Any = library.prelude_append
        self._append.argtypes = _APPEND_TYPES
        self._attend: Any = library.prelude_attend
        self._attend.argtypes = _ATTEND_TYPES

    def append(self, k: Tensor, v: Tensor, kv: Tensor, slot_mapping: Tensor) -> None:
        """k, v float32 [tokens, kv_heads, head_dim] into kv; see attention.append."""
        k, v = _rows(k), _rows(v)
        _require_pool(kv)
        if slot_mapping.dtype is not torch.int64:
            raise ValueError("slot_mapping must be int64")
        error = self._append(
            k.data_ptr(),
            v.data_ptr(),
            kv.data_ptr(),
            slot_mapping.contiguous().data_ptr(),
            k.shape[0],
            kv.shape[0],
            *kv.shape[2:],
            *k.stride()[:2],
            *v.stride()[:2],
            torch.get_num_threads(),
        )
        if error:
            raise IndexError(_ERRORS[error])

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
        """q, out float32 [tokens, heads, head_dim]; see attention.attend."""
        q = _rows(q)
        _require_pool(kv)
        _require_int32(cu_q, ctx_lens, block_tables)
        if out.dtype is not torch.float32 or out.stride(-1) != 1:
            raise ValueError("attend: out must be float32 with contiguous heads")
        error = self._attend(
            q.data_ptr(),
            kv.data_ptr(),
            cu_q.data_ptr(),
            ctx_lens.data_ptr(),
            block_tables.data_ptr(),
            out.data_ptr(),
            q.shape[0],
            kv.shape[0],
            *block_tables.shape,
            block_tables.stride(0),
            kv.shape[2],
            q.shape[1],
            *kv.shape[3:],
            *q.stride()[:2],
            *out.stride()[:2],
            scale,
            window,
            torch.get_num_threads(),
            self._invariant,
        )
        if error:
            raise ValueError(_ERRORS[error])


def _rows(x: Tensor) -> Tensor:
    if x.dtype is not torch.float32:
        raise ValueError(f"the cpu attention backend computes in float32, not {x.dtype}")
    return x if x.stride(-1) == 1 else x.contiguous()


def _require_int32(*tensors: Tensor) -> None:
    for x in tensors:
        if x.dtype is not torch.int32 or x.stride(-1) != 1:
            raise ValueError("cu_q, ctx_lens and block_tables must be int32 with contiguous rows")


def _require_pool(kv: Tensor) -> None:
    if kv.dtype is not torch.float32 or not kv.is_contiguous():
        raise ValueError("kv must be a contiguous float32 [blocks, 2, block, kv_heads, head_dim]")
