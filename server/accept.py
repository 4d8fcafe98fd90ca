"""Accepting connections as fast as they come.

uvloop accepts one connection in each turn of the event loop (libuv 1.52 does): while thousands
stream, a turn takes milliseconds, newcomers come faster than that, and once the backlog is full the
system drops them, to be tried again after one second, three, seven.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from ssl import SSLContext

logger = logging.getLogger(__name__)

_AT_ONCE = 256  # some 20 ms; streams go on between two turns
_RETRY_S = 1.0


class Acceptor:
    """Gives every connection of a ``listening`` socket a protocol, all that wait in one turn. Ends
    as an ``asyncio.Server`` does, but leaves the socket open."""

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        ssl: SSLContext | None = None,
    ) -> None:
        self._listening = listening
        self._protocol = protocol
        self._ssl = ssl
        self._opening: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(listening, self._accept)

    def close(self) -> None:
        """Accept no more."""
        self._loop.remove_reader(self._listening)
        if self._retry is not None:
            self._retry.cancel()

    async def wait_closed(self) -> None:
        """Until what was accepted has its protocol."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, _ = self._listening.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # who came has gone
            except OSError as error:
                self._pause(error)
                return
            task = self._loop.create_task(self._open(accepted))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, accepted, ssl=self._ssl)
        except OSError:  # it has gone, or TLS came to nothing
            accepted.close()

    def _pause(self, error: OSError) -> None:
        """Until there may be a free descriptor again: who waits goes on waiting."""
        logger.warning("connections wait to be accepted: %s", error.strerror)
        self._loop.remove_reader(self._listening)
        self._retry = self._loop.call_later(_RETRY_S, self._resume)

    def _resume(self) -> None:
        self._loop.add_reader(self._listening, self._accept)
