"""The memory behind a pool is there before it is used, not much sooner, and unchanged."""

import ctypes
import mmap
import sys
import threading

import pytest
import torch
from torch import Tensor

from prelude.cache.backing import Backing
from prelude.cache.layout import KVLayout
from prelude.types.plan import BlockGrant, Plan
from tests.model_samples import CPU

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="madvise, mincore")

LAYOUT = KVLayout(2, block_size=16, num_kv_heads=4, head_dim=64, dtype=torch.float32)
STRETCH = 64  # blocks of 32 KiB in a huge page


def num_resident(memory: Tensor) -> int:
    """Pages of it that the system has found."""
    num_pages = -(-memory.nbytes // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * num_pages)()
    look = ctypes.CDLL(None, use_errno=True).mincore
    look.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    assert look(memory.data_ptr(), memory.nbytes, found) == 0
    return sum(page & 1 for page in found)


def settle() -> None:
    for thread in threading.enumerate():
        if thread.name == "prelude-backing":
            thread.join()


def takes(*block_ids: int) -> Plan:
    return Plan(launches=(), grants=(BlockGrant(0, 0, block_ids),))


def backed(layer: Tensor, first: int, end: int) -> float:
    part = layer[first:end]
    return num_resident(part) * mmap.PAGESIZE / part.nbytes


def test_it_stays_a_stretch_ahead_of_the_blocks_that_are_taken() -> None:
    kv = LAYOUT.allocate(10 * STRETCH, CPU)
    kv[1][STRETCH] = 7.0
    backing = Backing(kv)
    settle()
    if not backed(kv[0], 0, STRETCH):
        pytest.skip("this system has no MADV_POPULATE_WRITE")
    for layer in kv:
        assert backed(layer, 0, 2 * STRETCH) == 1.0
        assert backed(layer, 3 * STRETCH, 10 * STRETCH) == 0.0
    backing.follow(takes(1, 2, STRETCH - 1))
    settle()
    assert backed(kv[0], 3 * STRETCH, 10 * STRETCH) == 0.0, "there is a stretch left"
    backing.follow(takes(4 * STRETCH, 3))
    settle()
    for layer in kv:
        assert backed(layer, 0, 6 * STRETCH) == 1.0
        assert backed(layer, 7 * STRETCH, 10 * STRETCH) == 0.0
    backing.follow(takes(10 * STRETCH - 1))
    backing.follow(takes(10 * STRETCH - 1))
    settle()
    assert backed(kv[1], 0, 10 * STRETCH) == 1.0
    assert (kv[1][STRETCH] == 7.0).all()
    assert not kv[0].any()


def test_a_pool_of_less_than_a_page_and_a_step_that_takes_nothing() -> None:
    small = KVLayout(1, block_size=1, num_kv_heads=1, head_dim=8, dtype=torch.float32)
    backing = Backing(small.allocate(3, CPU))
    backing.follow(Plan(launches=()))
    backing.follow(takes(2))
    settle()
