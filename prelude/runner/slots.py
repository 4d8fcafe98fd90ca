"""What a sequence keeps while it is resident on a CPU: one row per slot, gathered by launches."""

from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from torch import Tensor

from prelude.types.plan import BlockGrant, SlotAdmit
from prelude.types.request import SamplingParams


@dataclass(slots=True)
class PenaltyState:
    """What penalties need to know of the tokens so far; exists once any request has asked.

    counts int32, prompt bool and bias float32 are [slots, vocab].
    """

    counts: Tensor
    prompt: Tensor
    bias: Tensor


def base_bias(params: SamplingParams) -> float:
    """What is added to the logit of a token that ``bias_of`` does not name."""
    return -inf if params.allowed_token_ids else 0.0


def bias_of(params: SamplingParams) -> dict[int, float]:
    """What is added to logits, by token id."""
    bias = params.logit_bias
    if not params.allowed_token_ids:
        return bias
    return {token_id: bias.get(token_id, 0.0) for token_id in params.allowed_token_ids}


class Slots:
    """``last`` int64 [slots] is the token each slot sampled last; block tables are int32
    [slots, width]."""

    def __init__(self, num_slots: int, width: int, vocab_size: int) -> None:
        self.last = np.zeros(num_slots, dtype=np.int64)
        self.block_tables = np.zeros((num_slots, width), dtype=np.int32)
        self.seeds = np.zeros(num_slots, dtype=np.int64)
        self.temperature = np.zeros(num_slots, dtype=np.float32)
        self.top_k = np.zeros(num_slots, dtype=np.int64)
        self.top_p = np.ones(num_slots, dtype=np.float32)
        self.min_p = np.zeros(num_slots, dtype=np.float32)
        self.presence = np.zeros(num_slots, dtype=np.float32)
        self.frequency = np.zeros(num_slots, dtype=np.float32)
        self.repetition = np.ones(num_slots, dtype=np.float32)
        self.admits: list[SlotAdmit | None] = [None] * num_slots
        self.penalties: PenaltyState | None = None
        self._vocab_size = vocab_size

    def admit(self, admit: SlotAdmit) -> None:
        """Take over a sequence, new or resumed: its output so far counts for its penalties."""
        slot, params = admit.slot, admit.params
        self.admits[slot] = admit
        self.last[slot] = admit.token_ids[-1]
        self.seeds[slot] = admit.seed
        for name in ("temperature", "top_k", "top_p", "min_p"):
            getattr(self, name)[slot] = getattr(params, name)
        self.presence[slot] = params.presence_penalty
        self.frequency[slot] = params.frequency_penalty
        self.repetition[slot] = params.repetition_penalty
        if params.has_penalties or self.penalties is not None:
            self._reset_penalties(admit)

    def grant(self, grant: BlockGrant) -> None:
        end = grant.first + len(grant.block_ids)
        self.block_tables[grant.slot, grant.first : end] = grant.block_ids

    def params(self, slot: int) -> SamplingParams:
        admit = self.admits[slot]
        assert admit is not None
        return admit.params

    def sampled(self, slots: Tensor, ids: Tensor) -> None:
        """Remember what the rows of a launch drew: slots and ids are int64 [rows]."""
        self.last[slots.numpy()] = ids.numpy()
        if self.penalties is not None:
            self.penalties.counts[slots, ids] += 1

    def _reset_penalties(self, admit: SlotAdmit) -> None:
        state = self.penalties or self._make_penalties()
        self.penalties = state
        slot, split = admit.slot, admit.num_prompt
        state.prompt[slot] = False
        state.prompt[slot, self._ids(admit.token_ids[:split])] = True
        output = self._ids(admit.token_ids[split:])
        state.counts[slot] = torch.bincount(output, minlength=self._vocab_size).to(torch.int32)
        state.bias[slot] = base_bias(admit.params)
        if bias := bias_of(admit.params):
            values = torch.tensor(list(bias.values()))
            state.bias[slot, self._ids(list(bias))] = values

    def _ids(self, token_ids: object) -> Tensor:
        return torch.tensor(token_ids, dtype=torch.int64)

    def _make_penalties(self) -> PenaltyState:
        shape = (len(self.admits), self._vocab_size)
        return PenaltyState(
            torch.zeros(shape, dtype=torch.int32),
            torch.zeros(shape, dtype=torch.bool),
            torch.zeros(shape, dtype=torch.float32),
        )
