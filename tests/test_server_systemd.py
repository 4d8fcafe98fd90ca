"""What a service manager is told, over a socket that it opened."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from prelude.client.client import EngineClient
from prelude.server.lifecycle import Lifecycle
from prelude.server.systemd import keep_notified, notify
from prelude.types.wire import Progress, Ready
from tests.fakes import ScriptedTransport, scripted_client, some_info


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
        opened.bind(str(tmp_path / "notify"))
        opened.setblocking(False)
        yield opened


async def told(manager: socket.socket, what: str) -> str:
    """The next message that has ``what`` in it."""
    loop = asyncio.get_running_loop()
    while True:
        message = (await loop.sock_recv(manager, 4096)).decode()
        if what in message:
            return message


class Unit:
    def __init__(self, manager: socket.socket, watchdog_us: int = 0) -> None:
        self.client: EngineClient
        self.transport: ScriptedTransport
        self.client, self.transport = scripted_client()
        self.lifecycle = Lifecycle()
        environ = {"NOTIFY_SOCKET": manager.getsockname()}
        if watchdog_us:
            environ["WATCHDOG_USEC"] = str(watchdog_us)
        self.task = asyncio.create_task(keep_notified(self.client, self.lifecycle, environ))


async def test_a_unit_starts_is_ready_and_stops(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prelude.server.systemd._STARTING_S", 0.001)
    unit = Unit(manager)
    unit.transport.say(Progress("loading weights", 0.5))
    starting = await told(manager, "loading weights, 50%")
    assert "EXTEND_TIMEOUT_USEC=" in starting
    assert "WATCHDOG" not in starting
    unit.transport.say(Ready(some_info()))
    assert await told(manager, "READY") == "READY=1"
    assert await told(manager, "STATUS") == "WATCHDOG=1\nSTATUS=ready"
    unit.lifecycle.begin()
    await unit.task
    assert (await told(manager, "STOPPING=1")).startswith("STOPPING=1")
    await unit.client.close()


async def test_a_server_whose_engine_is_gone_for_good_lets_its_watchdog_bite(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prelude.server.systemd._STARTING_S", 0.001)
    unit = Unit(manager, watchdog_us=2000)
    unit.transport.say(Ready(some_info()))
    await told(manager, "WATCHDOG=1")
    await told(manager, "WATCHDOG=1")
    unit.transport.die("out of\nmemory")
    dead = await told(manager, "dead")
    assert dead == "STATUS=dead: out of memory"
    unit.lifecycle.begin()
    await unit.task
    await unit.client.close()


async def test_without_a_manager_nothing_is_said() -> None:
    client, _ = scripted_client()
    await keep_notified(client, Lifecycle(), {})
    notify("READY=1", {})
    notify("READY=1", {"NOTIFY_SOCKET": "/nonexistent/socket"})
    await client.close()


def test_abstract_addresses() -> None:
    name = "prelude-test-notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
        opened.bind("\0" + name)
        notify("READY=1", {"NOTIFY_SOCKET": "@" + name})
        assert opened.recv(100) == b"READY=1"
