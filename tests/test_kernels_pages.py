"""Huge pages: asked for where a tensor has room for one, and never a change of its values."""

import sys

import pytest
import torch

from prelude.kernels.pages import prefer_huge_pages


@pytest.mark.skipif(sys.platform != "linux", reason="madvise")
def test_large_tensors_ask_and_small_ones_do_not() -> None:
    assert not prefer_huge_pages(torch.empty(1000))
    assert not prefer_huge_pages(torch.empty(2**22, device="meta"))
    large = torch.empty(2**22)
    prefer_huge_pages(large)  # what the kernel says depends on how it was built
    assert float(large.fill_(1.0).sum()) == 2**22
