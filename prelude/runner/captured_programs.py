"""The programs of a captured runner: one forward per shape, one sampling program per mode and row
count, all on the same static buffers.
"""

from collections.abc import Callable, Hashable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from prelude.cache.layout import KVLayout
from prelude.graphs.graph_pool import GraphPool
from prelude.graphs.queue import DeviceQueue
from prelude.kernels.attention import AttentionMeta
from prelude.models.decoder import Decoder
from prelude.runner.device_slots import DeviceSlots
from prelude.runner.static_inputs import (
    DecodeFields,
    Packed,
    PrefillFields,
    SampleKey,
    Shape,
    dummy,
    fields,
)
from prelude.types.plan import Launch, ProgramCount
from prelude.types.prices import MODES
from prelude.types.request import SampleMode

_REPEATS = 3


class AttentionPlanner(Protocol):
    """What an attention backend does outside the graph. Arrays are int32, padded to the shape."""

    def prepare(self, shape: Shape) -> None:
        """Make ready for a shape, before its capture."""
        ...

    def plan(
        self, shape: Shape | None, cu_q: np.ndarray, ctx_lens: np.ndarray, tables: np.ndarray
    ) -> None:
        """Before every run of a program; ``shape`` is None for one that was never prepared."""
        ...


class NoPlanning:
    """For kernels that need nothing but what is on the device."""

    def prepare(self, shape: Shape) -> None:
        pass

    def plan(
        self, shape: Shape | None, cu_q: np.ndarray, ctx_lens: np.ndarray, tables: np.ndarray
    ) -> None:
        pass


class Programs:
    """``shapes`` are declared to ``pool``; others up to ``max_tokens`` new tokens run as they are.

    Static buffers on the device: ``kv`` by layer, ``hidden`` [max_tokens, hidden], ``logits``
    float32 [rows, vocab], ``ids`` int32 [rows] with the tokens sampled last.
    """

    def __init__(
        self,
        decoder: Decoder,
        layout: KVLayout,
        slots: DeviceSlots,
        queue: DeviceQueue,
        pool: GraphPool,
        planner: AttentionPlanner,
        *,
        num_blocks: int,
        max_tokens: int,
        shapes: tuple[Shape, ...],
    ) -> None:
        self._decoder = decoder
        self.max_len = slots.host_tables.shape[1] * layout.block_size
        self.kv = layout.allocate(num_blocks, queue.device)
        self._block_size = layout.block_size
        self._slots = slots
        self._queue = queue
        self._pool = pool
        self._planner = planner
        self.shapes = shapes
        self._declared = set(shapes)
        self._largest = max((s.num_tokens for s in shapes if s.kind == "prefill"), default=0)
        rows = max(shape.num_rows for shape in (*shapes, Shape("decode", slots.dummy, slots.dummy)))
        device, spec = queue.device, decoder.spec
        # Rows that no request belongs to take part in a prefill whose size is not a program's.
        size = max(sum(Shape("prefill", max_tokens, rows).sizes), 5 * rows)
        self._inputs = torch.zeros(size, dtype=torch.int32, device=device)
        self._decode_cu_q = torch.arange(rows + 1, dtype=torch.int32, device=device)
        self.hidden = torch.zeros(
            max_tokens, spec.hidden_size, dtype=decoder.norm.dtype, device=device
        )
        self.logits = torch.zeros(rows, spec.vocab_size, device=device)
        self.ids = torch.zeros(rows, dtype=torch.int32, device=device)
        self._declare(shapes)

    @property
    def count(self) -> ProgramCount:
        return self._pool.count

    def capture_some(self) -> list[Hashable]:
        """Capture for a moment; returns the keys of what was captured."""
        return self._pool.capture_some()

    def shape_of(self, launch: Launch) -> tuple[Shape, bool]:
        """The declared shape that the batcher bought for a launch; else its own, and False."""
        shape = Shape(launch.key.kind, launch.key.num_tokens, launch.key.num_rows)
        if shape in self._declared:
            return shape, True
        tokens = sum(row.num_tokens for row in launch.rows)
        return Shape(launch.key.kind, tokens, len(launch.rows)), False

    def forward(self, shape: Shape, packed: Packed, is_declared: bool) -> None:
        """Enqueue the forward pass of a packed launch."""
        self._queue.upload(self._inputs[: len(packed.flat)], packed.flat)
        self._plan(shape if is_declared else None, packed)
        if is_declared:
            self._pool.run(shape)
        elif shape.kind == "prefill" and shape.num_tokens > self._largest:
            self._queue.run(self._forward_work(shape))  # launches hide under kernels this long
        else:
            self._pool.run_undeclared(shape, self._forward_work(shape))

    def sample(self, shape: Shape, mode: SampleMode, is_declared: bool) -> None:
        """Enqueue the sampling of what ``forward`` has left in ``logits``."""
        if is_declared:
            self._pool.run(SampleKey(mode, shape.num_rows))
        else:
            self._queue.run(self._sample_work(mode, shape.num_rows))

    def score(self, hidden: Tensor) -> Tensor:
        """Logits float32 [tokens, vocab] of hidden states; device code."""
        return self._decoder.logits(hidden)

    def forward_ms(self, shape: Shape, context: int) -> float:
        """Device milliseconds of a forward program behind ``context`` tokens a row."""
        packed = dummy(shape, self._slots, context)
        return self._fastest_ms(lambda: self.forward(shape, packed, is_declared=True))

    def sample_ms(self, mode: SampleMode, num_rows: int) -> float:
        """Device milliseconds of a sampling program, on the logits of nobody."""
        self._nobody(num_rows)()
        return self._fastest_ms(lambda: self._pool.run(SampleKey(mode, num_rows)))

    def _fastest_ms(self, enqueue: Callable[[], None]) -> float:
        times = []
        for _ in range(_REPEATS):
            start = self._queue.mark()
            enqueue()
            end = self._queue.mark()
            end.wait()
            times.append(end.ms_since(start))
        return min(times)

    def _declare(self, shapes: tuple[Shape, ...]) -> None:
        for shape in shapes:
            self._pool.declare(
                shape, self._forward_work(shape), self._preparation(shape), shape.num_tokens
            )
        for num_rows in sorted({shape.num_rows for shape in shapes}):
            for mode in MODES:
                work, prepare = self._sample_work(mode, num_rows), self._nobody(num_rows)
                self._pool.declare(SampleKey(mode, num_rows), work, prepare, 0)

    def _nobody(self, num_rows: int) -> Callable[[], None]:
        """Warming a sampling program up samples: for the dummy slot, not for who is resident."""

        def prepare() -> None:
            packed = dummy(Shape("decode", num_rows, num_rows), self._slots, 0)
            self._queue.upload(self._inputs[: len(packed.flat)], packed.flat)

        return prepare

    def _preparation(self, shape: Shape) -> Callable[[], None]:
        def prepare() -> None:
            self._queue.run(lambda: self._planner.prepare(shape))
            packed = dummy(shape, self._slots, 1)
            self._queue.upload(self._inputs[: len(packed.flat)], packed.flat)
            self._plan(shape, packed)

        return prepare

    def _plan(self, shape: Shape | None, packed: Packed) -> None:
        """Planners copy to the device, so they run in its order too."""
        self._queue.run(
            lambda: self._planner.plan(shape, packed.cu_q, packed.ctx_lens, packed.block_tables)
        )

    def _forward_work(self, shape: Shape) -> Callable[[], None]:
        views = fields(shape, self._inputs)
        if isinstance(views, DecodeFields):
            return lambda: self._decode(views)
        return lambda: self._prefill(views)

    def _decode(self, inputs: DecodeFields) -> None:
        """Everything about a decode row follows from its slot and its context length."""
        size = self._block_size
        num_rows = len(inputs.slots)
        positions = inputs.ctx_lens - 1
        tables = self._slots.tables.index_select(0, inputs.slots)
        blocks = tables.gather(1, (positions // size).long()[:, None]).squeeze(1)
        meta = AttentionMeta(
            self._decode_cu_q[: num_rows + 1],
            inputs.ctx_lens,
            tables,
            (blocks * size + positions % size).long(),
        )
        hidden = self._decoder(self._known(inputs.ids), positions, self.kv, meta)
        self.hidden[:num_rows].copy_(hidden)
        self.logits[:num_rows].copy_(self._decoder.logits(hidden))

    def _prefill(self, inputs: PrefillFields) -> None:
        meta = AttentionMeta(
            inputs.cu_q,
            inputs.ctx_lens,
            self._slots.tables.index_select(0, inputs.slots),
            inputs.slot_mapping.long(),
        )
        hidden = self._decoder(self._known(inputs.ids), inputs.positions, self.kv, meta)
        self.hidden[: len(hidden)].copy_(hidden)
        sampled = hidden.index_select(0, inputs.sample_at)
        self.logits[: len(sampled)].copy_(self._decoder.logits(sampled))

    def _known(self, ids: Tensor) -> Tensor:
        """Ids with those filled in that only the device knows."""
        last = self._slots.last.index_select(0, (-1 - ids).clamp(min=0))
        return torch.where(ids >= 0, ids, last)

    def _sample_work(self, mode: SampleMode, num_rows: int) -> Callable[[], None]:
        slots, index = torch.split(self._inputs[: 2 * num_rows], num_rows)

        def sample() -> None:
            self.ids[:num_rows].copy_(
                self._slots.sample(mode, self.logits[:num_rows], slots, index)
            )

        return sample
