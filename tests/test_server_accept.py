"""Connections are accepted as fast as they come, and wait where there is no descriptor for them."""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from prelude.server import accept
from prelude.server.accept import Acceptor


class Greeter(asyncio.Protocol):
    """Says who is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hi")
        transport.close()


class Listening(socket.socket):
    """Has ``failures`` before it accepts anybody."""

    failures: tuple[OSError, ...] = ()

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            first, *rest = self.failures
            type(self).failures = tuple(rest)
            raise first
        return super().accept()


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listening]:
    monkeypatch.setattr(accept, "_RETRY_S", 0.01)
    with Listening() as opened:
        opened.bind(("127.0.0.1", 0))
        opened.listen(512)
        yield opened
    Listening.failures = ()


def callers(stack: ExitStack, listening: socket.socket, count: int) -> list[socket.socket]:
    """Connected, as far as they can tell."""
    peers = [stack.enter_context(socket.socket()) for _ in range(count)]
    for peer in peers:
        peer.connect(listening.getsockname())
        peer.setblocking(False)
    return peers


async def test_all_that_wait_are_accepted_in_a_turn_or_two(listening: Listening) -> None:
    turns = 0
    with ExitStack() as stack:
        peers = callers(stack, listening, 300)
        acceptor = Acceptor(listening, Greeter)
        while len(acceptor._opening) < 44:  # what is left for the second turn
            await asyncio.sleep(0)
            turns += 1
        assert turns <= 6
        loop = asyncio.get_running_loop()
        assert {await loop.sock_recv(peer, 9) for peer in peers} == {b"hi"}
        acceptor.close()
        await acceptor.wait_closed()
        (late,) = callers(stack, listening, 1)
        await asyncio.sleep(0)
        with pytest.raises(BlockingIOError):
            late.recv(9)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
async def test_who_finds_no_descriptor_waits_for_one(
    listening: Listening, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    Listening.failures = (OSError(number, "played"), OSError(number, "played"))
    with ExitStack() as stack, caplog.at_level(logging.WARNING):
        (peer,) = callers(stack, listening, 1)
        acceptor = Acceptor(listening, Greeter)
        assert await asyncio.get_running_loop().sock_recv(peer, 9) == b"hi"
        acceptor.close()
        await acceptor.wait_closed()
    assert [r.getMessage() for r in caplog.records] == [
        "connections wait to be accepted: played"
    ] * 2


async def test_who_has_gone_meanwhile_is_nobodys_loss(listening: Listening) -> None:
    Listening.failures = (ConnectionAbortedError(errno.ECONNABORTED, "played"),)
    with ExitStack() as stack:
        (peer,) = callers(stack, listening, 1)
        acceptor = Acceptor(listening, Greeter)
        assert await asyncio.get_running_loop().sock_recv(peer, 9) == b"hi"
        acceptor.close()


async def test_a_handshake_that_fails_leaves_nothing(listening: Listening) -> None:
    with ExitStack() as stack:
        (peer,) = callers(stack, listening, 1)
        acceptor = Acceptor(listening, Greeter, ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
        peer.send(b"no TLS\r\n\r\n")
        while await asyncio.get_running_loop().sock_recv(peer, 99):
            pass
        acceptor.close()
        await acceptor.wait_closed()
        assert not acceptor._opening
