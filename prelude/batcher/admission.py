"""Who is let in: a queue of bounded length, and only such promises as can be kept.

A request that would miss its deadline is refused when it comes, with the time after which it is
worth trying again; one that misses it all the same is ended, before it runs if it has not begun.
How long a newcomer waits is foretold from the work ahead of it, and corrected by how long those
before it did wait, class by class. ``batch`` has no hurry: it is refused for the queue's
length alone.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import msgspec

from prelude.batcher.backlog import Backlog, Lane
from prelude.batcher.deadlines import Deadlines
from prelude.batcher.ledger import Ledger
from prelude.batcher.rules import Rules
from prelude.batcher.sequence import Sequence
from prelude.conf.schema import Policy
from prelude.types.errors import (
    REFUSAL_CODES,
    Refusal,
    RefusalCode,
    RefusedError,
    RequestError,
)
from prelude.types.prices import PriceTable, Sums
from prelude.types.request import Request
from prelude.types.service import SERVICE_CLASSES, Hints, ServiceClass

_CLASS_LANES: dict[ServiceClass, int] = {"fast": 0, "doc": 1, "deep": 1, "batch": 2}
_LEARNING = 0.05
_MOST = 8.0


def lane_of(policy: Policy) -> Lane:
    """Who comes before whom under a policy, by and large."""
    if policy == Policy.class_aware:
        return lambda name, request: _CLASS_LANES[name]
    if policy == Policy.priority:
        return lambda name, request: request.hints.priority
    return lambda name, request: 0


@dataclass(slots=True)
class _Waits:
    """Running means of what was foretold and of what came true; long waits count most."""

    foretold_ms: float = 1.0
    real_ms: float = 1.0

    @property
    def ratio(self) -> float:
        return max(min(self.real_ms / self.foretold_ms, _MOST), 1.0 / _MOST)

    def observe(self, foretold_ms: float, real_ms: float) -> None:
        self.foretold_ms += _LEARNING * (foretold_ms - self.foretold_ms)
        self.real_ms += _LEARNING * (real_ms - self.real_ms)


class Admission:
    """Of one ledger. ``refused`` counts requests that were refused and sequences that expired, in
    the order of ``REFUSAL_CODES``; prices are passed in because they change."""

    def __init__(self, ledger: Ledger, backlog: Backlog, rules: Rules, max_waiting: int) -> None:
        self.refused: tuple[int, ...] = (0,) * len(REFUSAL_CODES)
        self.max_waiting = max_waiting
        self._ledger = ledger
        self._backlog = backlog
        self._rules = rules
        self._deadlines = Deadlines()
        self._waits = {name: _Waits() for name in SERVICE_CLASSES}

    def has_room(self, count: int) -> bool:
        """True unless ``count`` more sequences would find the queue full now."""
        return self._ledger.num_waiting + count <= self.max_waiting

    def arrive(self, request: Request, prices: PriceTable) -> None:
        """Before anything else is done for it, for an overload must not be made worse by those it
        turns away. Raises ``RequestError`` if it has more choices than may ever wait,
        ``RefusedError`` if the queue is full or it would be too late whatever it is."""
        if request.params.n > self.max_waiting:
            raise RequestError(f"n: at most {self.max_waiting} choices may wait at once")
        if not self.has_room(request.params.n):
            wait_ms = self._backlog.most_wait_ms(prices)
            self._refuse("queue_full", wait_ms, num_waiting=self._ledger.num_waiting)
        if (name := request.hints.service_class) == "batch":
            self._check_class(name, request.params.n, self._backlog.most_wait_ms(prices))
        elif request.hints.has_deadline:
            least = min([waits.ratio for waits in self._waits.values()])
            wait_ms = least * self._backlog.least_wait_ms(request, prices)
            ttft_ms = wait_ms + self._passed_ms(self._ledger.arrival_s(request))
            self._check_deadlines(request.hints, None, wait_ms, ttft_ms, ttft_ms)

    def admit(self, group: Seq[Sequence], prices: PriceTable) -> None:
        """Its sequences, which have a class now and do not wait yet. Raises ``RefusedError`` if
        too many of their class wait or if they would be too late, ``RequestError`` if they alone
        are too many or cost too much."""
        first = group[0]
        self._check_cost(group, prices)
        name = first.service_class
        first.wait_ms = self._backlog.wait_ms(first, prices)
        first.own_ms = self._backlog.own_ms(first, prices)
        wait_ms = first.wait_ms * self._waits[name].ratio
        if name != "batch":
            self._check_class(name, len(group), wait_ms)
            ttft_ms = self._passed_ms(first.arrival_s) + wait_ms + first.own_ms
            total_ms = ttft_ms + self._answer_ms(first)
            self._check_deadlines(first.request.hints, name, wait_ms, ttft_ms, total_ms)
        for seq in group:
            self._backlog.added(seq)
            self._deadlines.watch(seq)

    def answered(self, seq: Sequence) -> None:
        """Its first token is here: has it waited as long as was foretold?"""
        if seq.wait_ms and seq.first_token_s is not None:
            waited_ms = max((seq.first_token_s - seq.arrival_s) * 1e3 - seq.own_ms, 0.0)
            self._waits[seq.waited_as or seq.service_class].observe(seq.wait_ms, waited_ms)

    def ended(self, seq: Sequence) -> None:
        """How long sequences stay is learned from those that come to an end of their own."""
        if seq.finish_reason in ("stop", "length"):
            self._backlog.left(seq, self._ledger.now_s)

    def expired(self, prices: PriceTable) -> list[tuple[Sequence, Refusal]]:
        """Those to be ended now, for a deadline has passed."""
        found = []
        for seq, refusal in self._deadlines.expired(self._ledger.now_s):
            self._count(refusal.code)
            wait_ms = self._backlog.wait_ms(seq, prices) * self._waits[seq.service_class].ratio
            found.append((seq, msgspec.structs.replace(refusal, retry_after_s=wait_ms / 1e3)))
        return found

    def _passed_ms(self, arrival_s: float) -> float:
        return (self._ledger.now_s - arrival_s) * 1e3

    def _answer_ms(self, seq: Sequence) -> float:
        """From its first token to its last, at the pace of now; as short as it may well be."""
        least = float(max(seq.params.min_tokens, 1))
        return (self._num_tokens(seq, least) - 1.0) * self._backlog.decode_ms

    def _num_tokens(self, seq: Sequence, unknown: float) -> float:
        """Of its answer, as foreseen; ``unknown`` where nothing is."""
        params, use = seq.params, self._rules.use
        if use.contract and params.ignore_eos:
            return seq.max_tokens
        if use.prediction and seq.prediction is not None:
            return max(min(seq.prediction.q50, seq.max_tokens), params.min_tokens, 1.0)
        return unknown

    def _check_cost(self, group: Seq[Sequence], prices: PriceTable) -> None:
        """By the price of computing it alone; an answer of unknown length counts in full."""
        limit_ms = group[0].request.hints.max_cost_ms
        if limit_ms is None:
            return
        cost_ms = 0.0
        for seq in group:
            one_ms = prices.step_ms(Sums().plus(seq.num_prompt, 1, seq.sample_mode))
            cost_ms += seq.cost_ms + self._num_tokens(seq, seq.max_tokens) * one_ms
        if cost_ms > limit_ms:
            raise RequestError(
                f"max_tokens: this would take about {cost_ms:.0f} ms of the device, and one "
                f"request may take {limit_ms:g} ms; ask for fewer tokens, or with a shorter prompt"
            )

    def _check_class(self, name: ServiceClass, num: int, wait_ms: float) -> None:
        limit = self._rules.classes[name].max_waiting
        if limit is None:
            return
        if num > limit:
            raise RequestError(f"n: at most {limit} choices of class {name} may wait at once")
        num_waiting = len(self._ledger.line(name))
        if num_waiting + num > limit:
            self._refuse("class_full", wait_ms, name, num_waiting=num_waiting)

    def _check_deadlines(
        self,
        hints: Hints,
        name: ServiceClass | None,
        wait_ms: float,
        ttft_ms: float,
        total_ms: float,
    ) -> None:
        promises: tuple[tuple[RefusalCode, float, float | None], ...] = (
            ("ttft_infeasible", ttft_ms, hints.ttft_deadline_ms),
            ("deadline_infeasible", total_ms, hints.deadline_ms),
        )
        for code, estimate_ms, limit_ms in promises:
            if limit_ms is not None and estimate_ms > limit_ms:
                self._refuse(code, wait_ms, name, estimate_ms=estimate_ms, limit_ms=limit_ms)

    def _refuse(
        self,
        code: RefusalCode,
        wait_ms: float,
        name: ServiceClass | None = None,
        *,
        num_waiting: int = 0,
        estimate_ms: float = 0.0,
        limit_ms: float = 0.0,
    ) -> None:
        self._count(code)
        raise RefusedError(Refusal(code, wait_ms / 1e3, name, num_waiting, estimate_ms, limit_ms))

    def _count(self, code: RefusalCode) -> None:
        self.refused = tuple(
            num + (code == other) for num, other in zip(self.refused, REFUSAL_CODES, strict=True)
        )
