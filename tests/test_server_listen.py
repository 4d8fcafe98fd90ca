"""What the system does for us with connections that were accepted."""

import asyncio
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from prelude.commands.health import ask
from prelude.server.app import build_app
from prelude.server.http_server import make_server
from prelude.server.listen import name_of, open_socket, unix_socket
from tests.fakes import scripted_client
from tests.server_harness import test_config
from tests.text_samples import byte_level


@pytest.mark.skipif(sys.platform != "linux", reason="an option of Linux")
def test_who_takes_nothing_is_dropped_by_the_system_even_after_closing() -> None:
    """Nothing of ours would see it: the answer is written, and the connection only closes."""
    with open_socket("127.0.0.1", 0, send_timeout_s=0.2) as listening, socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        peer.connect(listening.getsockname())
        accepted, _ = listening.accept()
        with accepted:
            option = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert option == 200, "what is accepted has it from the socket that listens"
            accepted.settimeout(60)
            with pytest.raises(OSError) as caught:
                while True:
                    accepted.send(b"x" * 65536)
            assert isinstance(caught.value, TimeoutError | ConnectionError)


def status_at(path: Path) -> int:
    return ask(f"unix:{path}", "/health/live", timeout_s=30, insecure=False)[0]


def test_a_unix_socket_from_beginning_to_end(tmp_path: Path) -> None:
    path = tmp_path / "prelude.sock"

    async def serve() -> None:
        client, _ = scripted_client()
        config = test_config()
        app = build_app(client, byte_level(), config)
        with unix_socket(path) as opened:
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert name_of(opened, "http") == f"unix:{path}"
            server = make_server(app, config)
            task = asyncio.create_task(server._serve([opened]))
            assert await asyncio.to_thread(status_at, path) == 200
            with pytest.raises(OSError, match=r"server\.uds=.*a server listens there"):
                unix_socket(path).__enter__()
            assert await asyncio.to_thread(status_at, path) == 200, "it was not disturbed"
            server.should_exit = True
            await task
        assert not path.exists()
        await client.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def test_the_file_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "prelude.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    with unix_socket(path) as opened, socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        opened.accept()[0].close()
    assert not path.exists()


def test_whatever_took_its_place_stays(tmp_path: Path) -> None:
    path = tmp_path / "prelude.sock"
    with unix_socket(path):
        path.unlink()
        path.write_text("mine")
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("mine"), "something else than a socket"),
        (lambda path: path.mkdir(), "something else than a socket"),
        (lambda path: path.symlink_to("elsewhere"), "something else than a socket"),
        (lambda path: path.parent.rmdir(), "No such file or directory"),
    ],
)
def test_where_it_does_not_listen(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "folder" / "prelude.sock"
    path.parent.mkdir()
    make(path)
    before = list(tmp_path.rglob("*"))
    with pytest.raises(OSError, match=rf"server\.uds.*{message}"):
        unix_socket(path).__enter__()
    assert list(tmp_path.rglob("*")) == before


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"server\.uds=.*cannot listen: .*too long"):
        unix_socket(tmp_path / ("x" * 120)).__enter__()
