"""``prelude serve``: the socket, the engine, the server, and how they end."""

import asyncio
import logging
import signal
import socket
from typing import TYPE_CHECKING

from prelude.client.client import EngineClient, EngineDeadError
from prelude.client.process import start_engine
from prelude.conf.schema import Config
from prelude.server.listen import open_socket

if TYPE_CHECKING:
    from prelude.server.http_server import DrainingServer
    from prelude.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


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


async def _serve(config: Config, server_socket: socket.socket) -> int:
    client = start_engine(config)
    # Imported while the engine's process starts: they take as long as a third of its own imports.
    from prelude.server.app import build_app
    from prelude.server.http_server import make_server

    try:
        tokenizer = await asyncio.to_thread(_tokenizer, config)
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


async def _watch(
    client: EngineClient, server: "DrainingServer", server_socket: socket.socket
) -> None:
    """Say when the engine is ready; end the server if it could not start."""
    try:
        info = await client.wait_ready()
    except EngineDeadError:
        server.handle_exit(signal.SIGTERM, None)
        return
    host, port = server_socket.getsockname()[:2]
    logger.info("%s is ready at http://%s:%d", info.model_name, host, port)


def _tokenizer(config: Config) -> "Tokenizer":
    from prelude.models.tokenizer import load_tokenizer

    return load_tokenizer(config.model)


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
