"""Which hidden states of a launch are embeddings: of last tokens, of prompts that asked for it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from prelude.types.plan import Embedding, Launch, SlotAdmit


def embedding_rows(
    launch: Launch, admits: Sequence[SlotAdmit | None]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sequences whose embedding the launch computes, and which of its tokens have it. ``admits``
    are by slot."""
    if all([row.samples for row in launch.rows]):
        return (), ()
    seq_ids, tokens = [], []
    end = 0
    for row in launch.rows:
        end += row.num_tokens
        admit = admits[row.slot]
        assert admit is not None
        if admit.embeds and row.start + row.num_tokens == admit.num_prompt:
            seq_ids.append(row.seq_id)
            tokens.append(end - 1)
    return tuple(seq_ids), tuple(tokens)


def gather(hidden: Tensor, tokens: Sequence[int]) -> Tensor:
    """Float32 [len(tokens), hidden] of hidden states [all tokens, hidden]; the device need not be
    waited for."""
    return torch.stack([hidden[token] for token in tokens]).float()


def embeddings(seq_ids: Sequence[int], values: Tensor) -> list[Embedding]:
    """``values`` float32 [sequences, hidden], on the host."""
    rows = values.numpy()
    return [Embedding(i, row.tobytes()) for i, row in zip(seq_ids, rows, strict=True)]
