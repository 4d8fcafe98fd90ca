"""What of a sequence's KV is on the device already, and what of it others may find there."""

from itertools import islice

from prelude.batcher.sequence import Sequence
from prelude.batcher.view import PrefixHit
from prelude.cache.pool import BlockPool


class Prefix:
    """Sequences and the prefix index of ``pool``."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._size = pool.block_size

    def match(self, seq: Sequence) -> PrefixHit:
        """What a waiting sequence would start with."""
        if seq.blocks:
            return PrefixHit(seq.num_computed, len(seq.blocks))
        on_host = len(seq.host_blocks)
        blocks = self.kept(seq) if on_host else self.shareable(seq)
        num, num_warm = len(blocks), sum(map(self._pool.is_cached, blocks))
        if on_host:
            return PrefixHit(seq.num_computed, num, num_warm, on_host - num)
        return PrefixHit(num * self._size, num, num_warm)

    def shareable(self, seq: Sequence) -> list[int]:
        """Blocks that already hold the KV of this sequence's beginning; at least one token is
        always left to compute, for its logits."""
        if seq.wants_prompt_logprobs:
            return []
        hit = self._cached(seq)
        leader = seq.leader
        if leader is not None and leader.blocks:
            full = min(leader.num_computed, seq.num_prompt - 1) // self._size
            if full > len(hit):
                return leader.blocks[:full]
        return hit

    def kept(self, seq: Sequence) -> list[int]:
        """Blocks that still hold the beginning of what it has on the host."""
        return self._cached(seq)[: seq.num_computed // self._size]

    def publish(self, seq: Sequence, num_tokens: int) -> None:
        """Let others find its full blocks among the first ``num_tokens``."""
        size = self._size
        full = min(num_tokens, seq.num_settled) // size
        if full <= seq.num_published:
            return
        if self._pool.prefix:
            ids, digests = seq.token_ids, seq.chain(size)
            for i in range(seq.num_published, full):
                self._pool.publish(seq.blocks[i], digests[i], ids[i * size : (i + 1) * size])
        seq.num_published = full

    def _cached(self, seq: Sequence) -> list[int]:
        """Blocks of the prefix index, looked up again only when the index has changed."""
        if self._pool.prefix and seq.hit_version != self._pool.version:
            limit = (len(seq.token_ids) - 1) // self._size
            chain = islice(seq.chain(self._size), limit)
            seq.hit = self._pool.match(chain, seq.token_ids, known=seq.hit)
            seq.hit_version = self._pool.version
        return seq.hit
