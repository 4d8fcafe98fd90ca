"""Masks of constrained answers on the device, where captured sampling programs read them by slot.

A mask depends on the token before it, which a step under way may still be sampling. So it is made
as late as can be: the forward pass that will need it is enqueued already, and runs while the host
reads that token, fills the mask and sends it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prelude.graphs.queue import DeviceQueue, Mark, Results
from prelude.runner.masks import fill, num_words
from prelude.types.constraint import MatchEnd, Matcher
from prelude.types.plan import Launch, SlotAdmit


@dataclass(slots=True, eq=False)
class MatchedToken:
    """A token under way that ``matcher`` waits for: row ``row`` of ``ids`` behind ``end``."""

    matcher: Matcher
    row: int
    ids: Callable[[], Results]
    end: Mark
    is_known: bool = False

    def settle(self) -> MatchEnd | None:
        """Wait for it, if need be. Returns what became of the answer."""
        if not self.is_known:
            self.is_known = True
            self.end.wait()
            self.matcher.accept(int(self.ids()[0][self.row]))
        return self.matcher.ended


class DeviceMasks:
    """On the device: ``bits`` int32 [slots + 1, words], all of them set for who is free, and
    ``wishes`` int32 [slots + 1], -1 where there is none."""

    def __init__(self, num_slots: int, vocab_size: int, queue: DeviceQueue) -> None:
        self._vocab_size = vocab_size
        self._queue = queue
        words, device = num_words(vocab_size), queue.device
        self.bits = torch.full((num_slots + 1, words), -1, dtype=torch.int32, device=device)
        self.wishes = torch.full((num_slots + 1,), -1, dtype=torch.int32, device=device)
        self._landing_bits = torch.zeros_like(self.bits)
        self._landing_slots = torch.zeros(2, num_slots + 1, dtype=torch.int32, device=device)
        self._matchers: dict[int, Matcher] = {}  # by slot
        self._awaited: dict[int, MatchedToken] = {}  # by slot

    def admit(self, admits: tuple[SlotAdmit, ...]) -> None:
        """Sequences enter; who takes the slot of a constrained one is free again."""
        freed = []
        for admit in admits:
            self._awaited.pop(admit.slot, None)
            if admit.matcher is not None:
                self._matchers[admit.slot] = admit.matcher
            elif self._matchers.pop(admit.slot, None) is not None:
                freed.append(admit.slot)
        if freed:
            bits = np.full((len(freed), self.bits.shape[1]), -1, dtype=np.int32)
            self._send(freed, bits, [None] * len(freed))

    def prepare(self, launch: Launch) -> None:
        """Before the sampling of a launch whose forward pass is enqueued."""
        if not self._matchers:
            return
        slots = [row.slot for row in launch.rows if row.samples and row.slot in self._matchers]
        if not slots:
            return
        for slot in slots:
            if (token := self._awaited.pop(slot, None)) is not None:
                token.settle()
        matchers = [self._matchers[slot] for slot in slots]
        self._send(slots, fill(matchers, self._vocab_size), [m.wish_id for m in matchers])

    def sampled(
        self, launch: Launch, ids: Callable[[], Results], end: Mark
    ) -> dict[int, MatchedToken]:
        """Once everything of a launch is enqueued: its constrained tokens, by row. ``ids`` int32
        [rows] can be read behind ``end``."""
        tokens: dict[int, MatchedToken] = {}
        if not self._matchers:
            return tokens
        for i, row in enumerate(launch.rows):
            matcher = self._matchers.get(row.slot) if row.samples else None
            if matcher is not None:
                tokens[i] = self._awaited[row.slot] = MatchedToken(matcher, i, ids, end)
        return tokens

    def _send(self, slots: list[int], bits: np.ndarray, wishes: Sequence[int | None]) -> None:
        num = len(slots)
        ids = [-1 if wish is None else wish for wish in wishes]
        landing = self._landing_slots.view(-1)[: 2 * num].view(2, num)
        self._queue.upload(landing, np.array([slots, ids], dtype=np.int32))
        self._queue.upload(self._landing_bits[:num], bits)

        def put() -> None:
            where = landing[0].long()
            self.bits.index_copy_(0, where, self._landing_bits[:num])
            self.wishes.index_copy_(0, where, landing[1])

        self._queue.run(put)


def restrict(scores: Tensor, logits: Tensor, bits: Tensor, wishes: Tensor) -> Tensor:
    """Scores [rows, vocab] with -inf where a bit of int32 [rows, words] is not set, and the token
    is not what the row wishes, int32 [rows], and its likeliest. Where that leaves nothing of a row,
    for something else forbids the rest, its ``logits`` count. Device code."""
    places = torch.arange(32, dtype=torch.int32, device=bits.device)
    flags = (bits[:, :, None] >> places) & 1
    forbidden = flags.view(len(bits), -1)[:, : scores.shape[1]] == 0
    best = logits.argmax(dim=-1, keepdim=True)
    is_wished = best == wishes[:, None]
    forbidden = forbidden.scatter(1, best, forbidden.gather(1, best) & ~is_wished)
    found = scores.masked_fill(forbidden, -torch.inf)
    is_empty = found.amax(dim=-1, keepdim=True) == -torch.inf
    return torch.where(is_empty, logits.masked_fill(forbidden, -torch.inf), found)
