"""``prelude serve``: the socket, the engine, the server, and how they end."""

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from prelude.client.client import EngineClient, EngineDeadError
from prelude.client.process import start_engine
from prelude.conf.schema import Config, ServerConfig
from prelude.server.exposure import check_exposure, check_tls
from prelude.server.keys import Keyring
from prelude.server.listen import allow_files, name_of, open_socket, unix_socket
from prelude.server.systemd import keep_notified

if TYPE_CHECKING:
    from prelude.server.http_server import DrainingServer
    from prelude.server.rpc.listen import GrpcServer
    from prelude.server.services import Services
    from prelude.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


def serve(config: Config) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code. Raises ``ValueError`` for what the
    configuration gets wrong, ``OSError`` if the port is taken, ``EngineDeadError`` if the engine
    cannot start or dies."""
    check_tls(config.server.tls)
    check_exposure(config.server, has_keys=not Keyring(config.server).is_empty)
    allow_files(2 * config.server.limits.max_connections)
    with ExitStack() as stack:
        sockets = [stack.enter_context(one) for one in _listening(config.server)]
        runner = stack.enter_context(asyncio.Runner(loop_factory=_new_loop))
        return runner.run(_until_told(config, *sockets))


def _listening(config: ServerConfig) -> Iterator[AbstractContextManager[socket.socket]]:
    if config.uds is not None:
        yield unix_socket(Path(config.uds).expanduser())
    else:
        yield open_socket(config.host, config.port, send_timeout_s=config.send_timeout_s)
    if config.admin.port is not None:
        yield open_socket(config.admin.host, config.admin.port, key="server.admin.port")


async def _until_told(config: Config, *sockets: socket.socket) -> int:
    """SIGTERM that the server does not hear, before it listens and while the engine ends after it,
    gives up what is under way: no engine is left behind."""
    serving, loop = asyncio.Event(), asyncio.get_running_loop()
    work = asyncio.create_task(_serve(config, serving, *sockets))
    is_told = False

    def end() -> None:
        nonlocal is_told
        if not serving.is_set():
            is_told = True
            work.cancel()

    loop.add_signal_handler(signal.SIGTERM, end)
    try:
        return await work
    except asyncio.CancelledError:
        if not is_told:
            raise
        return 0


async def _serve(
    config: Config,
    serving: asyncio.Event,
    server_socket: socket.socket,
    admin_socket: socket.socket | None = None,
) -> int:
    """``serving`` is set while the server handles signals itself."""
    client = start_engine(config)
    # Imported while the engine's process starts: they take as long as a third of its own imports.
    from prelude.server.app import build_app
    from prelude.server.http_server import make_server

    try:
        tokenizer = await asyncio.to_thread(_tokenizer, config)
        app = build_app(client, tokenizer, config)
        server = make_server(app, config, admin_socket)
        scheme = "https" if config.server.tls.cert is not None else "http"
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, app.state.services.keyring.look_again)
        place = name_of(server_socket, scheme)
        watcher = asyncio.create_task(_watch(client, server, place))
        notifier = asyncio.create_task(keep_notified(client, app.state.services.lifecycle))
        grpc_server = await _start_grpc(app.state.services)
        serving.set()
        try:
            await server.serve([server_socket])
        finally:
            serving.clear()
            if grpc_server is not None:
                await grpc_server.stop()
        watcher.cancel()
        await asyncio.gather(watcher, notifier, return_exceptions=True)
        if client.error is not None:
            raise client.error
        return 0
    finally:
        await client.close()


async def _watch(client: EngineClient, server: "DrainingServer", place: str) -> None:
    """Say when the engine is ready; end the server if it could not start."""
    try:
        info = await client.wait_ready()
    except EngineDeadError:
        server.handle_exit(signal.SIGTERM, None)
        return
    logger.info("%s is ready at %s", info.model_name, place)


async def _start_grpc(services: "Services") -> "GrpcServer | None":
    if services.config.server.grpc.port is None:
        return None
    try:
        from prelude.server.rpc.listen import GrpcServer
    except ImportError as error:
        hint = "pip install 'prelude-llm[grpc]'"
        raise ValueError(f"server.grpc.port needs the extra grpc ({error}): {hint}") from error
    server = GrpcServer(services)
    await server.start()
    return server


def _tokenizer(config: Config) -> "Tokenizer":
    from prelude.models.tokenizer import load_tokenizer

    return load_tokenizer(config.model)


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
