"""The output file: lines that are there stay there, whatever happens to the process.

Results are written and synchronised to the disk in groups: as many as have come while the group
before was being written. A run that was interrupted leaves at most one broken line, the last.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from prelude.batch.lines import Result

Sync = Callable[[int], None]


def written(path: Path) -> set[str | int]:
    """Keys of the results that are in the file already; what a crash left of a last line is cut
    off. Raises ``ValueError`` if the file is no output of a batch."""
    if not path.exists():
        return set()
    found: set[str | int] = set()
    whole = 0
    for result, end in _read(path):
        whole = end
        if (key := result.key) is not None:
            found.add(key)
    os.truncate(path, whole)
    return found


class Output:
    """Appends to ``path``. ``sync`` is given the descriptor of the file after every group."""

    def __init__(self, path: Path, sync: Sync = os.fsync) -> None:
        self._file: BinaryIO = path.open("ab", buffering=0)
        self._sync = sync
        self._waiting: list[bytes] = []
        self._lock = asyncio.Lock()

    async def add(self, result: Result) -> None:
        """Returns when the result is on the disk. Raises ``OSError`` if it cannot be."""
        self._waiting.append(msgspec.json.encode(result) + b"\n")
        async with self._lock:
            if self._waiting:
                group, self._waiting = self._waiting, []
                await asyncio.shield(asyncio.to_thread(self._write, b"".join(group)))

    def close(self) -> None:
        """Also what an interruption kept from being written."""
        if self._waiting:
            self._write(b"".join(self._waiting))
        self._file.close()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._sync(self._file.fileno())


def _read(path: Path) -> Iterator[tuple[Result, int]]:
    """Every whole line, and the byte at which it ends."""
    end = 0
    decoder = msgspec.json.Decoder(Result)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                yield decoder.decode(line), end
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise ValueError(
                    f"{path}, line {number}: this is no output of prelude batch ({error}); name "
                    "another file"
                ) from error
