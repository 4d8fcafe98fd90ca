"""The runner of devices that replay captured graphs: a step is a few copies and launches.

A launch's inputs go up in one copy, a forward program and a sampling program are replayed, sampled
ids stay in their slots and a copy of them comes back. ``submit`` waits for nothing, so the next
step can be planned and submitted while this one runs.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prelude.cache.layout import KVLayout
from prelude.graphs.buckets import Buckets
from prelude.graphs.graph_pool import GraphPool
from prelude.graphs.queue import DeviceQueue, Mark, Results
from prelude.kernels import sampling
from prelude.kernels.sampling_static import filtered_static
from prelude.models.decoder import Decoder
from prelude.runner.captured_prices import PriceList
from prelude.runner.captured_programs import AttentionPlanner, Programs
from prelude.runner.device_masks import MatchedToken
from prelude.runner.device_slots import DeviceSlots, Draw
from prelude.runner.embeddings import embedding_rows, embeddings, gather
from prelude.runner.static_inputs import pack, shapes_of
from prelude.runner.swap import Copying, Swapper
from prelude.types.plan import (
    Embedding,
    Launch,
    Plan,
    ProgramCount,
    PromptLogprobs,
    Row,
    Sampled,
    SlotAdmit,
    StepOutput,
)

_LOGPROB_TOKENS = 64  # positions scored at a time: their logits take memory


@dataclass(frozen=True, slots=True)
class _Scores:
    """Logprobs of some of a prompt's tokens, on their way to the host."""

    row: Row
    first: int
    targets: tuple[int, ...]
    read: Callable[[], Results]


@dataclass(frozen=True, slots=True)
class _Embedded:
    """Embeddings of some sequences, on their way to the host."""

    seq_ids: tuple[int, ...]
    read: Callable[[], Results]


@dataclass(frozen=True, slots=True)
class _Running:
    """A launch under way, and what will come back from it."""

    launch: Launch
    start: Mark
    end: Mark
    ids: Callable[[], Results]
    logprobs: Callable[[], Results] | None
    prompts: tuple[_Scores, ...]
    embedded: _Embedded | None
    matched: dict[int, MatchedToken]


class CapturedRunner:
    """Runs plans on ``decoder`` through programs of ``buckets``, which are captured between steps.

    Launches that fit none run uncaptured, up to ``max_step_tokens`` new tokens; above the largest
    bucket that is the intention, since launches hide under kernels that long. ``num_host_blocks``
    blocks in pinned host memory take KV that is not in use.
    """

    depth = 2

    def __init__(
        self,
        decoder: Decoder,
        layout: KVLayout,
        queue: DeviceQueue,
        planner: AttentionPlanner,
        *,
        num_blocks: int,
        num_host_blocks: int = 0,
        max_len: int,
        max_seqs: int,
        max_step_tokens: int,
        buckets: Buckets,
        draw: Draw = filtered_static,
        captures: bool = True,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = layout.block_size
        self.max_len = max_len
        self.vocab_size = decoder.spec.vocab_size
        self._queue = queue
        self._slots = DeviceSlots(
            max_seqs, max_len, layout.block_size, self.vocab_size, queue, draw
        )
        self._targets = torch.zeros(max_len, dtype=torch.int32, device=queue.device)
        self._programs = Programs(
            decoder,
            layout,
            self._slots,
            queue,
            GraphPool(queue, captures=captures),
            planner,
            num_blocks=num_blocks,
            max_tokens=max_step_tokens,
            shapes=shapes_of(buckets),
        )
        self._running: deque[tuple[Copying | None, list[_Running]]] = deque()
        self._captured_prices = PriceList(self._programs)
        with torch.no_grad():
            self._swapper = Swapper(self._programs.kv, layout, num_host_blocks, queue)
            uncaptured = PriceList(self._programs)
            uncaptured.time_some()
            self.prices = uncaptured.table()
        self.num_host_blocks = num_host_blocks
        self.swap_ms = self._swapper.swap_ms

    @property
    def programs(self) -> ProgramCount:
        return self._programs.count

    @torch.no_grad()
    def upkeep(self) -> None:
        """Capture and time what is still to be captured, a moment at a time; when all is, the
        prices are those of graphs."""
        captured = self._programs.capture_some()
        self._captured_prices.time(captured)
        if captured and self.programs.ready == self.programs.total:
            self.prices = self._captured_prices.table()

    def close(self) -> None:
        self._running.clear()
        self._queue.mark().wait()

    @torch.no_grad()
    def submit(self, plan: Plan) -> None:
        copying = self._swapper.enqueue(plan)
        self._slots.admit(plan.admits)
        self._slots.grant(plan.grants)
        self._running.append((copying, [self._launch(launch) for launch in plan.launches]))

    def collect(self) -> StepOutput:
        copying, running = self._running.popleft()
        if running:
            running[-1].end.wait()
        return StepOutput(
            tuple(token for part in running for token in self._sampled(part)),
            tuple(part.end.ms_since(part.start) for part in running),
            tuple(scores for part in running for scores in _prompt_logprobs(part)),
            copying.wait_ms() if copying else 0.0,
            tuple(found for part in running for found in _embeddings(part)),
        )

    def _launch(self, launch: Launch) -> _Running:
        start = self._queue.mark()
        shape, is_declared = self._programs.shape_of(launch)
        packed = pack(launch, shape, self._slots, self.block_size)
        self._programs.forward(shape, packed, is_declared)
        samples = any(row.samples for row in launch.rows)
        if samples:
            self._slots.masks.prepare(launch)
            self._programs.sample(shape, launch.key.mode, is_declared)
        num = len(launch.rows)
        ids = self._queue.fetch(lambda: (self._programs.ids[:num],))
        logprobs = self._logprobs(launch) if samples else None
        prompts = tuple(self._scores(launch))
        embedded = self._embedded(launch)
        end = self._queue.mark()
        matched = self._slots.masks.sampled(launch, ids, end)
        return _Running(launch, start, end, ids, logprobs, prompts, embedded, matched)

    def _admit(self, row: Row) -> SlotAdmit:
        admit = self._slots.admits[row.slot]
        assert admit is not None
        return admit

    def _logprobs(self, launch: Launch) -> Callable[[], Results] | None:
        """Of all rows if one wants them: a few launches outside any graph."""
        wanted = [self._admit(row).params.logprobs for row in launch.rows]
        counts = [count for count in wanted if count is not None]
        if not counts:
            return None
        num, programs = len(launch.rows), self._programs
        return self._queue.fetch(
            lambda: sampling.logprobs(programs.logits[:num], programs.ids[:num].long(), max(counts))
        )

    def _embedded(self, launch: Launch) -> _Embedded | None:
        seq_ids, tokens = embedding_rows(launch, self._slots.admits)
        if not tokens:
            return None
        read = self._queue.fetch(lambda: (gather(self._programs.hidden, tokens),))
        return _Embedded(seq_ids, read)

    def _scores(self, launch: Launch) -> Iterator[_Scores]:
        """Prompt logprobs: the new tokens of a row predict the prompt tokens behind them."""
        at = 0
        for row in launch.rows:
            admit, first = self._admit(row), row.start + 1
            if admit.scores_prompt:
                targets = admit.token_ids[first : min(first + row.num_tokens, admit.num_prompt)]
                for i in range(0, len(targets), _LOGPROB_TOKENS):
                    part = targets[i : i + _LOGPROB_TOKENS]
                    count = admit.params.prompt_logprobs or 0
                    yield _Scores(row, first + i, part, self._score(at + i, part, count))
            at += row.num_tokens

    def _score(self, at: int, targets: tuple[int, ...], count: int) -> Callable[[], Results]:
        num = len(targets)
        self._queue.upload(self._targets[:num], np.array(targets, dtype=np.int32))

        def compute() -> tuple[Tensor, Tensor, Tensor]:
            logits = self._programs.score(self._programs.hidden[at : at + num])
            return sampling.logprobs(logits, self._targets[:num].long(), count)

        return self._queue.fetch(compute)

    def _sampled(self, part: _Running) -> Iterator[Sampled]:
        ids: list[int] = part.ids()[0].tolist()
        scores = [result.tolist() for result in part.logprobs()] if part.logprobs else None
        for i, (row, token) in enumerate(zip(part.launch.rows, ids, strict=True)):
            if not row.samples:
                continue
            ends = part.matched[i].settle() if i in part.matched else None
            if scores is None:
                yield Sampled(row.seq_id, token, ends=ends)
            else:
                own, top_ids, top = scores
                yield Sampled(row.seq_id, token, own[i], tuple(top_ids[i]), tuple(top[i]), ends)


def _embeddings(part: _Running) -> list[Embedding]:
    return embeddings(part.embedded.seq_ids, part.embedded.read()[0]) if part.embedded else []


def _prompt_logprobs(part: _Running) -> Iterator[PromptLogprobs]:
    for scores in part.prompts:
        own, top_ids, top = (result.tolist() for result in scores.read())
        yield PromptLogprobs(
            scores.row.seq_id,
            scores.first,
            scores.targets,
            tuple(own),
            tuple(map(tuple, top_ids)),
            tuple(map(tuple, top)),
        )
