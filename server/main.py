"""``prelude serve``: the socket, the engine, the server, and how they end."""

import asyncio
import logging
import signal
import socket
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from prelude.client.client import EngineClient, EngineDeadError
from prelude.client.process import start_engine
from prelude.conf.schema import Config
from prelude.models.tokenizer import load_tokenizer
from prelude.server.app import build_app
from prelude.server.lifecycle import Lifecycle

logger = logging.getLogger(__name__)

# What a client that stops reading can make us buffer; the kernel's own choice is megabytes.
_SEND_BUFFER_BYTES = 64 * 1024
_BACKLOG = 2048
_KEEP_ALIVE_S = 65  # longer than the minute that proxies and clients keep idle connections
_CONNECTIONS_S = 5  # for connections to close once every stream has ended


def serve(config: Config) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code. Raises ``ValueError`` for what the
    configuration gets wrong, ``OSError`` if the port is taken, ``EngineDeadError`` if the engine
    cannot start or dies."""
    server_socket = open_socket(config.server.host, config.server.port)
    try:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            return runner.run(_serve(config, server_socket))
    finally:
        server_socket.close()


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket: clients wait in its backlog from the first moment."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    try:
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise OSError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another server.port"
        ) from error
    opened.listen(_BACKLOG)
    return opened


class DrainingServer(uvicorn.Server):
    """Ends in two steps: open requests get ``drain_s`` to finish while new ones are refused,
    then connections close. A second signal ends the first step at once."""

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, drain_s: float) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._drain_s = drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self._lifecycle.hurry()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._lifecycle.drain(self._drain_s)
        await super().shutdown(sockets)


async def _serve(config: Config, server_socket: socket.socket) -> int:
    client = start_engine(config)
    try:
        tokenizer = await asyncio.to_thread(load_tokenizer, config.model)
        server = make_server(build_app(client, tokenizer, config), config)
        watcher = asyncio.create_task(_watch(client, server, server_socket))
        await server.serve([server_socket])
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        if client.error is not None:
            raise client.error
        return 0
    finally:
        await client.close()


def make_server(app: Starlette, config: Config) -> DrainingServer:
    return DrainingServer(
        uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_CONNECTIONS_S,
        ),
        app.state.services.lifecycle,
        config.server.drain_s,
    )


async def _watch(
    client: EngineClient, server: DrainingServer, server_socket: socket.socket
) -> None:
    """Say when the engine is ready; end the server if it could not start."""
    try:
        info = await client.wait_ready()
    except EngineDeadError:
        server.handle_exit(signal.SIGTERM, None)
        return
    host, port = server_socket.getsockname()[:2]
    logger.info("%s is ready at http://%s:%d", info.model_name, host, port)


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
