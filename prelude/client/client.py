"""The engine as its callers see it: submit a prompt, iterate over its token events.

One ``EngineClient`` serves any number of concurrent requests of one event loop over one
``Transport`` (a process boundary or a thread) at a time. A request ends exactly once: with the last
``TokenEvent`` of its last choice, or with ``EngineDeadError`` when its engine is gone. Where there
is a ``Supervisor``, another engine then takes its place behind the same client.
"""

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable
from math import ceil
from typing import Literal

from prelude.client.stream import Stream as Stream
from prelude.client.supervisor import Death, Supervisor
from prelude.client.transport import EngineDeadError as EngineDeadError
from prelude.client.transport import Transport as Transport
from prelude.client.transport import Unreachable
from prelude.types.request import Request, SamplingParams
from prelude.types.service import Hints
from prelude.types.wire import (
    WIRE_VERSION,
    Abort,
    DeathReason,
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
)

logger = logging.getLogger(__name__)

EngineState = Literal["starting", "ready", "restarting", "dead"]

_LAST_LOOK_S = 1.0  # for an engine that hangs to write down where


class EngineClient:
    """Create inside a running event loop, then ``await wait_ready()``; ``close`` ends the engine.

    ``state``, ``progress``, ``info`` and ``stats`` are what the engine said last; ``on_stats`` is
    called with all statistics that it sends, once after each step. ``info`` is None while there is
    no engine that could answer, ``error`` set once there will be none any more. ``generation``
    counts the engines, ``restarts`` by why the one before had ended, ``num_lost`` requests that
    went with one. An engine that never was ready is not started again: its settings are wrong.
    """

    def __init__(self, transport: Transport, supervisor: Supervisor | None = None) -> None:
        self.state: EngineState = "starting"
        self.progress = Progress("starting", 0.0)
        self.info: EngineInfo | None = None
        self.stats = EngineStats()
        self.error: EngineDeadError | None = None
        self.on_stats: Callable[[EngineStats], None] | None = None
        self.generation = 1
        self.restarts: Counter[DeathReason] = Counter()
        self.num_lost = 0
        self.last_death: Death | None = None
        self._transport: Transport | None = transport
        self._supervisor = supervisor
        self._uids = itertools.count(1)  # of all engines: what a dead one said late is nobody's
        self._streams: dict[int, Stream] = {}
        self._started = asyncio.Event()
        self._num_heard = 0
        self._begun_s = time.monotonic()
        self._startup_s = 0.0
        self._closing: asyncio.Task[None] | None = None
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    @property
    def num_streams(self) -> int:
        return len(self._streams)

    @property
    def retry_s(self) -> int:
        """Whole seconds until an engine may be ready, judged by how long the last one took."""
        return max(ceil(self._begun_s + self._startup_s - time.monotonic()), 1)

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
        embeds: bool = False,
    ) -> Stream:
        """Start a request, for an answer or an embedding. Raises ``EngineDeadError`` at once if the
        engine is gone, and ``ValueError`` for what no engine could read, such as a token id of over
        64 bits."""
        if self.error is not None:
            raise self.error
        if self._transport is None:
            raise self._gone()
        request = Request(
            uid=next(self._uids),
            prompt_ids=prompt_ids,
            params=params,
            arrival_s=time.monotonic(),
            cache_salt=cache_salt,
            hints=hints or Hints(),
            embeds=embeds,
        )
        stream = Stream(self, request)
        try:
            self._transport.send(Submit(request))
        except (OverflowError, TypeError) as error:
            raise ValueError(f"this request cannot be sent to an engine: {error}") from error
        self._streams[request.uid] = stream
        return stream

    def send(self, message: ToEngine) -> None:
        if self._transport is not None and self.state != "dead":
            self._transport.send(message)

    def forget(self, uid: int, *, abort: bool) -> None:
        if self._streams.pop(uid, None) is not None and abort:
            self.send(Abort(uid))

    async def close(self) -> None:
        """Shut the engine down and end every open stream with ``EngineDeadError``."""
        self.send(Shutdown())
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        transport, was_ready = self._transport, self.state == "ready"
        self._end(EngineDeadError("the engine was shut down"))
        if self._closing is not None:
            await self._closing
        if transport is not None:
            await transport.close(wait=was_ready)
        self._transport = None

    async def _keep(self) -> None:
        """One engine after the other, until the supervisor says that it is enough."""
        while True:
            assert self._transport is not None
            error = await self._follow(self._transport)
            wait_s = self._backoff_s()
            self._lose(error, wait_s)
            if wait_s is None:
                self._end(error)
            await self._discard(error)
            if wait_s is None:
                return
            await self._begin(wait_s)

    async def _follow(self, transport: Transport) -> EngineDeadError:
        """Handle what the engine says until it is gone or silent; returns the cause."""
        tasks = [asyncio.create_task(self._read(transport)), asyncio.create_task(self._watch())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, transport: Transport) -> EngineDeadError:
        try:
            while True:
                self._handle(await transport.receive())
                self._num_heard += 1
        except EngineDeadError as error:
            return error
        except Exception as error:
            logger.exception("reading from the engine failed")
            return EngineDeadError(f"reading from the engine failed: {error}", "wire")

    async def _watch(self) -> EngineDeadError:
        """An engine that starts may be silent for as long as it likes."""
        await self._started.wait()
        if self._supervisor is None:
            await asyncio.Event().wait()
        assert self._supervisor is not None
        await self._supervisor.silence(lambda: self._num_heard)
        hang_s = self._supervisor.hang_s
        return EngineDeadError(f"the engine said nothing for {hang_s:g} s", "hang")

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
                self._ready(info, version)
            case Progress():
                self.progress = message
            case Failed(text, reason):
                raise EngineDeadError(text, reason)

    def _ready(self, info: EngineInfo, version: int) -> None:
        if version != WIRE_VERSION:
            raise EngineDeadError(
                f"the engine speaks version {version} of the wire, not {WIRE_VERSION}: "
                "restart the server with one version of prelude",
                "wire",
            )
        self.info = info
        self.state = "ready"
        self._startup_s = time.monotonic() - self._begun_s
        self._started.set()
        if self.generation > 1:
            logger.info("engine %d is ready after %.1f s", self.generation, self._startup_s)

    def _backoff_s(self) -> float | None:
        if self._supervisor is None or (self.generation == 1 and self.info is None):
            return None
        return self._supervisor.backoff_s()

    def _lose(self, error: EngineDeadError, wait_s: float | None) -> None:
        """The engine is gone, and with it every request that it had; another may follow."""
        self.last_death = Death(error.reason, str(error), time.monotonic(), len(self._streams))
        self.num_lost += len(self._streams)
        if self.generation > 1 or self.info is not None:
            what = f"next in {wait_s:g} s" if wait_s is not None else "no other is started"
            text = "the engine ended (%s): %s; %d requests lost; %s"
            logger.error(text, error.reason, error, len(self._streams), what)
        if wait_s is None:
            return
        self.restarts[error.reason] += 1
        self.state = "restarting"
        self.info = None
        self.stats = EngineStats()
        self.progress = Progress("waiting to start again", 0.0)
        self._started.clear()
        self._begun_s = time.monotonic() + wait_s
        self._tell_streams(EngineDeadError(str(error), error.reason, restarting=True))

    def _tell_streams(self, error: EngineDeadError) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.put(error)

    async def _discard(self, error: EngineDeadError) -> None:
        transport, self._transport = self._transport, None
        assert transport is not None
        self._closing = asyncio.create_task(_discard(transport, error))
        await asyncio.shield(self._closing)
        self._closing = None

    async def _begin(self, wait_s: float) -> None:
        assert self._supervisor is not None
        await self._supervisor.sleep(wait_s)
        self.generation += 1
        self._begun_s = time.monotonic()
        try:
            self._transport = self._supervisor.connect()
        except Exception as error:  # of the system, of sockets, of threads: nobody else sees it
            self._transport = Unreachable(error)

    def _gone(self) -> EngineDeadError:
        """Why there is no engine right now."""
        assert self.last_death is not None
        return EngineDeadError(self.last_death.message, self.last_death.reason, restarting=True)

    def _end(self, error: EngineDeadError) -> None:
        """For good."""
        if self.state == "dead":
            return
        self.state = "dead"
        self.error = error
        self._started.set()
        self._tell_streams(error)


async def _discard(transport: Transport, error: EngineDeadError) -> None:
    """One that hangs is killed; one that said what went wrong is about to end. Whatever the system
    still holds of it, another one has to follow."""
    try:
        if error.reason == "hang":
            transport.dump_stacks()
            await asyncio.sleep(_LAST_LOOK_S)
        await transport.close(wait=error.reason in ("error", "memory", "start"))
    except Exception:
        logger.exception("what was left of the engine could not be freed")
