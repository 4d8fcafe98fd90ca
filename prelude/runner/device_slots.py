"""Slots whose state lives on the device, where captured programs read it by slot id.

What programs read has one address for life; host changes (a sequence enters, a block table grows)
land in buffers of their own and are scattered from there, in the queue's order. So a plan may be
submitted while an earlier one still runs.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from prelude.graphs.queue import DeviceQueue
from prelude.kernels import sampling
from prelude.kernels.sampling_static import filtered_static
from prelude.runner.device_masks import DeviceMasks, restrict
from prelude.runner.slots import base_bias, bias_of
from prelude.types.plan import BlockGrant, SlotAdmit
from prelude.types.request import SampleMode

MAX_ENDS = 64  # ids that min_tokens can forbid; requests have 48 of them at most
_INT_MAX = 2**31 - 1
_INTS = ("last", "top_k", "min_tokens")
_FLOATS = (
    *("temperature", "top_p", "min_p"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)


Draw = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class DeviceSlots:
    """``num_slots`` slots and the dummy one behind them, which padding rows use: its block table
    is the dummy block, its parameters are greedy.

    On the device: ``last`` int32 [slots + 1], ``tables`` int32 [slots + 1, width], sampling
    parameters, and the penalties' state [slots + 1, vocab]. On the host: ``host_tables`` and
    ``admits``. ``masks`` are those of constrained answers. ``draw`` is ``sampling.filtered``
    without a look at the data.
    """

    def __init__(
        self,
        num_slots: int,
        max_len: int,
        block_size: int,
        vocab_size: int,
        queue: DeviceQueue,
        draw: Draw = filtered_static,
    ) -> None:
        self.dummy = num_slots
        self.vocab_size = vocab_size
        self._queue = queue
        self._draw_ids = draw
        device, rows, width = queue.device, num_slots + 1, -(-max_len // block_size)

        def ints(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=device)

        self.last = ints(rows)
        self.tables = ints(rows, width)
        self.host_tables = np.zeros((rows, width), dtype=np.int32)
        self.admits: list[SlotAdmit | None] = [None] * num_slots
        self.masks = DeviceMasks(num_slots, vocab_size, queue)
        self._seeds = torch.zeros(rows, dtype=torch.int64, device=device)
        self._ints = ints(rows, len(_INTS))
        self._ends = ints(rows, MAX_ENDS)
        self._floats = torch.zeros(rows, len(_FLOATS), device=device)
        self._floats[self.dummy] = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
        self._counts = ints(rows, vocab_size)
        self._prompt = torch.zeros(rows, vocab_size, dtype=torch.bool, device=device)
        self._bias = torch.zeros(rows, vocab_size, device=device)
        self._biased: set[int] = set()
        self._landing_ints = ints(rows, 1 + len(_INTS) + MAX_ENDS)
        self._landing_seeds = torch.zeros_like(self._seeds)
        self._landing_floats = torch.zeros_like(self._floats)
        self._landing_grants = ints(2, rows * width)
        self._landing_ids = ints(max(max_len, vocab_size))
        self._landing_bias = torch.zeros(vocab_size, device=device)

    def admit(self, admits: tuple[SlotAdmit, ...]) -> None:
        """Sequences enter: parameters for all of them at once, penalties for who has some."""
        if not admits:
            return
        num = len(admits)
        for admit in admits:
            self.admits[admit.slot] = admit
        self.masks.admit(admits)
        self._queue.upload(self._landing_ints[:num], np.stack([_int_row(a) for a in admits]))
        self._queue.upload(
            self._landing_seeds[:num], np.array([a.seed for a in admits], dtype=np.int64)
        )
        self._queue.upload(
            self._landing_floats[:num],
            np.array([[getattr(a.params, n) for n in _FLOATS] for a in admits], dtype=np.float32),
        )
        self._queue.run(lambda: self._take(num))
        for admit in admits:
            if admit.params.has_penalties or admit.slot in self._biased:
                self._reset_penalties(admit)

    def grant(self, grants: tuple[BlockGrant, ...]) -> None:
        """Block tables grow, on the host and on the device."""
        if not grants:
            return
        width = self.host_tables.shape[1]
        where, what = [], []
        for grant in grants:
            end = grant.first + len(grant.block_ids)
            self.host_tables[grant.slot, grant.first : end] = grant.block_ids
            where.append(np.arange(grant.first, end, dtype=np.int32) + grant.slot * width)
            what.append(np.array(grant.block_ids, dtype=np.int32))
        flat = np.stack([np.concatenate(where), np.concatenate(what)])
        num = flat.shape[1]
        self._queue.upload(self._landing_grants.view(-1)[: 2 * num].view(2, num), flat)

        def scatter() -> None:
            landed = self._landing_grants.view(-1)[: 2 * num].view(2, num)
            self.tables.view(-1).index_copy_(0, landed[0].long(), landed[1])

        self._queue.run(scatter)

    def output_index(self, slot: int, end: int) -> int:
        """How many output tokens the slot's sequence has if it has ``end`` tokens in all."""
        admit = self.admits[slot]
        assert admit is not None
        return end - admit.num_prompt

    def sample(self, mode: SampleMode, logits: Tensor, slots: Tensor, index: Tensor) -> Tensor:
        """Device code of a sampling program: logits float32 [rows, vocab], slots and output
        indices int32 [rows] -> ids int32 [rows], which become the slots' last tokens."""
        scores = self._adjusted(logits, slots, index) if mode == "full" else logits
        ids = sampling.greedy(scores) if mode == "greedy" else self._draw(scores, slots, index)
        where = slots.long()
        if mode == "full":
            ones = torch.ones_like(slots)
            self._counts.view(-1).scatter_add_(0, where * self.vocab_size + ids, ones)
        self.last.index_copy_(0, where, ids.int())
        return ids.int()

    def _take(self, num: int) -> None:
        landed = self._landing_ints[:num]
        where = landed[:, 0].long()
        ints = landed[:, 1 : 1 + len(_INTS)]
        self.last.index_copy_(0, where, ints[:, 0])
        self._ints.index_copy_(0, where, ints)
        self._ends.index_copy_(0, where, landed[:, 1 + len(_INTS) :])
        self._seeds.index_copy_(0, where, self._landing_seeds[:num])
        self._floats.index_copy_(0, where, self._landing_floats[:num])

    def _draw(self, scores: Tensor, slots: Tensor, index: Tensor) -> Tensor:
        floats, ints = self._floats[slots], self._ints[slots]
        return self._draw_ids(
            scores,
            floats[:, 0],
            ints[:, 1].long(),
            floats[:, 1],
            floats[:, 2],
            self._seeds[slots],
            index.long(),
        )

    def _adjusted(self, logits: Tensor, slots: Tensor, index: Tensor) -> Tensor:
        """Penalties and bias; ids that would end the sequence are forbidden below min_tokens, and
        what a constraint does not allow."""
        floats = self._floats[slots]
        scores = sampling.penalize(
            logits,
            self._counts[slots],
            self._prompt[slots],
            floats[:, 3],
            floats[:, 4],
            floats[:, 5],
            self._bias[slots],
        )
        ends = self._ends[slots].long()
        too_early = index < self._ints[slots, 2]
        forbidden = scores.gather(1, ends).masked_fill(too_early[:, None], -torch.inf)
        scores = scores.scatter(1, ends, forbidden)
        return restrict(scores, logits, self.masks.bits[slots], self.masks.wishes[slots])

    def _reset_penalties(self, admit: SlotAdmit) -> None:
        slot, split = admit.slot, admit.num_prompt
        num, base = len(admit.token_ids), base_bias(admit.params)
        self._queue.upload(self._landing_ids[:num], np.array(admit.token_ids, dtype=np.int32))

        def reset() -> None:
            ids = self._landing_ids[:num].long()
            self._prompt[slot].zero_().index_fill_(0, ids[:split], True)
            output = ids[split:]
            ones = torch.ones_like(output, dtype=torch.int32)
            self._counts[slot].zero_().scatter_add_(0, output, ones)
            self._bias[slot].fill_(base)

        self._queue.run(reset)
        self._biased.discard(slot)
        if bias := bias_of(admit.params):
            self._biased.add(slot)
            self._bias_slot(slot, bias)

    def _bias_slot(self, slot: int, bias: dict[int, float]) -> None:
        num = len(bias)
        self._queue.upload(self._landing_ids[:num], np.array(list(bias), dtype=np.int32))
        self._queue.upload(
            self._landing_bias[:num], np.array(list(bias.values()), dtype=np.float32)
        )

        def put() -> None:
            ids = self._landing_ids[:num].long()
            self._bias[slot].index_copy_(0, ids, self._landing_bias[:num])

        self._queue.run(put)


def _int_row(admit: SlotAdmit) -> np.ndarray:
    """Slot, the columns of ``_INTS``, then what ends the sequence, repeated to fill the row."""
    params = admit.params
    ends = admit.eos_ids if params.min_tokens else ()
    assert len(ends) <= MAX_ENDS
    row = np.zeros(1 + len(_INTS) + MAX_ENDS, dtype=np.int32)
    top_k = min(params.top_k, _INT_MAX)
    row[:4] = admit.slot, admit.token_ids[-1], top_k, params.min_tokens if ends else 0
    if ends:
        row[4:] = np.resize(np.array(ends, dtype=np.int32), MAX_ENDS)
    return row
