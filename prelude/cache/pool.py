"""The paged KV pool's bookkeeping: which block is free, referenced, cached or quarantined.

A block is *referenced* while a sequence's table holds it, *cached* while nobody references it but
the prefix index still knows its tokens (it counts as free but warm, and is evicted least recently
used first, only when needed), *quarantined* from its release until the steps under way then, which
may still touch it, have ended, and *free* otherwise. Block 0 is the dummy of padding rows.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import pairwise

import numpy as np

from prelude.types.errors import OutOfBlocksError

Digest = bytes
DUMMY_BLOCK = 0


def root_digest(salt: str) -> Digest:
    """Start of a hash chain. Tenants with different salts share no cached block."""
    return blake2b(salt.encode(), digest_size=16, person=b"prelude-kv").digest()


def extend_digest(parent: Digest, tokens: Sequence[int]) -> Digest:
    """Digest of the block ``tokens`` after the blocks behind ``parent`` (16 bytes, BLAKE2b)."""
    return blake2b(parent + np.asarray(tokens, dtype=np.int64).tobytes(), digest_size=16).digest()


class BlockPool:
    """``num_blocks`` KV blocks of ``block_size`` tokens, the dummy included.

    Raises ``ValueError`` when the pool could hold nothing, ``OutOfBlocksError`` when ``allocate``
    asks for more than ``num_available``.
    """

    def __init__(self, num_blocks: int, block_size: int, *, prefix: bool = True) -> None:
        if num_blocks < 2 or block_size < 1:
            raise ValueError(
                f"cache.num_blocks={num_blocks}, cache.block_size={block_size}: "
                "need at least 2 blocks (one is the dummy) of at least 1 token"
            )
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix = prefix
        self._free = list(range(num_blocks - 1, DUMMY_BLOCK, -1))
        self._refs = [0] * num_blocks
        self._digest: list[Digest | None] = [None] * num_blocks
        self._tokens: list[tuple[int, ...]] = [()] * num_blocks
        self._index: dict[Digest, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._quarantine: OrderedDict[int, int] = OrderedDict()  # block -> step it waits for
        self.steps_begun = 0
        self.steps_ended = 0
        self.version = 0  # changes whenever a match might

    @property
    def num_usable(self) -> int:
        return self.num_blocks - 1

    @property
    def num_available(self) -> int:
        """Blocks ``allocate`` can hand out now: free ones and evictable cached ones."""
        return len(self._free) + len(self._cached)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_quarantined(self) -> int:
        return len(self._quarantine)

    @property
    def num_referenced(self) -> int:
        return self.num_usable - self.num_available - len(self._quarantine)

    def is_cached(self, block_id: int) -> bool:
        """True if the block is warm and unreferenced, so that acquiring it uses up a free block."""
        return block_id in self._cached

    def num_sole_references(self, block_ids: Iterable[int]) -> int:
        """How many of these blocks would become available if their one holder let go."""
        return sum(self._refs[block_id] == 1 for block_id in block_ids)

    def match(
        self, digests: Iterable[Digest], tokens: Sequence[int], known: Sequence[int] = ()
    ) -> list[int]:
        """Longest chain of indexed blocks for ``digests``, each verified against ``tokens``.
        ``known`` is an earlier answer for the same digests: what is still there needs no second
        look. Changes nothing."""
        size = self.block_size
        hit: list[int] = []
        for i, digest in enumerate(digests):
            block_id = self._index.get(digest)
            if block_id is None:
                break
            seen = i < len(known) and known[i] == block_id
            if not seen and self._tokens[block_id] != tuple(tokens[i * size : (i + 1) * size]):
                break
            hit.append(block_id)
        return hit

    def acquire(self, block_ids: Iterable[int]) -> None:
        """Add a reference to each block; a cached one stops being evictable."""
        for block_id in block_ids:
            if self._refs[block_id] == 0:
                if block_id in self._cached:
                    del self._cached[block_id]
                else:
                    del self._quarantine[block_id]
            self._refs[block_id] += 1

    def allocate(self, count: int) -> list[int]:
        """``count`` blocks with one reference each; evicts the least recently used if it must."""
        if count > self.num_available:
            raise OutOfBlocksError(count, self.num_available)
        taken = []
        for _ in range(count):
            block_id = self._free.pop() if self._free else self._evict()
            self._refs[block_id] = 1
            taken.append(block_id)
        return taken

    def publish(self, block_id: int, digest: Digest, tokens: Sequence[int]) -> None:
        """Let later prompts reuse a full block. The first block of a digest stays indexed."""
        assert self._refs[block_id] > 0, "only a referenced block can be published"
        if self.prefix and digest not in self._index and self._digest[block_id] is None:
            self.version += 1
            self._index[digest] = block_id
            self._digest[block_id] = digest
            self._tokens[block_id] = tuple(tokens)

    def release(self, block_ids: Sequence[int]) -> None:
        """Drop one reference of each. The tail of a chain becomes evictable before its head."""
        for block_id in reversed(block_ids):
            assert self._refs[block_id] > 0, f"block {block_id} released more often than taken"
            self._refs[block_id] -= 1
            if self._refs[block_id] == 0:
                self._quarantine[block_id] = self.steps_begun
        self._settle()

    def begin_step(self) -> None:
        """From now on one more step may touch any block that is referenced at this moment."""
        self.steps_begun += 1

    def end_step(self) -> None:
        """The oldest step under way has completed: what was waiting for it alone may be handed
        out again."""
        self.steps_ended += 1
        self._settle()

    def _settle(self) -> None:
        quarantine = self._quarantine
        while quarantine and next(iter(quarantine.values())) <= self.steps_ended:
            block_id, _ = quarantine.popitem(last=False)
            if self._digest[block_id] is None:
                self._free.append(block_id)
            else:
                self._cached[block_id] = None

    def _evict(self) -> int:
        block_id, _ = self._cached.popitem(last=False)
        digest = self._digest[block_id]
        assert digest is not None
        self.version += 1
        del self._index[digest]
        self._digest[block_id] = None
        self._tokens[block_id] = ()
        return block_id

    def forget(self) -> int:
        """Empty the index: no block is found again, and those that only it knew are free. Returns
        how many it knew."""
        num_blocks = len(self._index)
        for block_id in self._index.values():
            self._digest[block_id] = None
            self._tokens[block_id] = ()
        self._index.clear()
        self._free.extend(self._cached)
        self._cached.clear()
        self.version += 1
        return num_blocks

    def check(self) -> None:
        """free + referenced + cached + quarantined = total, and no block is in two of them."""
        homes = sorted([*self._free, *self._cached, *self._quarantine])
        held = [b for b in range(1, self.num_blocks) if self._refs[b]]
        assert all(a != b for a, b in pairwise(homes)), "a block is in two places"
        assert not set(homes) & set(held), "a referenced block is also free"
        assert len(homes) + len(held) == self.num_usable, "a block is lost"
        assert all(self._digest[block_id] == digest for digest, block_id in self._index.items())
        assert all(self._digest[block_id] is None for block_id in self._free)
