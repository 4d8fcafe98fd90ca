"""Paged attention as two custom ops, the seam between compiled models and attention backends.

A model calls ``append`` to write the new keys and values of a step into one layer's KV tensor and
``attend`` to read all of a row's context. Both are opaque to torch.compile: they mutate their last
tensor in place, return nothing and cost no copy of the KV. Which implementation runs on CPU is a
choice of the process (``select_backend``); the ops, and so compiled programs, stay the same.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from prelude.kernels import attention_torch
from prelude.kernels.build import CompileError, compiled
from prelude.kernels.ops import CpuOps, define

BACKENDS = ("auto", "cpu", "torch")
_LOG = logging.getLogger(__name__)


class AttentionMeta(NamedTuple):
    """Where the tokens of a step belong. Rows are ragged; a decode row has one new token.

    A row with ``n`` new tokens and context ``c`` puts new token ``j`` at position ``c - n + j``.
    Rows without new tokens are padding. New tokens of padding may point at block 0.
    """

    cu_q: Tensor  # [rows + 1] int32, prefix sums of the new tokens per row
    ctx_lens: Tensor  # [rows] int32, KV length including the new tokens
    block_tables: Tensor  # [rows, width] int32
    slot_mapping: Tensor  # [tokens] int64, block * block_size + offset of each new token


def append(k: Tensor, v: Tensor, kv: Tensor, meta: AttentionMeta) -> None:
    """Write new keys and values [tokens, kv_heads, head_dim] (strided views allowed) into ``kv``.

    ``kv`` is one layer's [blocks, 2, block, kv_heads, head_dim], contiguous.
    """
    torch.ops.prelude.append(k, v, kv, meta.slot_mapping)


def attend(
    q: Tensor, kv: Tensor, meta: AttentionMeta, scale: float, out: Tensor, window: int = 0
) -> None:
    """Causal attention of ``q`` over each row's context, written to ``out``.

    q and out are [tokens, heads, head_dim]; heads is a multiple of kv_heads. ``window > 0`` lets a
    position see itself and the ``window - 1`` before it. Tokens past ``cu_q[-1]`` become zero.
    """
    torch.ops.prelude.attend(q, kv, meta.cu_q, meta.ctx_lens, meta.block_tables, scale, window, out)


def select_backend(
    name: str = "auto", cache_dir: Path | None = None, *, invariant: bool = False
) -> str:
    """Choose the CPU implementation of both ops for this process; returns the one chosen.

    ``cpu`` is the C++ backend, compiled into ``cache_dir`` at first use; ``torch`` needs no
    compiler and is slower; ``auto`` is cpu where it compiles, else torch with a warning. Until the
    first call the ops run torch. ``invariant`` (cpu only, slower): a token's bits depend on its
    context alone, however a prompt is cut into chunks. Raises ``ValueError`` for another name,
    ``CompileError`` where cpu was asked for and does not compile.
    """
    if name not in BACKENDS:
        raise ValueError(f"attention.backend: {name!r} is not one of {', '.join(BACKENDS)}")
    if name == "torch":
        _CPU.use_python()
        return name
    try:
        library = compiled("attention", cache_dir)
    except CompileError as error:
        if name == "cpu":
            raise
        _LOG.warning("attention runs in plain torch, several times slower: %s", error)
        return select_backend("torch")
    _CPU.use_compiled(library, option=int(invariant))
    return "cpu"


def _writes_only(*args: object) -> None:
    """Shape function of an op that returns nothing."""


define("append(Tensor k, Tensor v, Tensor(a!) kv, Tensor slot_mapping) -> ()", _writes_only)
define(
    "attend(Tensor q, Tensor kv, Tensor cu_q, Tensor ctx_lens, Tensor block_tables, "
    "float scale, int window, Tensor(a!) out) -> ()",
    _writes_only,
)
_CPU = CpuOps({"append": attention_torch.append, "attend": attention_torch.attend})
