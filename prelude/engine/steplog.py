"""The step log: one versioned record per step, and one per sequence that has ended. The price fit,
the simulator's validation and bug reports all read it, so it says what was asked for, what was
planned, what it cost and what memory looked like."""

import logging
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from prelude.batcher.ledger import Ledger
from prelude.batcher.sequence import Sequence
from prelude.types.plan import Plan, StepOutput

logger = logging.getLogger(__name__)

STEP_LOG_VERSION = 2


class LaunchRecord(msgspec.Struct, frozen=True, array_like=True):
    """Key of a launch, what it was expected and found to take (ms), and its rows as
    (sequence, first position, new tokens)."""

    key: str
    price_ms: float
    actual_ms: float
    rows: list[tuple[int, int, int]]


class StepRecord(msgspec.Struct, frozen=True, tag="step"):
    """One step. ``start_s`` is the engine's monotonic clock; ``overhead_ms`` is everything of the
    step but the launches and the copies to the host and back, which take ``copy_ms``."""

    step: int
    start_s: float
    budget_ms: float
    overhead_ms: float
    launches: list[LaunchRecord]
    admitted: list[int]
    preempted: list[int]
    num_waiting: int
    num_running: int
    num_blocks_available: int
    parked: list[int] = []
    swapped: list[int] = []
    copy_ms: float = 0.0
    version: int = STEP_LOG_VERSION

    @classmethod
    def of(
        cls,
        step: int,
        start_s: float,
        overhead_ms: float,
        plan: Plan,
        output: StepOutput,
        ledger: Ledger,
    ) -> "StepRecord":
        """Of a plan that has run now."""
        return cls(
            step=step,
            start_s=start_s,
            budget_ms=plan.budget_ms,
            overhead_ms=overhead_ms,
            launches=[
                LaunchRecord(
                    str(launch.key),
                    launch.price_ms,
                    ms,
                    [(row.seq_id, row.start, row.num_tokens) for row in launch.rows],
                )
                for launch, ms in zip(plan.launches, output.actual_ms, strict=True)
            ],
            admitted=list(plan.admit),
            preempted=list(plan.preempt),
            parked=list(plan.park),
            swapped=list(plan.swap_out),
            copy_ms=output.copy_ms,
            num_waiting=ledger.num_waiting,
            num_running=ledger.num_running,
            num_blocks_available=ledger.num_available_blocks,
        )


class RequestRecord(msgspec.Struct, frozen=True, tag="request"):
    """One sequence from its arrival to its end, in seconds of the engine's monotonic clock; null
    for what never came. ``uid`` and ``index`` are the request's, ``seq_id`` that of the steps'
    rows; ``max_tokens`` is the limit that was asked for, null where none was."""

    uid: int
    index: int
    seq_id: int
    arrival_s: float
    first_token_s: float | None
    end_s: float
    num_prompt: int
    num_output: int
    max_tokens: int | None
    num_cached: int
    num_preemptions: int
    service_class: str
    client: str
    finish_reason: str
    version: int = STEP_LOG_VERSION

    @classmethod
    def of(cls, seq: Sequence, now_s: float) -> "RequestRecord":
        """Of a sequence that has ended now. One whose arrival nobody noted came when it was first
        scheduled."""
        scheduled_s = now_s if seq.scheduled_s is None else seq.scheduled_s
        return cls(
            uid=seq.request.uid,
            index=seq.index,
            seq_id=seq.seq_id,
            arrival_s=seq.request.arrival_s or scheduled_s,
            first_token_s=seq.first_token_s,
            end_s=now_s,
            num_prompt=seq.num_prompt,
            num_output=seq.num_output,
            max_tokens=seq.params.max_tokens,
            num_cached=seq.num_cached_tokens,
            num_preemptions=seq.num_preemptions,
            service_class=seq.service_class,
            client=seq.request.hints.client,
            finish_reason=seq.finish_reason or "",
        )


Record = StepRecord | RequestRecord


class StepLog:
    """Keeps the last ``keep`` records in memory; appends JSON lines to ``path`` if given."""

    def __init__(self, path: Path | None = None, keep: int = 1024) -> None:
        self._records: deque[StepRecord] = deque(maxlen=keep)
        # Unbuffered: the last steps before a crash are the ones somebody will want.
        self._file: IO[bytes] | None = path.open("ab", buffering=0) if path else None
        self._encoder = msgspec.json.Encoder()

    def __iter__(self) -> Iterator[StepRecord]:
        return iter(self._records)

    @property
    def last(self) -> StepRecord | None:
        return self._records[-1] if self._records else None

    def append(self, record: StepRecord) -> None:
        self._records.append(record)
        self._write(record)

    def ended(self, seq: Sequence, now_s: float) -> None:
        """A sequence has ended. Only the file is told."""
        if self._file:
            self._write(RequestRecord.of(seq, now_s))

    def _write(self, record: Record) -> None:
        if self._file:
            try:
                self._file.write(self._encoder.encode(record) + b"\n")
            except OSError as error:  # a full disk is no reason to end
                logger.error("the step log ends here: %s", error)
                self.close()
                self._file = None

    def close(self) -> None:
        if self._file:
            self._file.close()


def read_step_log(path: Path) -> Iterator[Record]:
    """Records of a step log file. Raises ``ValueError`` for a line that is none, and on a version
    this code does not know."""
    decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = decoder.decode(line)
            except msgspec.MsgspecError as error:
                raise ValueError(
                    f"{path}, line {number}: no record of a step log: {error}"
                ) from None
            if record.version != STEP_LOG_VERSION:
                raise ValueError(f"{path}: step log version {record.version} is not supported")
            yield record
