"""The step log: one versioned record per step. The price fit, the simulator's validation and bug
reports all read it, so it says what was planned, what it cost and what memory looked like."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

STEP_LOG_VERSION = 1


class LaunchRecord(msgspec.Struct, frozen=True, array_like=True):
    """Key of a launch, what it was expected and found to take (ms), and its rows as
    (sequence, first position, new tokens)."""

    key: str
    price_ms: float
    actual_ms: float
    rows: list[tuple[int, int, int]]


class StepRecord(msgspec.Struct, frozen=True):
    """One step. ``start_s`` is the engine's monotonic clock; ``overhead_ms`` is everything of the
    step but the launches."""

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
    version: int = STEP_LOG_VERSION


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
        if self._file:
            self._file.write(self._encoder.encode(record) + b"\n")

    def close(self) -> None:
        if self._file:
            self._file.close()


def read_step_log(path: Path) -> Iterator[StepRecord]:
    """Records of a step log file. Raises ``ValueError`` on a version this code does not know."""
    decoder = msgspec.json.Decoder(StepRecord)
    with path.open("rb") as lines:
        for line in lines:
            record = decoder.decode(line)
            if record.version != STEP_LOG_VERSION:
                raise ValueError(f"{path}: step log version {record.version} is not supported")
            yield record
