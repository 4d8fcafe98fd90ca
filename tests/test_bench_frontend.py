"""The price of a streamed token, from a real server process; and servers that do not start."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from prelude.bench import frontend
from prelude.bench.frontend import frontend_us_per_token, running_server
from tests.text_samples import byte_level_folder


def replying(reply: bytes) -> Iterator[int]:
    """A socket that answers one connection with ``reply``."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: _reply(server, reply))
        thread.start()
        yield server.getsockname()[1]
        thread.join(30)


def _reply(server: socket.socket, reply: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(reply)


@pytest.mark.parametrize(
    ("reply", "ready"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 503 Starting\r\n\r\n", False),
        (b"HTTP/1.1 404 No\r\n\r\n", False),
    ],
)
def test_ready_is_what_the_health_route_says(reply: bytes, ready: bool) -> None:
    for port in replying(reply):
        assert frontend._answers(port) is ready


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert not frontend._answers(port)


def test_the_load_is_bounded_and_streams() -> None:
    config = frontend._load("http://127.0.0.1:1/v1", 1000, 5.0)
    assert config.num_requests == 8, "1,000 tokens in requests of 128"
    assert config.duration_s == 5.0
    assert config.stream and config.ignore_eos
    assert not config.probe


def test_a_server_that_cannot_start_says_why() -> None:
    with (
        pytest.raises(RuntimeError, match=r"ended at once.*server\.prot"),
        running_server(["server.prot=1"]),
    ):
        pytest.fail("it started")


def test_a_server_that_is_never_ready_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    original = subprocess.Popen

    def sleeping(_: list[str], **options: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "print('hanging', flush=True); input()"]
        child = original(command, stdin=subprocess.PIPE, **options)  # type: ignore[call-overload]
        started.append(child)
        assert isinstance(child, original)
        return child

    monkeypatch.setattr(subprocess, "Popen", sleeping)
    with pytest.raises(RuntimeError, match="not ready in 0 s"), running_server([], 0.0):
        pytest.fail("it was ready")
    (child,) = started
    assert child.poll() is not None
    assert child.stdin is not None
    child.stdin.close()


def test_a_server_that_ignores_the_signal_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(frontend, "STOP_TIMEOUT_S", 0.05)
    code = "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        frontend._stop(child)
        assert child.returncode == -9


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> str:
    """A small tokenizer in the form of a checkpoint."""
    folder = tmp_path / "tokenizer"
    shutil.copytree(byte_level_folder(), folder)
    (folder / "config.json").write_text("{}")
    return str(folder)


@pytest.mark.slow
def test_a_token_through_a_real_server_costs_something(tokenizer_folder: str) -> None:
    price = frontend_us_per_token(2000, max_s=60.0, tokenizer=tokenizer_folder)
    assert 1.0 < price < 10_000.0


@pytest.mark.slow
def test_the_server_is_gone_afterwards(tokenizer_folder: str) -> None:
    arguments = [*frontend.SERVER_ARGUMENTS, f"model.tokenizer={tokenizer_folder}"]
    with running_server(arguments) as (base_url, pid):
        assert base_url.startswith("http://127.0.0.1:")
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
