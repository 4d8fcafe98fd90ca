"""Paged attention as two custom ops, the seam between compiled models and attention backends.

A model calls ``append`` to write the new keys and values of a step into one layer's KV tensor and
``attend`` to read all of a row's context. Both are opaque to torch.compile: they mutate their last
tensor in place, return nothing and cost no copy of the KV. Which implementation runs on CPU is a
choice of the process (``select_backend``); the ops, and so compiled programs, stay the same.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from prelude.kernels import attention_torch
from prelude.kernels.ops import define


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


def select_backend(name: str = "auto") -> str:
    """Choose the CPU implementation of both ops for this process; returns the one chosen."""
    if name not in ("auto", "cpu", "torch"):
        raise ValueError(f"attention.backend: {name!r} is not one of auto, cpu, torch")
    return "torch"


def _writes_only(*args: object) -> None:
    """Shape function of an op that returns nothing."""


define(
    "append(Tensor k, Tensor v, Tensor(a!) kv, Tensor slot_mapping) -> ()",
    fake=_writes_only,
    cpu=attention_torch.append,
)
define(
    "attend(Tensor q, Tensor kv, Tensor cu_q, Tensor ctx_lens, Tensor block_tables, "
    "float scale, int window, Tensor(a!) out) -> ()",
    fake=_writes_only,
    cpu=attention_torch.attend,
)
