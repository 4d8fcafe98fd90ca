"""The engine in its own process, reached over ZeroMQ ipc sockets: msgpack, one message a step."""

import asyncio
import contextlib
import multiprocessing as mp
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import zmq
import zmq.asyncio

from prelude.client.client import EngineClient, EngineDeadError
from prelude.client.supervisor import Supervisor
from prelude.conf.schema import Config
from prelude.openmp import share_cores
from prelude.types.wire import Failed, FromEngine, ToEngine, decode_from_engine, encode

_JOIN_S = 10.0
_LAST_WORDS_S = 0.3

Main = Callable[[Config, str, str], None]


def run_engine(config: Config, to_engine: str, from_engine: str) -> None:
    """What the process runs. The engine's modules are imported there, not here."""
    from prelude.engine.process import engine_main

    engine_main(config, to_engine, from_engine)


class ProcessTransport:
    """Spawns the engine process and talks to it. Its death, however it comes, is reported by
    ``receive`` after everything it had sent has been delivered. ``main`` is what it runs."""

    def __init__(self, config: Config, main: Main = run_engine) -> None:
        share_cores()
        self._folder = Path(tempfile.mkdtemp(prefix="prelude-"))
        to_engine = f"ipc://{self._folder}/to"
        self._from_engine = f"ipc://{self._folder}/from"
        self._context = zmq.Context()
        self._push = self._context.socket(zmq.PUSH)
        self._push.set_hwm(0)
        self._push.connect(to_engine)  # messages queue from now on; the engine binds
        # Not from_socket: the plain socket behind it would, when collected after this is closed,
        # close whatever has its address by then, such as the next engine's.
        self._pull = zmq.asyncio.Socket(self._context, zmq.PULL)
        self._pull.set_hwm(0)
        self._pull.bind(self._from_engine)
        self._process = mp.get_context("spawn").Process(
            target=main, args=(config, to_engine, self._from_engine), name="prelude-engine"
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self._dead = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._process.sentinel, self._on_death)

    def send(self, message: ToEngine) -> None:
        self._push.send(encode(message), zmq.NOBLOCK)

    async def receive(self) -> FromEngine:
        message = decode_from_engine(await self._pull.recv())
        if isinstance(message, Failed):
            raise EngineDeadError(message.message, message.reason)
        return message

    def dump_stacks(self) -> None:
        """On its standard error: the process has a handler for this since before it was ready."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR1)

    async def close(self, *, wait: bool) -> None:
        """Without ``wait`` it is killed, for one that is starting cannot be asked."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._dead.wait(), _JOIN_S if wait else 0)
        if self._process.is_alive():
            self._process.kill()
        await asyncio.to_thread(self._process.join)
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._pull.close(linger=0)
        self._push.close(linger=0)
        self._context.term()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _on_death(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._process.sentinel)
        self._process.join()
        self._dead.set()
        # What the process had still sent may be on its way through the socket: let it arrive first.
        loop.call_later(_LAST_WORDS_S, self._send_obituary)

    def _send_obituary(self) -> None:
        """Death travels like any message, so that receiving has one path and costs one await."""
        if self._pull.closed:
            return
        with self._context.socket(zmq.PUSH) as push:
            push.linger = int(_LAST_WORDS_S * 1e3)
            push.connect(self._from_engine)
            push.send(encode(_obituary(self._process.exitcode)))


def _obituary(code: int | None) -> Failed:
    text = "the engine process ended unexpectedly"
    if code is None or code >= 0:
        return Failed(f"{text} (exit code {code})", "exit")
    hint = ", which the system sends when memory runs out" if code == -signal.SIGKILL else ""
    return Failed(f"{text} (signal {-code}{hint})", "signal")


def start_engine(config: Config, main: Main = run_engine) -> EngineClient:
    """Spawn the engine process for ``config``, and another one whenever it ends. Call inside a
    running event loop; returns at once: await ``wait_ready`` for the engine, or watch ``progress``.
    """
    supervisor = Supervisor(lambda: ProcessTransport(config, main), config.server.supervisor)
    return EngineClient(supervisor.connect(), supervisor)
