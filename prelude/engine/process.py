"""Entry of the engine process: build the engine, say how far it is, serve until told to stop."""

import faulthandler
import gc
import logging
import multiprocessing as mp
import os
import signal
import time
from threading import Event, Thread

import msgspec
import zmq

from prelude.conf.schema import Config
from prelude.engine.loop import describe, run_loop
from prelude.engine.progress import progress_bar
from prelude.logs import configure_logging
from prelude.types.wire import (
    Failed,
    FromEngine,
    Progress,
    Ready,
    ToEngine,
    decode_to_engine,
    encode,
)

logger = logging.getLogger(__name__)

_ORPHAN_S = 2.0  # in which the loop ends by itself


class ZmqChannel:
    """The engine's end of two ipc sockets; notices when the parent process is gone."""

    def __init__(self, to_engine: str, from_engine: str) -> None:
        self._context = zmq.Context()
        self._pull = self._context.socket(zmq.PULL)
        self._pull.set_hwm(0)
        self._pull.bind(to_engine)
        self._push = self._context.socket(zmq.PUSH)
        self._push.set_hwm(0)
        self._push.connect(from_engine)
        self._poller = zmq.Poller()
        self._poller.register(self._pull, zmq.POLLIN)
        parent = mp.parent_process()
        self._parent = int(parent.sentinel) if parent else None
        if self._parent is not None:
            self._poller.register(self._parent, zmq.POLLIN)

    def receive(self, timeout_ms: float) -> list[ToEngine]:
        ready = dict(self._poller.poll(int(timeout_ms)))
        if not ready and (rest_ms := timeout_ms % 1.0):
            time.sleep(rest_ms / 1e3)
            ready = dict(self._poller.poll(0))
        if self._parent in ready:
            raise EOFError("the parent process is gone")
        messages: list[ToEngine] = []
        while ready:
            try:
                messages.append(decode_to_engine(self._pull.recv(zmq.NOBLOCK)))
            except zmq.Again:
                break
            except msgspec.MsgspecError as error:  # one client's nonsense must not end the others
                logger.error("a message that cannot be read was dropped: %s", error)
        return messages

    def send(self, message: FromEngine) -> None:
        self._push.send(encode(message))

    def close(self) -> None:
        self._pull.close(linger=0)
        self._push.close(linger=2000)
        self._context.term()


class _NoEngineError(Exception):
    """Somebody's setting or checkpoint: the message says what to do."""


def engine_main(config: Config, to_engine: str, from_engine: str) -> None:
    """Runs in a spawned process. Start-up failures are sent as ``Failed`` with the root cause;
    signals belong to the parent, which asks for shutdown in its own time."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()  # what it did when it crashed, and on demand when it hangs
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    configure_logging(config.log.level, config.log.format.value)
    Thread(target=_end_with_parent, daemon=True).start()
    channel = ZmqChannel(to_engine, from_engine)
    code = 1
    try:
        _run(config, channel)
        code = 0
    except _NoEngineError as error:
        channel.send(Failed(str(error), "start"))
    except Exception as error:
        logger.error("the engine failed", exc_info=True)
        is_memory = isinstance(error, MemoryError)
        channel.send(Failed(describe(error), "memory" if is_memory else "error"))
    finally:
        channel.close()
    # Compile workers and OpenMP threads must not keep a finished engine alive.
    logging.shutdown()
    os._exit(code)


def _end_with_parent() -> None:
    """The loop notices by itself, but not while the engine is built, or when a step hangs."""
    if (parent := mp.parent_process()) is not None:
        parent.join()
        time.sleep(_ORPHAN_S)
        os._exit(1)


def _run(config: Config, channel: ZmqChannel) -> None:
    from prelude.cache.sizing import is_out_of_memory
    from prelude.engine.early import early_memory
    from prelude.engine.startup import process_age_s

    early, quiet = early_memory(config), Event()
    from prelude.engine.build import build_engine  # imports torch, for a second

    with progress_bar() as draw:

        def report(phase: str, fraction: float) -> None:
            draw(phase, fraction)
            channel.send(Progress(phase, fraction))

        try:
            core, info = build_engine(config, report, process_age_s(), early, quiet)
        except ValueError as error:
            raise _NoEngineError(str(error)) from error
    gc.collect()
    gc.freeze()  # what start-up made stays: collections during steps need not look at it
    try:
        channel.send(Ready(info))
        run_loop(core, channel, quiet.set)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(f"{error}; in use: {info.rules['memory']}") from error
    finally:
        core.close()
