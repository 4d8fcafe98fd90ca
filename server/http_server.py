"""uvicorn as we run it: on our socket, in our event loop, and drained before it ends."""

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from prelude.conf.schema import Config
from prelude.server.accept import Acceptor
from prelude.server.admin import build_admin_app
from prelude.server.app import operator_routes
from prelude.server.connection import bounded
from prelude.server.listen import BACKLOG
from prelude.server.services import Services

_KEEP_ALIVE_S = 65  # longer than the minute that proxies and clients keep idle connections
_CONNECTIONS_S = 5  # for connections to close once every stream has ended


class DrainingServer(uvicorn.Server):
    """Ends in two steps: open requests get ``drain_s`` to finish while new ones are refused,
    then connections close. A second signal ends the first step at once. While it runs, the live
    view's sampler does, and ``beside``: a server on its own socket, which ends last."""

    def __init__(
        self,
        config: uvicorn.Config,
        services: Services,
        beside: tuple[uvicorn.Server, socket.socket] | None = None,
    ) -> None:
        super().__init__(config)
        self._beside = beside
        self._beside_task: asyncio.Task[None] | None = None
        self._lifecycle = services.lifecycle
        self._live = services.live
        self._drain_s = services.config.server.drain_s
        self._tracer = services.tracer
        self._sampler: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self._lifecycle.hurry()
        self._lifecycle.begin()  # at once: the loop below looks ten times a second only
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        self.servers = [self._acceptor(one) for one in sockets or ()]  # type: ignore[misc]
        self._sampler = asyncio.create_task(self._live.run())
        if self._beside is not None:
            server, opened = self._beside
            # _serve is serve without signal handlers, which are this server's
            self._beside_task = asyncio.create_task(server._serve([opened]))

    def _acceptor(self, listening: socket.socket) -> Acceptor:
        made: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        state = self.lifespan.state
        protocol = partial(
            made, config=self.config, server_state=self.server_state, app_state=state
        )
        return Acceptor(listening, protocol, self.config.ssl)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._lifecycle.drain(self._drain_s)
        await super().shutdown(sockets)
        if self._sampler is not None:
            await self._sampler
        if self._beside is not None and self._beside_task is not None:
            self._beside[0].should_exit = True
            await self._beside_task
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)


def make_server(
    app: Starlette, config: Config, admin_socket: socket.socket | None = None
) -> DrainingServer:
    """``admin_socket`` is where ``server.admin`` listens, if it does."""
    services: Services = app.state.services
    beside = None
    if admin_socket is not None:
        admin = build_admin_app(services, operator_routes())
        beside = (uvicorn.Server(_uvicorn_config(admin, config)), admin_socket)
    return DrainingServer(_uvicorn_config(app, config), services, beside)


def _uvicorn_config(app: Starlette, config: Config) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="none",
        http=bounded(config.server),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_CONNECTIONS_S,
        ssl_certfile=config.server.tls.cert,
        ssl_keyfile=config.server.tls.key,
    )
