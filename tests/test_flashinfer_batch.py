"""The layout of a batch against the words that describe it, one row at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelude.kernels.flashinfer_batch import NO_ROWS, HostRows, PagedBatch, lay_out

BLOCK, MAX_ROWS, WIDTH = 4, 5, 6


def empty_batch(max_pages: int = MAX_ROWS * WIDTH + 8) -> PagedBatch[np.ndarray]:
    poison = np.full(PagedBatch.size(MAX_ROWS, max_pages), -7, dtype=np.int32)
    return PagedBatch(poison, MAX_ROWS)


def host_rows(counts: list[int], contexts: list[int]) -> HostRows:
    tables = 1 + np.arange(len(counts) * WIDTH, dtype=np.int32).reshape(len(counts), WIDTH)
    cu_q = np.cumsum([0, *counts]).astype(np.int32)
    return HostRows(cu_q, np.array(contexts, dtype=np.int32), tables)


@st.composite
def launches(draw: st.DrawFn) -> tuple[HostRows, int, int]:
    """Rows, and the size of a bucket that holds them and has a row to spare."""
    num_rows = draw(st.integers(0, MAX_ROWS - 1))
    contexts = draw(st.lists(st.integers(0, WIDTH * BLOCK), min_size=num_rows, max_size=num_rows))
    counts = [draw(st.integers(0, context)) for context in contexts]
    num_tokens = sum(counts) + draw(st.integers(0, 8 * BLOCK))
    return host_rows(counts, contexts), draw(st.integers(num_rows + 1, MAX_ROWS)), num_tokens


@settings(deadline=None, max_examples=150)
@given(launches())
def test_every_row_has_its_tokens_and_pages(launch: tuple[HostRows, int, int]) -> None:
    rows, num_rows, num_tokens = launch
    batch = empty_batch()
    num_pages = lay_out(batch, rows, BLOCK, num_rows, num_tokens)
    num_given = len(rows.ctx_lens)
    num_spare = num_tokens - int(rows.cu_q[-1])
    page = 0
    for row in range(num_rows):
        is_given = row < num_given
        count = int(rows.cu_q[row + 1] - rows.cu_q[row]) if is_given else 0
        context = int(rows.ctx_lens[row]) if is_given else 0
        if row == num_rows - 1:
            count, context = num_spare, num_spare
        table = rows.block_tables[row] if is_given and context else np.zeros(64, np.int32)
        context = max(context, 1)
        pages = -(-context // BLOCK)
        assert batch.qo_indptr[row + 1] - batch.qo_indptr[row] == count
        assert batch.kv_lens[row] == context
        assert (pages - 1) * BLOCK + batch.last_page_len[row] == context
        assert batch.kv_indptr[row] == page
        assert batch.indices[page : page + pages].tolist() == table[:pages].tolist()
        page += pages
    assert batch.qo_indptr[0] == 0
    assert num_pages == page == batch.kv_indptr[num_rows]
    assert (batch.indices[page:] == -7).all()


def test_a_full_bucket_needs_no_row_to_spare() -> None:
    batch = empty_batch()
    rows = host_rows([1] * MAX_ROWS, [5, 1, 4, 24, 8])
    assert lay_out(batch, rows, BLOCK, MAX_ROWS, MAX_ROWS) == 2 + 1 + 1 + 6 + 2
    assert batch.last_page_len[:MAX_ROWS].tolist() == [1, 1, 4, 4, 4]
    assert batch.qo_indptr.tolist() == [0, 1, 2, 3, 4, 5]


def test_no_rows_are_the_dummy_launch() -> None:
    batch = empty_batch()
    assert lay_out(batch, NO_ROWS, BLOCK, num_rows=3, num_tokens=9) == 1 + 1 + 3
    assert batch.kv_lens[:3].tolist() == [1, 1, 9]
    assert batch.indices[:5].tolist() == [0] * 5


def test_the_used_part_ends_with_the_pages() -> None:
    batch = empty_batch()
    assert batch.used(3).tolist() == batch.buffer.tolist()[: PagedBatch.size(MAX_ROWS, 3)]


@pytest.mark.parametrize(
    ("counts", "contexts", "num_rows", "num_tokens"),
    [
        ([1, 1], [1, 1], 1, 2),
        ([1], [1], 1, 2),
        ([3], [3], 2, 2),
        ([1], [1], MAX_ROWS + 1, 1),
        ([1], [25], 1, 1),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    counts: list[int], contexts: list[int], num_rows: int, num_tokens: int
) -> None:
    with pytest.raises(ValueError):
        lay_out(empty_batch(), host_rows(counts, contexts), BLOCK, num_rows, num_tokens)
    with pytest.raises(ValueError, match="room for 3"):
        lay_out(empty_batch(max_pages=3), host_rows([1], [16]), BLOCK, 1, 1)
