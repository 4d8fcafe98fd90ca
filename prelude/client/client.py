"""The engine as its callers see it: submit a prompt, iterate over its token events.

One ``EngineClient`` serves any number of concurrent requests of one event loop over one
``Transport`` (a process boundary or a thread). A request ends exactly once: with the last
``TokenEvent`` of its last choice, or with ``EngineDeadError`` when the engine is gone.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Literal, Protocol, Self

from prelude.types.request import Request, SamplingParams, TokenEvent
from prelude.types.service import Hints
from prelude.types.wire import (
    WIRE_VERSION,
    Abort,
    EngineInfo,
    EngineStats,
    Failed,
    FromEngine,
    Progress,
    Ready,
    Shutdown,
    StepEvents,
    Submit,
    ToEngine,
    Truncate,
)

logger = logging.getLogger(__name__)

EngineState = Literal["starting", "ready", "dead"]


class EngineDeadError(RuntimeError):
    """The engine process ended or could not start; the message is the root cause."""


class Transport(Protocol):
    """Frames to and from one engine. ``receive`` raises ``EngineDeadError`` when it is gone."""

    def send(self, message: ToEngine) -> None: ...
    async def receive(self) -> FromEngine: ...
    async def close(self, *, wait: bool) -> None:
        """Free everything. ``wait`` lets an engine that was told to shut down end by itself."""
        ...


class Stream:
    """The events of one request, in order. Iterate; call ``close`` when done with it, finished
    or not (``async with`` does): an unfinished request is then aborted, a finished one is not
    touched. ``close`` is idempotent."""

    def __init__(self, client: "EngineClient", request: Request) -> None:
        self.request = request
        self._client = client
        self._queue: asyncio.Queue[TokenEvent | EngineDeadError] = asyncio.Queue()
        self._unfinished = request.params.n

    def truncate(self, index: int, num_tokens: int) -> None:
        """End choice ``index`` after its first ``num_tokens`` output tokens (stop string)."""
        self._client.send(Truncate(self.request.uid, index, num_tokens))

    def put(self, item: TokenEvent | EngineDeadError) -> None:
        self._queue.put_nowait(item)

    async def next_batch(self) -> list[TokenEvent]:
        """Everything that has arrived since the last call, at least one event; empty at the end.
        Raises ``EngineDeadError``."""
        if not self._unfinished:
            return []
        items = [await self._queue.get()]
        while not self._queue.empty():
            items.append(self._queue.get_nowait())
        events: list[TokenEvent] = []
        for item in items:
            if isinstance(item, EngineDeadError):
                if events:
                    self._queue.put_nowait(item)
                    break
                self.close()
                raise item
            events.append(item)
            self._unfinished -= item.finish_reason is not None
        if not self._unfinished:
            self._client.forget(self.request.uid, abort=False)
        return events

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        while batch := await self.next_batch():
            for event in batch:
                yield event

    def close(self) -> None:
        self._client.forget(self.request.uid, abort=self._unfinished > 0)
        self._unfinished = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class EngineClient:
    """Create inside a running event loop, then ``await wait_ready()``; ``close`` ends the engine.

    ``state``, ``progress``, ``info`` and ``stats`` are what the engine said last; ``on_stats`` is
    called with all statistics that it sends, once after each step.
    """

    def __init__(self, transport: Transport) -> None:
        self.state: EngineState = "starting"
        self.progress = Progress("starting", 0.0)
        self.info: EngineInfo | None = None
        self.stats = EngineStats()
        self.error: EngineDeadError | None = None
        self.on_stats: Callable[[EngineStats], None] | None = None
        self._transport = transport
        self._uids = itertools.count(1)
        self._streams: dict[int, Stream] = {}
        self._started = asyncio.Event()
        self._reader = asyncio.get_running_loop().create_task(self._read())

    @property
    def num_streams(self) -> int:
        return len(self._streams)

    async def wait_ready(self) -> EngineInfo:
        """Return when the engine can answer; raise ``EngineDeadError`` with the cause if never."""
        await self._started.wait()
        if self.error is not None:
            raise self.error
        assert self.info is not None
        return self.info

    def submit(
        self,
        prompt_ids: list[int],
        params: SamplingParams,
        *,
        cache_salt: str = "",
        hints: Hints | None = None,
    ) -> Stream:
        """Start a request. Raises ``EngineDeadError`` at once if the engine is gone, and
        ``ValueError`` for what no engine could read, such as a token id of over 64 bits."""
        if self.error is not None:
            raise self.error
        request = Request(
            uid=next(self._uids),
            prompt_ids=prompt_ids,
            params=params,
            arrival_s=time.monotonic(),
            cache_salt=cache_salt,
            hints=hints or Hints(),
        )
        stream = Stream(self, request)
        try:
            self._transport.send(Submit(request))
        except (OverflowError, TypeError) as error:
            raise ValueError(f"this request cannot be sent to an engine: {error}") from error
        self._streams[request.uid] = stream
        return stream

    def send(self, message: ToEngine) -> None:
        if self.state != "dead":
            self._transport.send(message)

    def forget(self, uid: int, *, abort: bool) -> None:
        if self._streams.pop(uid, None) is not None and abort:
            self.send(Abort(uid))

    async def close(self) -> None:
        """Shut the engine down and end every open stream with ``EngineDeadError``."""
        self.send(Shutdown())
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        was_ready = self.state == "ready"
        self._die(EngineDeadError("the engine was shut down"))
        await self._transport.close(wait=was_ready)

    async def _read(self) -> None:
        try:
            while True:
                self._handle(await self._transport.receive())
        except EngineDeadError as error:
            self._die(error)
        except Exception as error:
            logger.exception("reading from the engine failed")
            self._die(EngineDeadError(f"reading from the engine failed: {error}"))

    def _handle(self, message: FromEngine) -> None:
        match message:
            case StepEvents(events, stats):
                self.stats = stats
                if self.on_stats is not None:
                    self.on_stats(stats)
                for event in events:
                    if (stream := self._streams.get(event.uid)) is not None:
                        stream.put(event)
            case Ready(info, version):
                if version != WIRE_VERSION:
                    raise EngineDeadError(
                        f"the engine speaks version {version} of the wire, not {WIRE_VERSION}: "
                        "restart the server with one version of prelude"
                    )
                self.info = info
                self.state = "ready"
                self._started.set()
            case Progress():
                self.progress = message
            case Failed(text):
                raise EngineDeadError(text)

    def _die(self, error: EngineDeadError) -> None:
        if self.state == "dead":
            return
        self.state = "dead"
        self.error = error
        self._started.set()
        for stream in self._streams.values():
            stream.put(error)
