"""Room for KV in host memory: which of its blocks are free. Neighbours are copied in one piece, so
a sequence gets neighbours as far as there are any.
"""

from bisect import insort
from collections.abc import Iterable, Iterator
from itertools import pairwise

from prelude.types.errors import OutOfBlocksError

Run = tuple[int, int]  # first block, and the one behind the last


def runs_of(block_ids: Iterable[int]) -> Iterator[Run]:
    """The stretches of neighbours in ``block_ids``, in their order."""
    first = end = -1
    for block_id in block_ids:
        if block_id != end:
            if end >= 0:
                yield first, end
            first = block_id
        end = block_id + 1
    if end >= 0:
        yield first, end


class HostPool:
    """``num_blocks`` blocks, each of the size of a device block. ``allocate`` raises
    ``OutOfBlocksError`` when it is asked for more than ``num_free``."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_free = num_blocks
        self._runs: list[Run] = [(0, num_blocks)] if num_blocks else []  # by place, never touching

    def allocate(self, count: int) -> list[int]:
        """``count`` free blocks, from the shortest stretch that holds them all, if there is one."""
        if count > self.num_free:
            raise OutOfBlocksError(count, self.num_free)
        taken: list[int] = []
        while len(taken) < count:
            first, end = self._best(count - len(taken))
            self._runs.remove((first, end))
            middle = min(end, first + count - len(taken))
            if middle < end:
                insort(self._runs, (middle, end))
            taken.extend(range(first, middle))
        self.num_free -= count
        return taken

    def release(self, block_ids: list[int]) -> None:
        """They are free again; what they held is lost."""
        self.num_free += len(block_ids)
        joined: list[Run] = []
        for first, end in sorted([*self._runs, *runs_of(sorted(block_ids))]):
            if joined and joined[-1][1] == first:
                joined[-1] = joined[-1][0], end
            else:
                joined.append((first, end))
        self._runs = joined

    def check(self, held: list[int]) -> None:
        """free + held = total, and no block is in two places."""
        free = [block for run in self._runs for block in range(*run)]
        assert len(free) == self.num_free, "free blocks are counted wrong"
        assert all(a[1] < b[0] for a, b in pairwise(self._runs)), "neighbours are kept apart"
        assert sorted([*free, *held]) == list(range(self.num_blocks)), "a host block is lost"

    def _best(self, count: int) -> Run:
        """The shortest run of at least ``count``, or the longest of all."""
        return min(
            self._runs, key=lambda run: (run[1] - run[0] < count, abs(run[1] - run[0] - count))
        )
