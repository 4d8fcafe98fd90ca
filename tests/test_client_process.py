"""The way to an engine's process: what is left when it cannot be opened, and how it ends."""

import asyncio
import os
import resource
import signal
import tempfile
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

from prelude.client.client import EngineDeadError
from prelude.client.process import ProcessTransport
from prelude.conf.schema import Config
from tests.fakes import until

FDS = Path("/proc/self/fd")


def says_nothing(config: Config, to_engine: str, from_engine: str) -> None:
    """An engine that never says anything."""
    signal.pause()


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; at the end none may be left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("prelude-")]


class _Full(OSError):
    pass


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise _Full(24, "Too many open files")


@pytest.mark.parametrize("what", ["first", "second", "third", "process", "reader"])
async def test_nothing_is_left_of_one_that_cannot_be_opened(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    contexts: list[zmq.Context[Any]] = []
    pids: list[int] = []

    class Context(zmq.Context):  # type: ignore[type-arg]
        def __init__(self) -> None:
            super().__init__()
            contexts.append(self)

        def socket(self, *args: Any, **kwargs: Any) -> Any:
            is_first = not self._opened
            self._opened = True
            if what == ("first" if is_first else "third"):
                refuse()
            return super().socket(*args, **kwargs)

        _opened = False

    def add_reader(fd: int, *args: Any) -> None:
        pids.extend(child.pid or 0 for child in active_children())
        refuse()

    monkeypatch.setattr(zmq, "Context", Context)
    if what == "second":
        monkeypatch.setattr(zmq.asyncio, "Socket", refuse)
    if what == "process":
        monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", refuse)
    if what == "reader":
        original = loop.add_reader
        monkeypatch.setattr(
            loop,
            "add_reader",
            lambda fd, call, *args: (
                add_reader(fd) if "_on_death" in repr(call) else original(fd, call, *args)
            ),
        )
    with pytest.raises(_Full):
        ProcessTransport(Config(), says_nothing)
    assert [context.closed for context in contexts] == [True]
    assert len(pids) == (what == "reader")
    assert not any(map(alive, pids))


async def test_a_death_is_heard_of_where_no_descriptor_is_left() -> None:
    transport = ProcessTransport(Config(), says_nothing)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        os.kill(transport.pid, signal.SIGKILL)
        with pytest.raises(EngineDeadError, match="signal 9") as caught:
            await transport.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert caught.value.reason == "signal"
    await transport.close(wait=True)


async def test_one_that_is_frozen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prelude.client.process._JOIN_S", 0.2)
    transport = ProcessTransport(Config(), says_nothing)
    os.kill(transport.pid, signal.SIGSTOP)
    await transport.close(wait=True)
    assert not alive(transport.pid)
    transport.dump_stacks()  # nobody is there, and nobody else is hit


async def test_closing_can_be_cut_short() -> None:
    transport = ProcessTransport(Config(), says_nothing)
    closing = asyncio.create_task(transport.close(wait=True))
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not alive(transport.pid)
    await until(lambda: transport._pull.closed)
