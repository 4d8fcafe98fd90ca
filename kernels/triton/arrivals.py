"""Letting the last program that finishes a part merge all parts, within one launch.

The counting of CUDA's threadFenceReduction sample: a program's stores come before its arrival,
which releases them; the last arrival acquires everyone's. The counters are zero before and after
every launch, so launches share them, but must not run at the same time on two streams.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor


def arrival_counters(device: torch.device, at_least: int) -> Tensor:
    """int32 zeros. Captured graphs hold their address, so they are kept for good, and the first
    launch that needs this many must not be captured."""
    return _counters(device, max(16384, triton.next_power_of_2(at_least)))


@cache
def _counters(device: torch.device, size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.int32, device=device)


@triton.jit
def arrives_last(counter_ptr, expected):
    """Whether all ``expected`` programs have now called this; then the counter is zero again.

    What others stored must be read with ``cache_modifier=".cg"``: past the first-level cache.
    """
    tl.debug_barrier()  # the whole program has stored before one of its threads counts it
    is_last = tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu") == expected - 1
    if is_last:
        tl.store(counter_ptr, 0)
    return is_last
