"""Sampling of one launch: the parameters of its rows gathered, one vectorised pass, ids back."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from prelude.kernels import sampling
from prelude.runner.inputs import LaunchInputs
from prelude.runner.masks import fill, unpack
from prelude.runner.slots import Slots
from prelude.types.constraint import MatchEnd, Matcher
from prelude.types.plan import Launch, PromptLogprobs, Row, Sampled

_LOGPROB_ROWS = 64


def sample(launch: Launch, inputs: LaunchInputs, logits: Tensor, slots: Slots) -> list[Sampled]:
    """logits float32 [sampled rows, vocab], in the order of ``inputs.sample_rows``."""
    rows = [launch.rows[i] for i in inputs.sample_rows]
    is_full = launch.key.mode == "full"
    scores = _adjusted(rows, inputs, logits, slots) if is_full else logits
    matchers = _matchers(rows, slots) if is_full else {}
    if matchers:
        scores = _restricted(scores, logits, matchers)
    ids = sampling.greedy(scores) if launch.key.mode == "greedy" else _draw(rows, scores, slots)
    slots.sampled(inputs.sample_slots, ids)
    tokens = ids.tolist()
    for i, matcher in matchers.items():
        matcher.accept(tokens[i])
    wanted = [
        slots.params(row.slot).logprobs or 0
        for row in rows
        if is_full and slots.params(row.slot).logprobs is not None
    ]
    ends = [matchers[i].ended if i in matchers else None for i in range(len(rows))]
    if not wanted:
        parts = zip(rows, tokens, ends, strict=True)
        return [Sampled(row.seq_id, token, ends=end) for row, token, end in parts]
    return _with_logprobs(rows, logits, ids, max(wanted), ends)


def prompt_logprobs(
    row: Row, hidden: Tensor, logits: Callable[[Tensor], Tensor], slots: Slots
) -> PromptLogprobs | None:
    """Logprobs of the prompt tokens that the new tokens of ``row`` predict, a few positions at a
    time: hidden [row's tokens, hidden], ``logits`` maps it to float32 [tokens, vocab]. None if
    nobody asked or the row predicts none (the end of the prompt)."""
    admit = slots.admits[row.slot]
    assert admit is not None
    first = row.start + 1
    targets = list(admit.token_ids[first : min(first + row.num_tokens, admit.num_prompt)])
    if not admit.scores_prompt or not targets:
        return None
    count = admit.params.prompt_logprobs or 0
    parts = []
    for i in range(0, len(targets), _LOGPROB_ROWS):
        ids = torch.tensor(targets[i : i + _LOGPROB_ROWS], device=hidden.device)
        parts.append(sampling.logprobs(logits(hidden[i : i + len(ids)]), ids, count))
    own, top_ids, top = (torch.cat(part).tolist() for part in zip(*parts, strict=True))
    return PromptLogprobs(
        row.seq_id,
        first,
        tuple(targets),
        tuple(own),
        tuple(map(tuple, top_ids)),
        tuple(map(tuple, top)),
    )


def _draw(rows: list[Row], scores: Tensor, slots: Slots) -> Tensor:
    at = np.array([row.slot for row in rows])
    index = np.array([_output_index(row, slots) for row in rows], dtype=np.int64)

    return sampling.filtered(
        scores,
        torch.from_numpy(slots.temperature[at]),
        torch.from_numpy(slots.top_k[at]),
        torch.from_numpy(slots.top_p[at]),
        torch.from_numpy(slots.min_p[at]),
        torch.from_numpy(slots.seeds[at]),
        torch.from_numpy(index),
    )


def _output_index(row: Row, slots: Slots) -> int:
    """How many output tokens the row's sequence had before this one: the index of the draw."""
    admit = slots.admits[row.slot]
    assert admit is not None
    return row.start + row.num_tokens - admit.num_prompt


def _adjusted(rows: list[Row], inputs: LaunchInputs, logits: Tensor, slots: Slots) -> Tensor:
    """Penalties and logit bias where a slot has them; EOS forbidden below ``min_tokens``."""
    if (state := slots.penalties) is not None:
        at = inputs.sample_slots
        numpy_at = np.array([row.slot for row in rows])
        logits = sampling.penalize(
            logits,
            state.counts[at],
            state.prompt[at],
            torch.from_numpy(slots.presence[numpy_at]),
            torch.from_numpy(slots.frequency[numpy_at]),
            torch.from_numpy(slots.repetition[numpy_at]),
            state.bias[at],
        )
    forbidden = [
        (i, token_id)
        for i, row in enumerate(rows)
        if _output_index(row, slots) < slots.params(row.slot).min_tokens
        for token_id in _ends(row, slots)
    ]
    if not forbidden:
        return logits
    pairs = torch.tensor(forbidden, dtype=torch.int64)
    return sampling.forbid(logits, pairs[:, 0], pairs[:, 1])


def _matchers(rows: list[Row], slots: Slots) -> dict[int, Matcher]:
    """Of the rows that are constrained."""
    admits = [slots.admits[row.slot] for row in rows]
    return {i: admit.matcher for i, admit in enumerate(admits) if admit and admit.matcher}


def _restricted(scores: Tensor, logits: Tensor, matchers: dict[int, Matcher]) -> Tensor:
    """Scores with -inf for what the matchers of some rows do not allow. Where that leaves nothing
    of a row, for something else forbids the rest, its logits count."""
    vocab_size = logits.shape[1]
    allowed = unpack(fill(list(matchers.values()), vocab_size), vocab_size)
    scores = scores.clone() if scores is logits else scores
    for i, flags in zip(matchers, torch.from_numpy(~allowed), strict=True):
        if (wish_id := matchers[i].wish_id) is not None and int(logits[i].argmax()) == wish_id:
            flags[wish_id] = False
        own = scores[i].masked_fill_(flags, -torch.inf)
        if not bool((own > -torch.inf).any()):
            own.copy_(logits[i].masked_fill(flags, -torch.inf))
    return scores


def _ends(row: Row, slots: Slots) -> tuple[int, ...]:
    admit = slots.admits[row.slot]
    assert admit is not None
    return admit.eos_ids


def _with_logprobs(
    rows: list[Row], logits: Tensor, ids: Tensor, count: int, ends: list[MatchEnd | None]
) -> list[Sampled]:
    own, top_ids, top = (part.tolist() for part in sampling.logprobs(logits, ids, count))
    return [
        Sampled(row.seq_id, token, logprob, tuple(tops), tuple(values), end)
        for row, token, logprob, tops, values, end in zip(
            rows, ids.tolist(), own, top_ids, top, ends, strict=True
        )
    ]
