"""uvicorn as we run it: on our socket, in our event loop, and drained before it ends."""

import asyncio
import socket
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from prelude.conf.schema import Config
from prelude.server.listen import BACKLOG
from prelude.server.services import Services

_KEEP_ALIVE_S = 65  # longer than the minute that proxies and clients keep idle connections
_CONNECTIONS_S = 5  # for connections to close once every stream has ended


class DrainingServer(uvicorn.Server):
    """Ends in two steps: open requests get ``drain_s`` to finish while new ones are refused,
    then connections close. A second signal ends the first step at once. While it runs, the live
    view's sampler does."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._lifecycle = services.lifecycle
        self._live = services.live
        self._drain_s = services.config.server.drain_s
        self._sampler: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self._lifecycle.hurry()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._sampler = asyncio.create_task(self._live.run())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._lifecycle.drain(self._drain_s)
        await super().shutdown(sockets)
        if self._sampler is not None:
            await self._sampler


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
            backlog=BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_CONNECTIONS_S,
        ),
        app.state.services,
    )
