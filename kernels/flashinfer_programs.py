"""Launches as FlashInfer runs them: planned on the host, then attention for every layer.

``CapturedProgram`` belongs to a bucket and its kernels sit in a graph: only what its arrays on the
device hold may change from one launch to the next. ``ExactProgram`` runs launches of any size that
no graph holds.
"""

from typing import Any, Protocol

from torch import Tensor

from prelude.kernels.flashinfer_batch import NO_ROWS, HostRows, lay_out
from prelude.kernels.flashinfer_buckets import LAYOUT, AttentionShape, Bucket, plan_prefill
from prelude.kernels.flashinfer_staging import Lane, StagingSet

FA3_TOKENS = 4096  # setting "auto" takes fa3 from here up
_MANY = 1 << 30


class Program(Protocol):
    """``plan`` a launch before it runs, then ``run`` it once per layer."""

    def plan(self, rows: HostRows) -> None: ...

    def run(self, window: int, q: Tensor, kv: Tensor, out: Tensor) -> None: ...


class CapturedProgram:
    """A bucket's wrappers, one per window, on the arrays and schedules of ``lane``."""

    def __init__(
        self, library: Any, bucket: Bucket, block_size: int, workspace: Tensor, lane: Lane
    ) -> None:
        self._bucket, self._block_size, self._lane = bucket, block_size, lane
        self._wrappers: dict[int, Any] = {}
        self._arguments = {
            (staging, window): (
                *(workspace, schedule, staging.schedules[window]),
                *bucket.arguments(staging.batch, window),
            )
            for staging in lane.sets
            for window, schedule in lane.schedules.items()
        }
        for window, schedule in lane.schedules.items():
            wrapper = bucket.wrapper(library, workspace, lane.batch)
            wrapper._int_workspace_buffer = schedule
            self._wrappers[window] = wrapper
        with lane.staging() as staging:
            indices = self._send(staging, NO_ROWS)
            for window, wrapper in self._wrappers.items():
                wrapper._pin_memory_int_workspace_buffer = staging.schedules[window]
                bucket.first_plan(wrapper, staging.batch, indices, window)
            lane.scheduled = None

    def plan(self, rows: HostRows) -> None:
        lane, bucket = self._lane, self._bucket
        with lane.staging() as staging:
            self._send(staging, rows)
            pages = staging.arrays.kv_indptr[: bucket.num_rows + 1].tobytes()
            if bucket.pages_decide and lane.scheduled == (bucket, pages):
                return
            lane.scheduled = None
            for window, wrapper in self._wrappers.items():
                arguments = self._arguments[staging, window]
                wrapper._plan_info = wrapper._cached_module.plan(*arguments)
            lane.scheduled = (bucket, pages)

    def run(self, window: int, q: Tensor, kv: Tensor, out: Tensor) -> None:
        self._wrappers[window].run(q, kv, out=out)

    def _send(self, staging: StagingSet, rows: HostRows) -> Tensor:
        bucket = self._bucket
        num_tokens = bucket.num_tokens if bucket.pads_tokens else int(rows.cu_q[-1])
        num_pages = lay_out(staging.arrays, rows, self._block_size, bucket.num_rows, num_tokens)
        return self._lane.upload(staging, num_pages)


class ExactProgram:
    """Ragged prefill of any size, planned the documented way: its cost hides behind the launch."""

    def __init__(
        self, library: Any, shape: AttentionShape, workspace: Tensor, lane: Lane, setting: str
    ) -> None:
        self._shape, self._lane, self._setting = shape, lane, setting
        self._wrappers: dict[tuple[str, int], Any] = {}
        for backend in dict.fromkeys((choose_backend(setting, 1), choose_backend(setting, _MANY))):
            for window, schedule in lane.schedules.items():
                wrapper = library.BatchPrefillWithPagedKVCacheWrapper(
                    workspace, LAYOUT, backend=backend
                )
                wrapper._int_workspace_buffer = schedule
                self._wrappers[backend, window] = wrapper
            self._plan(backend, NO_ROWS, num_rows=1, num_tokens=1)

    def plan(self, rows: HostRows) -> None:
        num_tokens = int(rows.cu_q[-1])
        self._plan(choose_backend(self._setting, num_tokens), rows, len(rows.ctx_lens), num_tokens)

    def run(self, window: int, q: Tensor, kv: Tensor, out: Tensor) -> None:
        self._wrappers[self._backend, window].run(q, kv, out=out)

    def _plan(self, backend: str, rows: HostRows, num_rows: int, num_tokens: int) -> None:
        with self._lane.staging() as staging:
            batch = staging.arrays
            num_pages = lay_out(batch, rows, self._shape.block_size, num_rows, num_tokens)
            indices = self._lane.upload(staging, num_pages)
            for window, schedule in staging.schedules.items():
                wrapper = self._wrappers[backend, window]
                wrapper._pin_memory_int_workspace_buffer = schedule
                plan_prefill(wrapper, self._shape, staging.batch, indices, num_rows, window)
        self._backend = backend


def choose_backend(setting: str, num_tokens: int) -> str:
    """FlashInfer's backend for a prefill launch: ``fa3`` wins on long ones and loses on short."""
    if setting != "auto":
        return setting
    return "fa3" if num_tokens >= FA3_TOKENS else "fa2"
