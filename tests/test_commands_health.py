"""Probes by command: what it prints and how it exits."""

import asyncio
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from prelude.cli import main
from tests.server_harness import serving

Capture = pytest.CaptureFixture[str]


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that gives one answer to everything, which is its path if the body is empty."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body or self.path.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


async def test_a_server_that_is_ready(capsys: Capture) -> None:
    async with serving() as server:
        assert await asyncio.to_thread(main, ["health", server.url]) == 0
        assert capsys.readouterr().out == '{"status": "ready", "model": "test-model"}\n'
        assert await asyncio.to_thread(main, ["health", "--live", server.url]) == 0
        assert capsys.readouterr().out == '{"status": "live"}\n'
        await server.services.lifecycle.drain(0)
        assert await asyncio.to_thread(main, ["health", server.url]) == 1
        assert capsys.readouterr().out == '{"status": "draining", "open": 0}\n'
        assert await asyncio.to_thread(main, ["health", server.url, "--live"]) == 0


@pytest.mark.parametrize(
    ("flags", "path"), [([], "/health/ready"), (["--live"], "/health/live")], ids=str
)
def test_which_path_is_asked(capsys: Capture, flags: list[str], path: str) -> None:
    with answering(200, b"") as url:
        assert main(["health", url.removeprefix("http://"), *flags]) == 0
    assert capsys.readouterr().out == f"{path}\n"


@pytest.mark.parametrize(
    ("body", "shown"),
    [(b"<html>", "<html>"), (b"[1]", "[1]"), (b'{"a": 1}', '{"a": 1}'), (b"\xff", "\ufffd")],
)
def test_answers_of_others_are_shown_as_they_are(capsys: Capture, body: bytes, shown: str) -> None:
    with answering(502, body) as url:
        assert main(["health", url]) == 1
    assert capsys.readouterr().out == f"{shown}\n"


def test_nobody_there(capsys: Capture) -> None:
    with answering(200, b"") as url:
        pass
    assert main(["health", url]) == 1
    assert capsys.readouterr().err.startswith(f"prelude: error: {url}: ")


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "http://:80", "http://x:port", "server.port=80"]
)
def test_what_is_no_url(capsys: Capture, url: str) -> None:
    assert main(["health", url]) == 2
    assert capsys.readouterr().err.startswith("prelude: error: ")
