"""How much work is ahead of a newcomer: counted over all sequences now and then, and in between
corrected by who came.

Sequences are in lanes; those in a lower one and those in the same come first. What a newcomer waits
for is the device, until the prompts ahead of it are computed in the part of the time that streams
leave; and a slot and blocks, until as many of those ahead of it have ended as there are too many.
"""

from collections.abc import Callable
from dataclasses import dataclass

from prelude.batcher.ledger import Ledger
from prelude.batcher.sequence import NO_SLOT, Sequence
from prelude.types.prices import PriceTable, Sums
from prelude.types.service import SERVICE_CLASSES, ServiceClass

Lane = Callable[[Sequence], int]

_COUNT_S = 5e-5  # a sequence: counting takes a hundredth of that
_LEAST_SHARE = 0.1
_STAY_WEIGHT = 0.05


@dataclass(slots=True)
class _Load:
    """Of one lane: sequences, milliseconds of prompt, blocks held and blocks wanted, and how many
    of its residents end in a millisecond."""

    num_unfinished: int = 0
    num_resident: int = 0
    prompt_ms: float = 0.0
    num_held: int = 0
    num_wanted: int = 0
    ends_per_ms: float = 0.0

    def plus(self, other: "_Load") -> None:
        self.num_unfinished += other.num_unfinished
        self.num_resident += other.num_resident
        self.prompt_ms += other.prompt_ms
        self.num_held += other.num_held
        self.num_wanted += other.num_wanted
        self.ends_per_ms += other.ends_per_ms


class Backlog:
    """Of one ledger. ``step_ms`` is the budget of a step while streams run; ``stay_ms`` how long
    a sequence is resident, until that is known."""

    def __init__(
        self, ledger: Ledger, lane: Lane, *, max_seqs: int, step_ms: float, stay_ms: float
    ) -> None:
        self._ledger = ledger
        self._lane = lane
        self._max_seqs = max_seqs
        self._step_ms = step_ms
        self._stays_ms: dict[ServiceClass, float] = dict.fromkeys(SERVICE_CLASSES, stay_ms)
        self._loads: dict[int, _Load] = {}
        self._counted_s = -1.0
        self._num_counted = 0
        self._share = 1.0
        self.decode_ms = 0.0  # price of a step in which all streams have their token

    def added(self, seq: Sequence) -> None:
        """A newcomer waits now."""
        load = self._loads.setdefault(self._lane(seq), _Load())
        self._count_waiting(load, seq)

    def left(self, seq: Sequence, now_s: float) -> None:
        """A sequence has come to its end."""
        if seq.scheduled_s is not None:
            name, stay_ms = seq.service_class, (now_s - seq.scheduled_s) * 1e3
            self._stays_ms[name] += _STAY_WEIGHT * (stay_ms - self._stays_ms[name])

    def wait_ms(self, seq: Sequence | None, prices: PriceTable) -> float:
        """How long ``seq`` will wait for others, or whoever comes last, by this count alone."""
        self._refresh(prices)
        lane = None if seq is None else self._lane(seq)
        ahead = _Load()
        for number, load in self._loads.items():
            if lane is None or number <= lane:
                ahead.plus(load)
        num_blocks = 0 if seq is None else self._blocks(seq)
        return max(ahead.prompt_ms / self._share, self._room_ms(ahead, num_blocks))

    def own_ms(self, seq: Sequence, prices: PriceTable) -> float:
        """From its turn to its first token. On an idle machine by list price, for nothing else
        would ever show that the machine is no longer slow."""
        self._refresh(prices)
        scale = 1.0 if self._ledger.num_running else max(prices.scale, 1.0)
        return seq.cost_ms / scale / self._share + self.decode_ms

    def _room_ms(self, ahead: _Load, num_blocks: int) -> float:
        """Until there is a slot, and blocks."""
        if not ahead.num_resident:
            return 0.0
        excess = float(ahead.num_unfinished + 1 - self._max_seqs)
        lacking = ahead.num_held + ahead.num_wanted + num_blocks - self._ledger.num_usable_blocks
        if lacking > 0:
            excess = max(excess, lacking * ahead.num_resident / max(ahead.num_held, 1))
        return max(excess, 0.0) / ahead.ends_per_ms

    def _refresh(self, prices: PriceTable) -> None:
        now_s = self._ledger.now_s
        if 0.0 <= now_s - self._counted_s < _COUNT_S * self._num_counted:
            return
        self._counted_s = now_s
        seqs = self._ledger.all_unfinished()
        self._num_counted = len(seqs)
        self._loads = {}
        sums = Sums()
        for seq in seqs:
            load = self._loads.setdefault(self._lane(seq), _Load())
            if seq.slot == NO_SLOT and not seq.blocks:
                self._count_waiting(load, seq)
                continue
            load.num_unfinished += 1
            load.num_resident += 1
            load.num_held += len(seq.blocks)
            load.ends_per_ms += 1.0 / max(self._stays_ms[seq.service_class], 1e-3)
            if seq.is_decoding:
                sums = sums.plus(seq.num_computed, 1, seq.sample_mode)
            elif seq.slot != NO_SLOT:
                load.prompt_ms += seq.token_ms * seq.num_pending
        self.decode_ms = prices.step_ms(sums) if sums.rows else 0.0
        self._share = max(1.0 - self.decode_ms / self._step_ms, _LEAST_SHARE)

    def _count_waiting(self, load: _Load, seq: Sequence) -> None:
        load.num_unfinished += 1
        load.prompt_ms += seq.cost_ms
        load.num_wanted += self._blocks(seq)

    def _blocks(self, seq: Sequence) -> int:
        return -(-seq.num_tokens // self._ledger.block_size)
