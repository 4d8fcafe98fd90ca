"""Huge pages: asked for where a tensor has room for one, and never a change of its values."""

import mmap
import sys

import pytest
import torch

from prelude.kernels.pages import empty, placed_in, prefer_huge_pages, zeros
from tests.model_samples import CPU


@pytest.mark.skipif(sys.platform != "linux", reason="madvise")
def test_large_tensors_ask_and_small_ones_do_not() -> None:
    assert not prefer_huge_pages(torch.empty(1000))
    assert not prefer_huge_pages(torch.empty(2**22, device="meta"))
    large = torch.empty(2**22)
    prefer_huge_pages(large)  # what the kernel says depends on how it was built
    assert float(large.fill_(1.0).sum()) == 2**22


@pytest.mark.skipif(sys.platform != "linux", reason="madvise")
def test_tensors_are_placed_one_after_the_other_while_there_is_room() -> None:
    buffer = mmap.mmap(-1, 2**16)
    with placed_in(buffer):
        first = empty((100,), torch.float32, CPU).fill_(1.0)
        second = empty((3, 5), torch.bfloat16, CPU).fill_(2.0)
        elsewhere = empty((2**20,), torch.float32, CPU)
        on_meta = empty((4,), torch.float32, torch.device("meta"))
    afterwards = empty((4,), torch.float32, CPU)
    assert second.data_ptr() - first.data_ptr() == 448, "aligned to 64 bytes"
    inside = range(first.data_ptr(), first.data_ptr() + 2**16)
    assert elsewhere.data_ptr() not in inside
    assert afterwards.data_ptr() not in inside
    assert on_meta.device.type == "meta"
    assert (first == 1).all() and (second == 2).all()
    assert buffer[:4] == bytes(first[:1].view(torch.uint8).tolist())


def test_without_a_place_tensors_are_made_as_always() -> None:
    with placed_in(None):
        assert empty((2, 3), torch.float16, CPU).shape == (2, 3)
    assert empty((0, 3), torch.float32, CPU).numel() == 0


@pytest.mark.parametrize("shape", [(7,), (3, 2, 16, 2, 64), (2**20, 3)])
def test_what_is_zeroed_begins_with_a_cache_line(shape: tuple[int, ...]) -> None:
    tensor = zeros(shape, torch.float32, CPU)
    assert tensor.shape == shape
    assert tensor.is_contiguous()
    assert not tensor.data_ptr() % 64
    assert not tensor.any()
    assert zeros((0, 3), torch.float32, CPU).shape == (0, 3)
