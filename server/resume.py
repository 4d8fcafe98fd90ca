"""Streams that outlive their connection for a while: ``X-Prelude-Resume: 1`` asks for it.

Every event then has an ``id``. A client that lost its connection sends the request again with the
id that it saw last as ``Last-Event-ID`` and gets the rest. What nobody comes back for is aborted
when its time is up. Without the header nothing is kept, and who leaves ends the request at once.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable
from functools import partial

from prelude.server.errors import ApiError

logger = logging.getLogger(__name__)

Chunks = AsyncGenerator[bytes, None]

_STREAM_BYTES = 2**20


class Kept:
    """One stream: those of its events that are kept, and who follows it now.

    It takes from ``chunks`` as long as there is room for what nobody was sent yet. Events that were
    sent are kept as well, as far as there is room: nobody knows which of them arrived. ``on_close``
    is called once, when ``chunks`` has ended or was given up; ``on_error`` writes the last event of
    a stream that fails.
    """

    def __init__(
        self,
        keeper: "Keeper",
        name: str,
        owner: str,
        chunks: Chunks,
        on_close: Callable[[], None],
        on_error: Callable[[ApiError], bytes],
    ) -> None:
        self.name = name
        self.owner = owner
        self.on_error = on_error
        self._keeper = keeper
        self._chunks = chunks
        self._events: deque[bytes] = deque()
        self._num_bytes = 0
        self._last = 0  # number of the newest event
        self._sent = 0  # number of the newest that who follows now was sent
        self._reader = 0
        self._on_close = on_close
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._task = asyncio.get_running_loop().create_task(self._take())
        self._task.add_done_callback(self._taken)

    @property
    def is_over(self) -> bool:
        """Nothing will come any more, and nobody is reading."""
        return self._task.done() and self._timer is not None

    def has(self, number: int) -> bool:
        """Whether all that follows event ``number`` is here, or will be."""
        return self._last - len(self._events) <= number <= self._last

    def follow(self, number: int) -> tuple[Chunks, Callable[[], None]]:
        """What follows event ``number``, to the end, and what to call when its reader is gone.
        Whoever followed before is told no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._reader += 1
        self._sent = number
        self._news.set()
        return self._read(number, self._reader), partial(self._left, self._reader)

    def end(self) -> None:
        """Nobody will come back; who still follows is told no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        self._reader += 1
        self._news.set()
        self._task.cancel()
        self._shrink(len(self._events))
        self._keeper.forget(self)

    def _left(self, reader: int) -> None:
        if reader == self._reader and not self._sent:
            self.end()  # who has seen no event has no id to come back with
        elif reader == self._reader and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._keeper.wait_s, self.end)

    async def _read(self, number: int, reader: int) -> Chunks:
        while self._reader == reader:
            if (count := self._last - number) > 0:
                found = b"".join([self._events[n - count] for n in range(count)])
                self._sent = number = self._last
                self._room.set()
                yield found
            elif self._task.done():
                if self._error is not None:
                    raise self._error.with_traceback(None)
                return
            else:
                self._news.clear()
                await self._news.wait()

    async def _take(self) -> None:
        try:
            async for chunk in self._chunks:
                self._keep(chunk)
                while self._has_too_much() and self._sent < self._last:
                    self._room.clear()
                    await self._room.wait()
        except Exception as error:
            if not isinstance(error, ApiError):
                logger.exception("a stream failed")
            self._error = error
        finally:
            await self._chunks.aclose()

    def _taken(self, task: asyncio.Task[None]) -> None:
        """Also of one that was cancelled before it began."""
        self._news.set()
        self._on_close()

    def _keep(self, chunk: bytes) -> None:
        before = self._num_bytes
        for event in chunk.split(b"\n\n")[:-1]:
            self._last += 1
            numbered = b"id: %b-%d\n%b\n\n" % (self.name.encode(), self._last, event)
            self._events.append(numbered)
            self._num_bytes += len(numbered)
        self._keeper.num_bytes += self._num_bytes - before
        if self._has_too_much():
            self._keeper.make_room()
            self._forget_sent()
        self._news.set()

    def _forget_sent(self) -> None:
        while self._has_too_much() and self._last - len(self._events) < self._sent:
            self._shrink(1)

    def _shrink(self, count: int) -> None:
        """Without the oldest ``count`` events."""
        size = sum(len(self._events.popleft()) for _ in range(count))
        self._num_bytes -= size
        self._keeper.num_bytes -= size

    def _has_too_much(self) -> bool:
        return self._num_bytes > _STREAM_BYTES or self._keeper.is_full


class Keeper:
    """All streams that are kept: each at most one MiB, all together ``max_bytes``, and none for
    longer than ``wait_s`` seconds without its client; 0 keeps none."""

    def __init__(self, wait_s: float, max_bytes: int) -> None:
        self.wait_s = wait_s
        self.num_bytes = 0
        self._max_bytes = max_bytes
        self._streams: dict[str, Kept] = {}

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def is_full(self) -> bool:
        return self.num_bytes > self._max_bytes

    def keep(
        self,
        owner: str,
        chunks: Chunks,
        on_close: Callable[[], None],
        on_error: Callable[[ApiError], bytes],
    ) -> Kept | None:
        """None where there is no room for another one."""
        self.make_room()
        if not self.wait_s or self.is_full:
            return None
        name = secrets.token_urlsafe(16)
        kept = self._streams[name] = Kept(self, name, owner, chunks, on_close, on_error)
        return kept

    def find(self, name: str, number: int, owner: str) -> Kept:
        """The stream whose event ``number`` its ``owner`` saw last. Raises ``ApiError`` 404: that
        it is somebody else's is nobody's business."""
        kept = self._streams.get(name)
        if kept is None or kept.owner != owner or not kept.has(number):
            raise ApiError(
                404,
                "Last-Event-ID: there is no such stream, or not any more, or what follows that "
                "event is not kept; send the request without this header to begin anew",
                param="Last-Event-ID",
                code="stream_not_found",
            )
        return kept

    def make_room(self) -> None:
        """At the cost of what is complete and waits for its reader only, oldest first."""
        for kept in list(self._streams.values()) if self.is_full else ():
            if kept.is_over and self.is_full:
                kept.end()

    def forget(self, kept: Kept) -> None:
        self._streams.pop(kept.name, None)
