"""Workspace sizes against what FlashInfer 0.6.9's own planner asked for, on 132 multiprocessors."""

import pytest

from prelude.kernels.flashinfer_workspace import HeadShape, workspace_bytes

QWEN = HeadShape(32, 8, 128)


@pytest.mark.parametrize(
    ("num_rows", "thread_blocks"), [(1, 33), (16, 33), (32, 39), (64, 79), (128, 159), (512, 639)]
)
def test_decode_needs_what_the_native_planner_allocates(num_rows: int, thread_blocks: int) -> None:
    planned = 32 * thread_blocks * 16 * 129 * 4
    uncaptured = 32 * 33 * 128 * 129 * 4
    assert workspace_bytes(QWEN, 132, [(num_rows, num_rows)]) == max(planned, uncaptured) + 64


def test_512_rows_overflow_the_size_that_is_often_recommended() -> None:
    assert workspace_bytes(QWEN, 132, [(512, 512)]) > 128 << 20


def test_the_largest_shape_decides() -> None:
    shapes = [(1, 1), (2048, 17), (512, 9)]
    sizes = [workspace_bytes(QWEN, 132, [shape]) for shape in shapes]
    assert workspace_bytes(QWEN, 132, shapes) == max(sizes) == sizes[1]
    assert sizes[1] == 32 * (64 + 16) * 128 * 129 * 4 + 64


def test_wide_heads_have_small_tiles() -> None:
    assert workspace_bytes(HeadShape(8, 4, 256), 132, []) == 8 * 66 * 64 * 257 * 4 + 64


def test_few_heads_per_group_decode_without_tensor_cores() -> None:
    assert [HeadShape(2 * g, 2, 64).tensor_core_decode for g in (1, 3, 4, 8)] == [
        False, False, True, True,
    ]  # fmt: skip
    assert HeadShape(28, 4, 128).group == 7
