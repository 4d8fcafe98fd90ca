"""How much work is ahead of a newcomer: counted over all sequences now and then, and in between
corrected by who came.

Sequences are in lanes; those in a lower one and those in the same come first. What a newcomer waits
for is the device, until the prompts ahead of it are computed in the part of the time that streams
leave; and a slot and blocks, until as many of those ahead of it have ended as there are too many.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from prelude.batcher.ledger import Ledger
from prelude.batcher.sequence import NO_SLOT, Sequence
from prelude.types.prices import PriceTable, Sums
from prelude.types.request import Request
from prelude.types.service import ServiceClass

Lane = Callable[[ServiceClass, Request], int]

_COUNT_S = 5e-5  # a sequence: counting takes a hundredth of that
_LEAST_SHARE = 0.1
_STAY_WEIGHT = 0.05
_LEAST_STAY_MS = 1e-3
_ONE = Sums().plus(0, 1, "greedy")


@dataclass(slots=True)
class _Load:
    """Of one lane: sequences, milliseconds of prompt, blocks held or wanted, and how many would
    end in a millisecond if all were resident."""

    num_seqs: int = 0
    prompt_ms: float = 0.0
    num_blocks: int = 0
    ends_per_ms: float = 0.0

    def plus(self, other: "_Load") -> None:
        self.num_seqs += other.num_seqs
        self.prompt_ms += other.prompt_ms
        self.num_blocks += other.num_blocks
        self.ends_per_ms += other.ends_per_ms


class Backlog:
    """Of one ledger. ``step_ms`` is the budget of a step while streams run; sequences are taken to
    be resident for ``quantum`` tokens, until more is known."""

    def __init__(
        self, ledger: Ledger, lane: Lane, *, max_seqs: int, step_ms: float, quantum: int
    ) -> None:
        self._ledger = ledger
        self._lane = lane
        self._max_seqs = max_seqs
        self._step_ms = step_ms
        self._quantum = quantum
        self._stays_ms: dict[ServiceClass, float] = {}
        self._guess_ms = 0.0  # of a stay, where none is known
        self._loads: dict[int, _Load] = {}
        self._counted_s = -1.0
        self._num_counted = 0
        self._share = 1.0
        self.decode_ms = 0.0  # price of a step in which all streams have their token

    def added(self, seq: Sequence) -> None:
        """A newcomer waits now."""
        self._count(seq)

    def left(self, seq: Sequence, now_s: float) -> None:
        """A sequence has come to its end."""
        if seq.scheduled_s is not None:
            name, stay_ms = _came_as(seq), (now_s - seq.scheduled_s) * 1e3
            mean_ms = self._stays_ms.get(name, stay_ms)
            self._stays_ms[name] = mean_ms + _STAY_WEIGHT * (stay_ms - mean_ms)

    def wait_ms(self, seq: Sequence, prices: PriceTable) -> float:
        """How long a newcomer will wait for others, by this count alone."""
        return self._wait_ms(self._lane(seq.service_class, seq.request), self._blocks(seq), prices)

    def least_wait_ms(self, request: Request, prices: PriceTable) -> float:
        """The same of a request that nothing is known of yet, if all goes well for it."""
        return self._wait_ms(self._lane("fast", request), 0, prices)

    def most_wait_ms(self, prices: PriceTable) -> float:
        """The same of whoever comes last."""
        return self._wait_ms(inf, 0, prices)

    def own_ms(self, seq: Sequence, prices: PriceTable) -> float:
        """From its turn to its first token. On an idle machine by list price, for nothing else
        would ever show that the machine is no longer slow."""
        self._refresh(prices)
        scale = 1.0 if self._ledger.num_running else max(prices.scale, 1.0)
        return seq.cost_ms / scale / self._share + self.decode_ms

    def _wait_ms(self, lane: float, num_blocks: int, prices: PriceTable) -> float:
        self._refresh(prices)
        ahead = _Load()
        for number, load in self._loads.items():
            if number <= lane:
                ahead.plus(load)
        return max(ahead.prompt_ms / self._share, self._room_ms(ahead, num_blocks))

    def _room_ms(self, ahead: _Load, num_blocks: int) -> float:
        """Until there is a slot, and blocks."""
        if not ahead.num_seqs:
            return 0.0
        excess = float(ahead.num_seqs + 1 - self._max_seqs)
        lacking = ahead.num_blocks + num_blocks - self._ledger.num_usable_blocks
        if lacking > 0:
            excess = max(excess, lacking * ahead.num_seqs / ahead.num_blocks)
        resident = min(self._max_seqs / ahead.num_seqs, 1.0)
        return max(excess, 0.0) / (ahead.ends_per_ms * resident)

    def _refresh(self, prices: PriceTable) -> None:
        now_s = self._ledger.now_s
        if 0.0 <= now_s - self._counted_s < _COUNT_S * self._num_counted:
            return
        self._counted_s = now_s
        seqs = self._ledger.all_unfinished()
        self._num_counted = len(seqs)
        self._loads = {}
        self._guess_ms = self._quantum * prices.step_ms(_ONE)
        sums = Sums()
        for seq in seqs:
            self._count(seq)
            if seq.is_decoding:
                sums = sums.plus(seq.num_computed, 1, seq.sample_mode)
        self.decode_ms = prices.step_ms(sums) if sums.rows else 0.0
        self._share = max(1.0 - self.decode_ms / self._step_ms, _LEAST_SHARE)

    def _count(self, seq: Sequence) -> None:
        load = self._loads.setdefault(self._lane(seq.service_class, seq.request), _Load())
        load.num_seqs += 1
        stay_ms = self._stays_ms.get(_came_as(seq), self._guess_ms)
        load.ends_per_ms += 1.0 / max(stay_ms, _LEAST_STAY_MS)
        load.num_blocks += len(seq.blocks) or self._blocks(seq)
        if seq.slot == NO_SLOT:
            load.prompt_ms += seq.cost_ms
        elif not seq.is_decoding:
            load.prompt_ms += seq.token_ms * seq.num_pending

    def _blocks(self, seq: Sequence) -> int:
        return -(-seq.num_tokens // self._ledger.block_size)


def _came_as(seq: Sequence) -> ServiceClass:
    """Classes change while a sequence runs; what is known of newcomers is how they came."""
    return seq.waited_as or seq.service_class
