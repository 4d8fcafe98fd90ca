"""What a unit of ``Type=notify`` is told (sd_notify(3)): ready, still alive, ending. Nothing where
``NOTIFY_SOCKET`` is not set."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping

from prelude.client.client import EngineClient
from prelude.server.lifecycle import Lifecycle

_INTERVAL_S = 5.0
_STARTING_S = 0.5
_EXTENSION_US = 60_000_000  # a start may take as long as it says that it goes on


def notify(message: str, environ: Mapping[str, str] = os.environ) -> None:
    """One or more ``NAME=value`` lines. A manager that does not listen is none of our business."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
        opened.setblocking(False)
        opened.sendto(message.encode(), "\0" + address[1:] if address[0] == "@" else address)


async def keep_notified(
    client: EngineClient, lifecycle: Lifecycle, environ: Mapping[str, str] = os.environ
) -> None:
    """Say what the server does, and twice within ``WATCHDOG_USEC`` that it lives, until it ends.
    Once no engine will be started any more it says so no longer: the unit is then started anew."""
    if "NOTIFY_SOCKET" not in environ:
        return
    watchdog_s = int(environ.get("WATCHDOG_USEC", "0")) / 1e6
    interval_s = min(_INTERVAL_S, watchdog_s / 2) if watchdog_s else _INTERVAL_S
    is_ready = False
    while not lifecycle.is_ending:
        if client.state == "ready" and not is_ready:
            is_ready = True
            notify("READY=1", environ)
        notify(_status(client, is_ready), environ)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(interval_s if is_ready else _STARTING_S):
                await lifecycle.began.wait()
    notify("STOPPING=1\nSTATUS=ending", environ)


def _status(client: EngineClient, is_ready: bool) -> str:
    if client.error is not None:
        return f"STATUS=dead: {client.error}".replace("\n", " ")
    if client.state == "ready":
        return "WATCHDOG=1\nSTATUS=ready"
    progress = client.progress
    status = f"STATUS={client.state}: {progress.phase}, {progress.fraction:.0%}"
    return f"{status}\nWATCHDOG=1" if is_ready else f"{status}\nEXTEND_TIMEOUT_USEC={_EXTENSION_US}"
