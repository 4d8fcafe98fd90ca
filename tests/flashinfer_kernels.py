"""FlashInfer 0.6.9's attention kernels, slowly: they follow the schedule that a planner wrote.

Each thread block of a schedule attends to what the real one would (``prefill.cuh``,
``decode.cuh``, ``hopper/prefill_sm90.cuh``); partial results are merged as its merge kernel does.
An output is right only if the schedule covers every row exactly once.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NUM_SMS = 132
Partial = tuple[Tensor, Tensor, Tensor]  # largest score, sum of weights, weighted values
_FA2 = (
    "blocks rows rows_at tile request_at q_tile_at kv_tile_at merge_at out_at chunk_at v_at s_at "
    "valid_at graph split"
).split()
_FA3 = "q_tile_at qo_at kv_at qo_len_at kv_len_at head_at work_at batch_at shared".split()
_DECODE = "blocks v_at s_at request_at kv_tile_at out_at valid_at chunk_at graph split".split()


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a kernel is told when it is launched, and the device memory it will read."""

    schedule: Tensor
    info: Sequence[int]
    q: Tensor
    k: Tensor  # [pages, page, kv_heads, head_dim]
    v: Tensor
    qo_indptr: Tensor
    kv_indptr: Tensor
    indices: Tensor
    last_page_len: Tensor
    out: Tensor
    causal: bool
    window_left: int
    scale: float

    def ints(self, offset: int, count: int) -> list[int]:
        found: list[int] = self.schedule[offset : offset + 4 * count].view(torch.int32).tolist()
        return found

    def rows(self) -> list[tuple[int, int, Tensor, Tensor]]:
        """First token, number of tokens, keys and values of each row, from the arrays."""
        starts, pages = self.qo_indptr.tolist(), self.kv_indptr.tolist()
        found = []
        for row, last in enumerate(self.last_page_len.tolist()):
            ids = self.indices[pages[row] : pages[row + 1]].long()
            kv_len = (len(ids) - 1) * self.k.shape[1] + last
            keys, values = (
                cache[ids].flatten(0, 1)[:kv_len].double() for cache in (self.k, self.v)
            )
            found.append((starts[row], starts[row + 1] - starts[row], keys, values))
        return found

    def attend(
        self, row: tuple[int, int, Tensor, Tensor], token: int, head: int, start: int, end: int
    ) -> Partial:
        """One query's part of its row's keys ``start..end``."""
        first, qo_len, keys, values = row
        at = torch.arange(start, end)
        kv_len, kv_head = len(keys), head // (self.q.shape[1] // self.k.shape[2])
        scores = keys[start:end, kv_head] @ self.q[first + token, head].double() * self.scale
        seen = at + qo_len <= kv_len + token if self.causal else torch.ones(len(at)).bool()
        if self.window_left >= 0:
            seen &= at + qo_len + self.window_left >= kv_len + token
        scores = scores.masked_fill(~seen, -torch.inf)
        largest = scores.max() if len(at) else torch.tensor(-torch.inf)
        weights = torch.where(seen, (scores - largest).exp(), 0.0)
        return largest, weights.sum(), weights @ values[start:end, kv_head]


class Partials:
    """Parts of the output by token and head, merged at the end."""

    def __init__(self) -> None:
        self._parts: dict[tuple[int, int], list[Partial]] = defaultdict(list)

    def add(self, token: int, head: int, part: Partial) -> None:
        self._parts[token, head].append(part)

    def write(self, out: Tensor, num_parts: dict[int, int]) -> None:
        """Each token must have as many parts as the schedule will merge, for every head."""
        heads = range(out.shape[1])
        assert set(self._parts) == {(token, head) for token in num_parts for head in heads}
        for (token, head), parts in self._parts.items():
            assert len(parts) == num_parts[token], "covered twice, or not at all"
            largest, sums, mixed = (torch.stack(column) for column in zip(*parts, strict=True))
            weights = torch.where(sums > 0, (largest - largest.max()).exp(), 0.0)
            out[token, head] = (weights @ mixed / (weights @ sums)).to(out.dtype)


def fa2(inputs: Inputs) -> None:
    """Tiles of packed (token, head of the group) pairs times chunks of the context."""
    plan = dict(zip(_FA2, inputs.info, strict=True))
    rows, group = inputs.rows(), inputs.q.shape[1] // inputs.k.shape[2]
    blocks, [chunk] = plan["blocks"], inputs.ints(plan["chunk_at"], 1)
    columns = (inputs.ints(plan[at], blocks) for at in ("request_at", "q_tile_at", "kv_tile_at"))
    valid = [True] * blocks
    if plan["split"] and plan["graph"]:
        valid = inputs.schedule[plan["valid_at"] :][:blocks].bool().tolist()
        assert inputs.ints(plan["rows_at"], 1) == [int(inputs.qo_indptr[-1])]
    partials = Partials()
    for is_valid, request, q_tile, kv_tile in zip(valid, *columns, strict=True):
        if not is_valid:
            continue
        first, qo_len, keys, _ = rows[request]
        kv_len, window = len(keys), inputs.window_left if inputs.window_left >= 0 else len(keys)
        begin = max(0, kv_len + q_tile * plan["tile"] // group - qo_len - window)
        size = chunk if plan["split"] else kv_len
        start, end = (min((kv_tile + i) * size + begin, kv_len) for i in (0, 1))
        for packed in range(
            q_tile * plan["tile"], min((q_tile + 1) * plan["tile"], qo_len * group)
        ):
            token, member = divmod(packed, group)
            for kv_head in range(inputs.k.shape[2]):
                head = kv_head * group + member
                partials.add(
                    first + token, head, inputs.attend(rows[request], token, head, start, end)
                )
    num_tokens = int(inputs.qo_indptr[-1])
    merge = inputs.ints(plan["merge_at"], num_tokens + 1) if plan["split"] else None
    partials.write(
        inputs.out, {t: merge[t + 1] - merge[t] if merge else 1 for t in range(num_tokens)}
    )


def fa3(inputs: Inputs) -> None:
    """Tiles of tokens per head, dealt to the multiprocessors; contexts are not split."""
    plan = dict(zip(_FA3, inputs.info, strict=True))
    rows, tile = inputs.rows(), 192 if inputs.q.shape[2] == 64 else 128
    num_works = inputs.ints(plan["work_at"], NUM_SMS + 1)[-1]
    names = ("q_tile_at", "batch_at", "head_at", "qo_at", "qo_len_at", "kv_at", "kv_len_at")
    partials = Partials()
    for works in zip(*(inputs.ints(plan[name], num_works) for name in names), strict=True):
        q_tile, request, head, *described = works
        row = rows[request]
        assert described == [row[0], row[1], int(inputs.kv_indptr[request]), len(row[2])], "stale"
        for token in range(q_tile * tile, min((q_tile + 1) * tile, row[1])):
            for h in range(inputs.q.shape[1]) if plan["shared"] else (head,):
                partials.add(row[0] + token, h, inputs.attend(row, token, h, 0, len(row[2])))
    partials.write(inputs.out, dict.fromkeys(range(int(inputs.qo_indptr[-1])), 1))


def decode(inputs: Inputs) -> None:
    """One token per row on the CUDA cores, times chunks of the context."""
    plan = dict(zip(_DECODE, inputs.info, strict=True))
    rows, blocks, [chunk] = inputs.rows(), plan["blocks"], inputs.ints(plan["chunk_at"], 1)
    columns = (inputs.ints(plan[at], blocks) for at in ("request_at", "kv_tile_at"))
    valid: list[Any] = [True] * blocks
    if plan["split"]:
        valid = inputs.schedule[plan["valid_at"] :][:blocks].bool().tolist()
    partials = Partials()
    for is_valid, request, kv_tile in zip(valid, *columns, strict=True):
        if is_valid:
            kv_len = len(rows[request][2])
            size = chunk if plan["split"] else kv_len
            start, end = (min((kv_tile + i) * size, kv_len) for i in (0, 1))
            for head in range(inputs.q.shape[1]):
                partials.add(request, head, inputs.attend(rows[request], 0, head, start, end))
    merge = inputs.ints(plan["out_at"], len(rows) + 1)
    partials.write(
        inputs.out, {r: merge[r + 1] - merge[r] if plan["split"] else 1 for r in range(len(rows))}
    )
