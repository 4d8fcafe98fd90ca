"""A launch's ragged rows in FlashInfer's words: prefix sums, page lists, last page lengths.

Everything is int32 and sits in one buffer, so that a plan reaches the device in one copy. The same
sections are read from pinned memory by the planner and from the device by the kernels.
"""

from typing import Generic, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)


class PagedBatch(Generic[Array]):
    """Named sections of a flat int32 ``buffer`` of ``size(max_rows, max_pages)`` elements."""

    def __init__(self, buffer: Array, max_rows: int) -> None:
        stride = max_rows + 1
        self.buffer: Array = buffer
        self.qo_indptr: Array = buffer[:stride]  # [rows + 1], prefix sums of new tokens
        self.kv_indptr: Array = buffer[stride : 2 * stride]  # [rows + 1], prefix sums of pages
        self.last_page_len: Array = buffer[2 * stride : 3 * stride]  # [rows], 1..page size
        self.kv_lens: Array = buffer[3 * stride : 4 * stride]  # [rows], tokens
        self._header = 4 * stride
        self.indices: Array = buffer[self._header :]  # pages of all rows, one row after the other

    @staticmethod
    def size(max_rows: int, max_pages: int) -> int:
        return 4 * (max_rows + 1) + max_pages

    def used(self, num_pages: int) -> Array:
        """The leading part that a batch of ``num_pages`` fills."""
        used: Array = self.buffer[: self._header + num_pages]
        return used


class HostRows(NamedTuple):
    """What ``AttentionMeta`` says of a launch, on the host."""

    cu_q: np.ndarray  # [rows + 1] int32
    ctx_lens: np.ndarray  # [rows] int32
    block_tables: np.ndarray  # [rows, width] int32


NO_ROWS = HostRows(np.zeros(1, np.int32), np.zeros(0, np.int32), np.zeros((0, 1), np.int32))


def lay_out(
    batch: PagedBatch[np.ndarray], rows: HostRows, block_size: int, num_rows: int, num_tokens: int
) -> int:
    """Write ``rows`` padded to ``num_rows`` and ``num_tokens``; returns the number of pages.

    Rows past the given ones, and those without context, read one token of the dummy block 0: the
    kernels answer NaN for a row of length zero. Tokens past ``cu_q[-1]`` become the last row's,
    which then repeats block 0 until it is as long as they are many.
    """
    num_spare = num_tokens - int(rows.cu_q[-1])
    _check_fit(batch, rows, num_rows, num_tokens)
    pages = _write_lengths(batch, rows, block_size, num_rows, num_spare)
    batch.qo_indptr[num_rows] = num_tokens
    given = len(rows.ctx_lens)
    num_given, num_pages = (int(batch.kv_indptr[row]) for row in (given, num_rows))
    if num_pages > len(batch.indices):
        raise ValueError(f"{num_pages} pages, and room for {len(batch.indices)}")
    _write_indices(batch.indices[:num_given], pages[:given], rows.block_tables)
    batch.indices[num_given:num_pages] = 0
    if rows.ctx_lens.min(initial=1) < 1:
        batch.indices[batch.kv_indptr[np.flatnonzero(rows.ctx_lens < 1)]] = 0
    return num_pages


def _check_fit(
    batch: PagedBatch[np.ndarray], rows: HostRows, num_rows: int, num_tokens: int
) -> None:
    given, num_spare = len(rows.ctx_lens), num_tokens - int(rows.cu_q[-1])
    if num_rows >= len(batch.kv_indptr):
        raise ValueError(f"{num_rows} rows, and room for {len(batch.kv_indptr) - 1}")
    if num_spare < 0 or given + (num_spare > 0) > num_rows:
        tokens = int(rows.cu_q[-1])
        raise ValueError(f"{given} rows of {tokens} tokens, planned as {num_rows}, {num_tokens}")


def _write_lengths(
    batch: PagedBatch[np.ndarray], rows: HostRows, block_size: int, num_rows: int, num_spare: int
) -> np.ndarray:
    """Everything but the page lists; returns the pages of each row."""
    given = len(rows.ctx_lens)
    lens = batch.kv_lens[:num_rows]
    np.maximum(rows.ctx_lens, 1, out=lens[:given])
    lens[given:] = 1
    if num_spare:
        lens[-1] = num_spare
    batch.qo_indptr[: given + 1] = rows.cu_q
    batch.qo_indptr[given + 1 : num_rows + 1] = rows.cu_q[-1]
    pages: np.ndarray = (lens + (block_size - 1)) // block_size
    batch.last_page_len[:num_rows] = lens - (pages - 1) * block_size
    batch.kv_indptr[0] = 0
    np.cumsum(pages, out=batch.kv_indptr[1 : num_rows + 1])
    return pages


def _write_indices(target: np.ndarray, pages: np.ndarray, tables: np.ndarray) -> None:
    """The first ``pages`` entries of each table, one table after the other."""
    width = int(pages.max(initial=0))
    if width > tables.shape[1]:
        raise ValueError(f"block_tables: a row needs {width} blocks and has {tables.shape[1]}")
    target[:] = tables[:, :width][np.arange(width, dtype=np.int32) < pages[:, None]]
