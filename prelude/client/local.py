"""The in-process twin of the engine process: the same loop on a thread, the same client above."""

import asyncio
import contextlib
import faulthandler
import queue
import threading
from collections.abc import Callable

from prelude.client.client import EngineClient, EngineDeadError
from prelude.engine.core import EngineCore
from prelude.engine.loop import describe, run_loop
from prelude.types.wire import (
    EngineInfo,
    Failed,
    FromEngine,
    Ready,
    Shutdown,
    ToEngine,
)


class _ThreadChannel:
    """Two queues; messages are passed as they are, for they are frozen."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.inbox: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
        self.outbox: asyncio.Queue[FromEngine] = asyncio.Queue()

    def receive(self, timeout_ms: float) -> list[ToEngine]:
        messages: list[ToEngine] = []
        with contextlib.suppress(queue.Empty):
            if timeout_ms:
                messages.append(self.inbox.get(timeout=timeout_ms / 1e3))
            while True:
                messages.append(self.inbox.get_nowait())
        return messages

    def send(self, message: FromEngine) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self.outbox.put_nowait, message)


class LocalTransport:
    """Runs ``make_core`` and then the engine loop on a daemon thread of this process."""

    def __init__(self, make_core: Callable[[], tuple[EngineCore, EngineInfo]]) -> None:
        self._channel = _ThreadChannel(asyncio.get_running_loop())
        self._thread = threading.Thread(target=self._run, args=(make_core,), daemon=True)
        self._thread.start()

    def send(self, message: ToEngine) -> None:
        self._channel.inbox.put(message)

    async def receive(self) -> FromEngine:
        message = await self._channel.outbox.get()
        if isinstance(message, Failed):
            raise EngineDeadError(message.message, message.reason)
        return message

    def dump_stacks(self) -> None:
        faulthandler.dump_traceback(all_threads=True)

    async def close(self, *, wait: bool) -> None:
        self._channel.inbox.put(Shutdown())
        await asyncio.to_thread(self._thread.join)

    def _run(self, make_core: Callable[[], tuple[EngineCore, EngineInfo]]) -> None:
        try:
            core, info = make_core()
        except ValueError as error:  # somebody's setting: the message says what to do
            self._channel.send(Failed(str(error), "start"))
            return
        except Exception as error:
            self._channel.send(Failed(describe(error)))
            return
        try:
            with contextlib.closing(core):
                self._channel.send(Ready(info))
                run_loop(core, self._channel)
        except Exception as error:
            self._channel.send(Failed(describe(error)))


def start_local(make_core: Callable[[], tuple[EngineCore, EngineInfo]]) -> EngineClient:
    """An ``EngineClient`` over an engine on a thread. Call inside a running event loop."""
    return EngineClient(LocalTransport(make_core))
