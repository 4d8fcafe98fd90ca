"""Memory behind the KV pool, there before it is used.

The system promises the pool's memory when it is allocated, and finds it when it is first written,
a huge page at a time. On a virtual machine whose host has to find it as well that takes
milliseconds, and all layers come to their next page in the same step. So a thread has the system
find it some way ahead of where the pool is used. What is never used is never taken.
"""

import sys
import threading
from collections.abc import Sequence

from torch import Tensor

from prelude.kernels.pages import HUGE_PAGE, populate
from prelude.types.plan import Plan

_AHEAD = 1  # stretches, beside the one in use


class Backing:
    """Of a pool in the memory of a CPU: ``kv`` has a tensor [blocks, ...] for each layer. Blocks
    are handed out from the first one on. Where the system has no such call, nothing happens."""

    def __init__(self, kv: Sequence[Tensor]) -> None:
        self._kv = kv
        self._stretch = max(HUGE_PAGE // kv[0][0].nbytes, 1)  # blocks in a huge page
        self._num_asked = 0
        self._ask(0)

    def follow(self, plan: Plan) -> None:
        """Stay ahead of the blocks that a step takes."""
        for grant in plan.grants:
            stretch = max(grant.block_ids, default=0) // self._stretch
            if (stretch + 1 + _AHEAD) * self._stretch > self._num_asked:
                self._ask(stretch)

    def _ask(self, stretch: int) -> None:
        first, num_blocks = self._num_asked, len(self._kv[0])
        self._num_asked = min((stretch + 1 + _AHEAD) * self._stretch, num_blocks)
        if first < self._num_asked and sys.platform == "linux":
            args = (self._kv, first, self._num_asked, self._stretch)
            name = "prelude-backing"
            threading.Thread(target=_populate, args=args, name=name, daemon=True).start()


def _populate(layers: Sequence[Tensor], first: int, end: int, stretch: int) -> None:
    """In stretches, for nobody else gets memory while one is found."""
    for layer in layers:
        for at in range(first, end, stretch):
            populate(layer[at : min(at + stretch, end)])
