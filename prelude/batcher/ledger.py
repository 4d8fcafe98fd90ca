"""The ledger: every sequence of an engine, its slot and its blocks. It is the view that policies
read, it binds a plan to memory before the step, and it alone commits what the step produced.

Between the two the step is under way, and the next one may be bound: what a step under way will
compute counts as computed, what it samples as a token not known yet. A sequence that turns out to
have ended meanwhile leaves a row behind, whose output is dropped.
"""

import random
from collections import deque
from collections.abc import Collection, Iterator
from collections.abc import Sequence as Seq
from dataclasses import replace

from prelude.batcher.fairness import Fairness
from prelude.batcher.lines import Lines
from prelude.batcher.prefix import Prefix
from prelude.batcher.sequence import NO_SLOT, Sequence
from prelude.batcher.swap import Shelf
from prelude.batcher.validate import validate
from prelude.batcher.view import PrefixHit, SequenceView
from prelude.cache.pool import BlockPool
from prelude.types.plan import BlockCopy, BlockGrant, Launch, Plan, Row, SlotAdmit
from prelude.types.request import FinishReason, Request
from prelude.types.service import ServiceClass

_SEED_STRIDE = 0x9E3779B97F4A7C15


class Ledger:
    """``max_len`` is the context limit in tokens and never more than the pool can hold.

    ``seed`` feeds the seeds of requests that bring none; None takes it from the system.
    ``fairness`` keeps the accounts of clients. ``num_host_blocks`` have room for KV on the host.
    """

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_seqs: int,
        max_len: int,
        vocab_size: int,
        eos_ids: tuple[int, ...],
        seed: int | None = None,
        fairness: Fairness | None = None,
        num_host_blocks: int = 0,
    ) -> None:
        if max_len > pool.num_usable * pool.block_size:
            raise ValueError(
                f"max_len={max_len} tokens do not fit into {pool.num_usable} KV blocks of "
                f"{pool.block_size}; lower model.max_len or raise cache.num_blocks"
            )
        self.pool = pool
        self.max_len = max_len
        self.vocab_size = vocab_size
        self.now_s = 0.0
        self.num_preemptions = 0
        self.num_parks = 0
        self.fairness = fairness or Fairness()
        self.shelf = Shelf(pool, num_host_blocks)
        self._prefix = Prefix(pool)
        self._eos_ids = eos_ids
        self._random = random.Random(seed)
        self._next_id = 0
        self._slots = list(range(max_seqs - 1, -1, -1))
        self._left: deque[tuple[int, int]] = deque()  # (step it waits for, slot)
        self._waiting = Lines()
        self._running: dict[int, Sequence] = {}
        self._parked: dict[int, Sequence] = {}  # those of the waiting that have blocks
        self._by_uid: dict[int, list[Sequence]] = {}

    # What policies see.

    @property
    def running(self) -> list[Sequence]:
        """Residents that go on; one that ends with the steps under way only waits for them."""
        return [seq for seq in self._running.values() if seq.num_tokens < seq.end]

    @property
    def waiting(self) -> Iterator[Sequence]:
        return iter(self._waiting)

    def line(self, name: ServiceClass) -> Seq[Sequence]:
        """The waiting of a class, by when they are due."""
        return self._waiting.line(name)

    @property
    def parked(self) -> Collection[Sequence]:
        """Those of ``waiting`` that gave up their slot and kept their blocks."""
        return self._parked.values()

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_available_blocks(self) -> int:
        return self.pool.num_available

    @property
    def num_usable_blocks(self) -> int:
        return self.pool.num_usable

    @property
    def num_free_host_blocks(self) -> int:
        return self.shelf.host.num_free

    @property
    def num_free_slots(self) -> int:
        return len(self._slots)

    @property
    def block_size(self) -> int:
        return self.pool.block_size

    def match(self, seq: SequenceView) -> PrefixHit:
        assert isinstance(seq, Sequence)
        return self._prefix.match(seq)

    @property
    def is_contested(self) -> bool:
        return self.fairness.is_contested

    def is_ahead(self, seq: SequenceView) -> bool:
        assert isinstance(seq, Sequence)
        return self.fairness.is_ahead(seq.account)

    def reclaimable(self, seq: SequenceView) -> int:
        return self.pool.num_sole_references(seq.blocks)

    # Arrival and departure.

    def make(self, request: Request) -> list[Sequence]:
        """The ``n`` sequences of a request. Raises ``RequestError`` if it can never be served."""
        validate(request, self.max_len, self.vocab_size)
        params = request.params
        room = self.max_len - len(request.prompt_ids)
        seed = params.seed if params.seed is not None else self._random.getrandbits(63)
        group: list[Sequence] = []
        for index in range(params.n):
            seq = Sequence(
                seq_id=self._next_id,
                request=request,
                index=index,
                seed=(seed + index * _SEED_STRIDE) % 2**63,
                max_tokens=min(params.max_tokens or room, room),
                eos_ids=() if params.ignore_eos else self._eos_ids,
                leader=group[0] if group else None,
            )
            seq.queued_s = self.now_s
            seq.arrival_s = self.arrival_s(request)
            self._next_id += 1
            group.append(seq)
        return group

    def arrival_s(self, request: Request) -> float:
        """As the client says, but never in the future; now where it says nothing."""
        return min(request.arrival_s or self.now_s, self.now_s)

    def queue(self, group: list[Sequence]) -> None:
        """All sequences of a request wait from now on."""
        for seq in group:
            seq.account = self.fairness.open(seq.request.hints.client)
            self.fairness.queue(seq.account)
            self._waiting.add(seq)
        self._by_uid[group[0].request.uid] = group

    def group(self, uid: int) -> list[Sequence]:
        """The unfinished and finished choices of a request, while any of them is unfinished."""
        return self._by_uid.get(uid, [])

    def all_unfinished(self) -> list[Sequence]:
        return [*self._running.values(), *self._waiting]

    def finish(self, seq: Sequence, reason: FinishReason, keep: int | None = None) -> None:
        """End a sequence wherever it is. ``keep`` output tokens remain of it (stop strings); what
        lies past them is not published."""
        assert seq.finish_reason is None
        if keep is not None:
            del seq.token_ids[seq.num_prompt + keep :]
            seq.num_settled = min(seq.num_settled, len(seq.token_ids))
        if seq.blocks:
            self._prefix.publish(seq, len(seq.token_ids))
        if seq.slot == NO_SLOT:
            self._dequeue(seq)
            self._let_go(seq)
            self.shelf.drop(seq)
        else:
            self._leave(seq)
        self.fairness.close(seq.account)
        seq.finish_reason = reason
        if all(other.finish_reason for other in self._by_uid[seq.request.uid]):
            del self._by_uid[seq.request.uid]

    # Before and after a step.

    def bind(self, plan: Plan) -> Plan:
        """Give a policy's plan its memory: preempt, admit, grow block tables, fill in the rows.
        From now on the step is under way, until ``end_step``. Nobody may lose its slot while
        another step is."""
        assert not plan.leaves or self.num_steps_under_way == 0, "a step may still need its slot"
        for seq_id in plan.preempt:
            self._preempt(self._holder(seq_id))
        out = tuple([self._swap(self._holder(seq_id)) for seq_id in plan.swap_out])
        for seq_id in plan.park:
            self._park(self._running[seq_id])
        back: list[tuple[Sequence, list[int]]] = []
        admits = [self._enter(seq_id, back) for seq_id in plan.admit]
        # Only now may blocks be taken: a warm one could have been what another found.
        copies = [self.shelf.give_back(seq, kept) for seq, kept in back]
        grants = [grant for admit in admits for grant in self._first_grant(admit)]
        launches = []
        for launch in plan.launches:
            rows = tuple(self._bind_row(row, grants) for row in launch.rows)
            launches.append(Launch(launch.key, rows, launch.price_ms))
        self.pool.begin_step()
        return replace(
            plan,
            launches=tuple(launches),
            admits=tuple(admits),
            grants=tuple(grants),
            copies_out=out,
            copies_in=tuple([copy for copy in copies if copy.host_ids]),
        )

    def settle(self, row: Row) -> Sequence | None:
        """A row of the oldest step under way has run: its tokens have KV now. Publishes what may
        be published at once. None if the sequence ended while the step was under way."""
        seq = self._running.get(row.seq_id)
        if seq is None:
            return None
        assert seq.num_settled == row.start
        seq.num_settled = row.start + row.num_tokens
        if seq.num_settled >= (seq.num_published + 1) * self.block_size:
            # A stop string may still be found in the output: that waits until the end.
            end = seq.num_prompt if seq.params.stop else seq.num_settled
            self._prefix.publish(seq, end)
        return seq

    def end_step(self) -> None:
        """All rows of the oldest step under way are settled: what waited for it is free."""
        self.pool.end_step()
        while self._left and self._left[0][0] <= self.pool.steps_ended:
            self._slots.append(self._left.popleft()[1])

    @property
    def num_steps_under_way(self) -> int:
        return self.pool.steps_begun - self.pool.steps_ended

    def check(self) -> None:
        """Every block and slot is where the sequences say; an idle ledger references nothing."""
        self.pool.check()
        holders = [*self._running.values(), *self._parked.values()]
        held = {block for seq in holders for block in seq.blocks}
        assert len(held) == self.pool.num_referenced, "a referenced block has no owner"
        self._waiting.check()
        assert all(seq.slot == NO_SLOT for seq in self._waiting)
        parked = [seq.seq_id for seq in self._waiting if seq.blocks]
        assert sorted(self._parked) == parked, "a parked sequence is not where it should be"
        self.shelf.host.check([block for seq in self._waiting for block in seq.host_blocks])
        taken = [seq.slot for seq in self._running.values()]
        slots = sorted([*self._slots, *(slot for _, slot in self._left), *taken])
        assert slots == list(range(len(slots))), "a slot is lost"

    def _holder(self, seq_id: int) -> Sequence:
        return self._parked.get(seq_id) or self._running[seq_id]

    def _enter(self, seq_id: int, back: list[tuple[Sequence, list[int]]]) -> SlotAdmit:
        """Who has KV on the host is added to ``back``, with what is acquired of it already."""
        seq = self._parked.pop(seq_id, None) or self._waiting.find(seq_id)
        if seq.host_blocks:
            back.append((seq, self._prefix.kept(seq)))
            self.pool.acquire(back[-1][1])
        elif not seq.blocks:
            blocks = self._prefix.shareable(seq)
            self.pool.acquire(blocks)
            seq.blocks = list(blocks)
            seq.num_computed = seq.num_settled = len(blocks) * self.block_size
            seq.num_published = len(blocks)
        self._dequeue(seq)
        seq.slot = self._slots.pop()
        if seq.scheduled_s is None:
            seq.scheduled_s = self.now_s
            seq.num_cached_tokens = seq.num_computed
        self._running[seq_id] = seq
        return SlotAdmit(
            seq.slot,
            seq_id,
            seq.params,
            seq.seed,
            tuple(seq.token_ids),
            seq.num_prompt,
            (*seq.eos_ids, *seq.params.stop_token_ids),
            seq.wants_prompt_logprobs,
            seq.embeds,
            seq.matcher,
        )

    def _first_grant(self, admit: SlotAdmit) -> Iterator[BlockGrant]:
        """What it shares with others, or had when it was parked."""
        if blocks := self._running[admit.seq_id].blocks:
            yield BlockGrant(admit.slot, 0, tuple(blocks))

    def _bind_row(self, row: Row, grants: list[BlockGrant]) -> Row:
        seq = self._running[row.seq_id]
        assert row.start == seq.num_computed, "the plan is stale"
        end = row.start + row.num_tokens
        missing = -(-end // self.block_size) - len(seq.blocks)
        if missing > 0:
            new = self.pool.allocate(missing)
            grants.append(BlockGrant(seq.slot, len(seq.blocks), tuple(new)))
            seq.blocks.extend(new)
        decodes = row.num_tokens == 1 and seq.is_decoding
        tokens = () if decodes else tuple(seq.token_ids[row.start : end])
        seq.num_computed = end
        seq.num_tokens += row.samples or (seq.embeds and end == seq.num_prompt)
        return Row(row.seq_id, seq.slot, row.start, row.num_tokens, tokens, row.samples)

    def _preempt(self, seq: Sequence) -> None:
        """Back to its place in the queue; its tokens stay, its KV may still be found cached."""
        seq.num_computed = seq.num_settled = 0
        self.num_preemptions += 1
        if not seq.num_output:
            seq.prompt_logprobs.clear()
        self._evict(seq)

    def _swap(self, seq: Sequence) -> BlockCopy:
        """Back to its place in the queue, with its KV on the host: it goes on where it stands."""
        copy = self.shelf.take(seq)
        self._evict(seq)
        return copy

    def _evict(self, seq: Sequence) -> None:
        if seq.slot == NO_SLOT:
            self._dequeue(seq)
            self._let_go(seq)
        else:
            seq.queued_s = self.now_s
            self._leave(seq)
        self._queue(seq)
        seq.num_preemptions += 1

    def _park(self, seq: Sequence) -> None:
        """Back to its place in the queue, with its blocks: it goes on where it stands."""
        self._vacate(seq)
        seq.queued_s = self.now_s
        self._queue(seq)
        self._parked[seq.seq_id] = seq
        self.num_parks += 1

    def _queue(self, seq: Sequence) -> None:
        seq.cost_ms = seq.token_ms * seq.num_pending
        self.fairness.queue(seq.account)
        self._waiting.add(seq)

    def _dequeue(self, seq: Sequence) -> None:
        self.fairness.unqueue(seq.account)
        self._waiting.remove(seq)

    def _leave(self, seq: Sequence) -> None:
        self._let_go(seq)
        self._vacate(seq)

    def _let_go(self, seq: Sequence) -> None:
        """Of its blocks, if it has any."""
        self._parked.pop(seq.seq_id, None)
        self.pool.release(seq.blocks)
        seq.blocks = []
        seq.num_published = 0

    def _vacate(self, seq: Sequence) -> None:
        del self._running[seq.seq_id]
        if self.num_steps_under_way:
            self._left.append((self.pool.steps_begun, seq.slot))
        else:
            self._slots.append(seq.slot)
        seq.slot = NO_SLOT
