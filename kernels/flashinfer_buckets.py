"""The two kinds of captured bucket, as FlashInfer 0.6.9 wants them described.

A wrapper's own ``plan()`` checks and converts in Python before it calls the native planner, and
does so again for every window: 70 microseconds at 32 rows, 470 at 256. A bucket needs that once,
to load its kernels. From then on the native planner alone runs, in 4 and 18 microseconds, with the
arguments listed here, which is what ``flashinfer.fast_decode_plan`` does. They are FlashInfer's
private business: the contract tests hold them to the version we pin.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from prelude.kernels.flashinfer_batch import PagedBatch
from prelude.kernels.flashinfer_workspace import HeadShape

LAYOUT = "NHD"
_SPLIT_AS_NEEDED = (-1, False, 0)  # fixed split size, no split, blocks of other kernels


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What all wrappers of a model share. ``scale`` multiplies the scores."""

    heads: HeadShape
    block_size: int
    dtype: torch.dtype
    scale: float

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        heads = self.heads
        return heads.num_heads, heads.num_kv_heads, heads.head_dim, self.block_size

    def options(self, window: int) -> dict[str, Any]:
        """Keyword arguments of every ``plan()``; its default type is float16, always pass it."""
        return {
            "window_left": window - 1,
            "sm_scale": self.scale,
            "q_data_type": self.dtype,
            "kv_data_type": self.dtype,
        }


class Bucket(Protocol):
    """A static shape of launches, and how FlashInfer is told of one."""

    num_rows: int
    num_tokens: int
    pads_tokens: bool  # whether tokens of no row are attended to, by a row of their own
    pages_decide: bool  # whether the schedule follows from the rows' page counts alone

    def wrapper(self, library: Any, workspace: Tensor, device: PagedBatch[Tensor]) -> Any:
        """A new wrapper that reads its arrays from ``device``."""
        ...

    def first_plan(
        self, wrapper: Any, host: PagedBatch[Tensor], indices: Tensor, window: int
    ) -> None:
        """The documented, slow plan, which also loads the kernels."""
        ...

    def arguments(self, host: PagedBatch[Tensor], window: int) -> tuple[Any, ...]:
        """Of the native planner, after its three workspaces."""
        ...


class DecodeBucket:
    """One new token per row. ``fa2`` always: ``fa3`` neither packs heads nor splits the context."""

    pads_tokens = False
    pages_decide = True

    def __init__(self, shape: AttentionShape, num_rows: int) -> None:
        self._shape, self.num_rows, self.num_tokens = shape, num_rows, num_rows
        self._one_each = torch.arange(num_rows + 1, dtype=torch.int32)

    def wrapper(self, library: Any, workspace: Tensor, device: PagedBatch[Tensor]) -> Any:
        return library.BatchDecodeWithPagedKVCacheWrapper(
            workspace,
            LAYOUT,
            use_cuda_graph=True,
            use_tensor_cores=self._shape.heads.tensor_core_decode,
            paged_kv_indptr_buffer=device.kv_indptr[: self.num_rows + 1],
            paged_kv_indices_buffer=device.indices,
            paged_kv_last_page_len_buffer=device.last_page_len[: self.num_rows],
            backend="fa2",
        )

    def first_plan(
        self, wrapper: Any, host: PagedBatch[Tensor], indices: Tensor, window: int
    ) -> None:
        wrapper.plan(
            host.kv_indptr[: self.num_rows + 1],
            indices,
            host.last_page_len[: self.num_rows],
            *self._shape.sizes,
            seq_lens=host.kv_lens[: self.num_rows],
            **self._shape.options(window),
        )

    def arguments(self, host: PagedBatch[Tensor], window: int) -> tuple[Any, ...]:
        num_heads, num_kv_heads, head_dim, block_size = self._shape.sizes
        kv_indptr, num_rows = host.kv_indptr[: self.num_rows + 1], self.num_rows
        counts = (num_rows, num_heads, num_kv_heads, block_size, True)
        if self._shape.heads.tensor_core_decode:
            rows = (self._one_each, kv_indptr, host.kv_lens[:num_rows], num_rows)
            return *rows, *counts, head_dim, head_dim, False, window - 1, *_SPLIT_AS_NEEDED
        empty = torch.empty(0, dtype=self._shape.dtype)
        return kv_indptr, *counts, window - 1, 0.0, head_dim, head_dim, empty, empty


class PrefillBucket:
    """Ragged rows, and one more for the tokens that pad the launch."""

    pads_tokens = True
    pages_decide = False

    def __init__(self, shape: AttentionShape, num_rows: int, num_tokens: int, backend: str) -> None:
        self._shape, self._backend = shape, backend
        self.num_rows, self.num_tokens = num_rows + 1, num_tokens

    def wrapper(self, library: Any, workspace: Tensor, device: PagedBatch[Tensor]) -> Any:
        return library.BatchPrefillWithPagedKVCacheWrapper(
            workspace,
            LAYOUT,
            use_cuda_graph=True,
            qo_indptr_buf=device.qo_indptr[: self.num_rows + 1],
            paged_kv_indptr_buf=device.kv_indptr[: self.num_rows + 1],
            paged_kv_indices_buf=device.indices,
            paged_kv_last_page_len_buf=device.last_page_len[: self.num_rows],
            backend=self._backend,
        )

    def first_plan(
        self, wrapper: Any, host: PagedBatch[Tensor], indices: Tensor, window: int
    ) -> None:
        plan_prefill(wrapper, self._shape, host, indices, self.num_rows, window)

    def arguments(self, host: PagedBatch[Tensor], window: int) -> tuple[Any, ...]:
        num_heads, num_kv_heads, head_dim, block_size = self._shape.sizes
        num_rows = self.num_rows
        indptrs = (host.qo_indptr[: num_rows + 1], host.kv_indptr[: num_rows + 1])
        rows = (*indptrs, host.kv_lens[:num_rows], self.num_tokens, num_rows)
        counts = (num_heads, num_kv_heads, block_size, True, head_dim, head_dim)
        splitting = _SPLIT_AS_NEEDED if self._backend == "fa2" else ()
        return *rows, *counts, True, window - 1, *splitting


def plan_prefill(
    wrapper: Any,
    shape: AttentionShape,
    host: PagedBatch[Tensor],
    indices: Tensor,
    num_rows: int,
    window: int,
) -> None:
    """The documented plan of ragged rows, for buckets and for launches of any size."""
    wrapper.plan(
        host.qo_indptr[: num_rows + 1],
        host.kv_indptr[: num_rows + 1],
        indices,
        host.last_page_len[:num_rows],
        *shape.sizes,
        causal=True,
        seq_lens=host.kv_lens[:num_rows],
        **shape.options(window),
    )
