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
_OBITUARIES = "inproc://obituaries"

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
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as undo:  # if the system refuses any of it
            self._folder = Path(tempfile.mkdtemp(prefix="prelude-"))
            undo.callback(shutil.rmtree, self._folder, ignore_errors=True)
            to_engine, from_engine = (f"ipc://{self._folder}/{name}" for name in ("to", "from"))
            self._context = zmq.Context()
            undo.callback(self._context.term)
            self._open_sockets(to_engine, from_engine, undo)
            self._process = mp.get_context("spawn").Process(
                target=main, args=(config, to_engine, from_engine), name="prelude-engine"
            )
            self._process.start()
            undo.callback(self._kill)
            assert self._process.pid is not None
            self.pid = self._process.pid
            self._dead = asyncio.Event()
            loop.add_reader(self._process.sentinel, self._on_death)
            undo.callback(loop.remove_reader, self._process.sentinel)
            self._undo = undo.pop_all()

    def _open_sockets(self, to_engine: str, from_engine: str, undo: contextlib.ExitStack) -> None:
        self._push = self._context.socket(zmq.PUSH)
        undo.callback(self._push.close, linger=0)
        self._push.set_hwm(0)
        self._push.connect(to_engine)  # messages queue from now on; the engine binds
        # Not from_socket: the plain socket behind it would, when collected after this is closed,
        # close whatever has its address by then, such as the next engine's.
        self._pull = zmq.asyncio.Socket(self._context, zmq.PULL)
        undo.callback(self._pull.close, linger=0)
        self._pull.set_hwm(0)
        self._pull.bind(from_engine)
        self._pull.bind(_OBITUARIES)
        # Opened now: when it is needed there may be no descriptor left for it.
        self._grave = self._context.socket(zmq.PUSH)
        undo.callback(self._grave.close, linger=0)
        self._grave.connect(_OBITUARIES)

    def send(self, message: ToEngine) -> None:
        self._push.send(encode(message), zmq.NOBLOCK)

    async def receive(self) -> FromEngine:
        message = decode_from_engine(await self._pull.recv())
        if isinstance(message, Failed):
            raise EngineDeadError(message.message, message.reason)
        return message

    def dump_stacks(self) -> None:
        """On its standard error: the process has a handler for this since before it was ready."""
        if self._dead.is_set():  # its number may be another's by now
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR1)

    async def close(self, *, wait: bool) -> None:
        """Without ``wait`` it is killed, for one that is starting cannot be asked."""
        with self._undo:  # also if this is cut short
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._dead.wait(), _JOIN_S if wait else 0)
            if self._process.is_alive():
                self._process.kill()
            await asyncio.to_thread(self._process.join, _JOIN_S)

    def _kill(self) -> None:
        """One that the system is not done with after all that time is left to it."""
        if self._process.is_alive():
            self._process.kill()
            self._process.join(_JOIN_S)

    def _on_death(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._process.sentinel)
        self._process.join()
        self._dead.set()
        # What the process had still sent may be on its way through the socket: let it arrive first.
        loop.call_later(_LAST_WORDS_S, self._send_obituary)

    def _send_obituary(self) -> None:
        """Death travels like any message, so that receiving has one path and costs one await."""
        if not self._grave.closed:
            self._grave.send(encode(_obituary(self._process.exitcode)), zmq.NOBLOCK)


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
