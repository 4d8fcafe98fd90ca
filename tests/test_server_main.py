"""The process: socket, tokenizer, readiness, signals, drain, and what it must not import."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from prelude.conf.schema import Config
from prelude.server import main
from prelude.server.http_server import DrainingServer, make_server
from prelude.server.listen import open_socket
from tests.fakes import scripted_client, some_info
from tests.server_harness import parse_events
from tests.text_samples import byte_level_folder

# A whole server process with an engine on a thread, whose model never ends and can be held.
SCRIPT = """
import sys
from pathlib import Path
from prelude.client.client import EngineClient, EngineDeadError
from prelude.client.local import start_local
from prelude.conf.schema import Config
from prelude.server import main
from tests.server_harness import Engine, engine_info, make_core, says
from tests.text_samples import byte_level

mode = sys.argv[1]
config = Config()
config.model.name = "test-model"
config.model.path = sys.argv[2]
config.server.port = 0
config.server.drain_s = float(sys.argv[3])
opened = main.open_socket("127.0.0.1", 0)
print(opened.getsockname()[1], flush=True)
main.open_socket = lambda host, port, **options: opened


def engine(config: Config) -> EngineClient:
    tokenizer = byte_level()
    setup = Engine(says(tokenizer, "word ", forever=True), max_len=10_000)
    core = make_core(setup, tokenizer, config)
    info = engine_info(setup, tokenizer, Path("/nonexistent"))

    def made():
        if mode == "broken":
            raise ValueError("model.path: there is nothing here")
        return core, info

    return start_local(made)


main.start_engine = engine
try:
    code = main.serve(config)
except EngineDeadError as error:
    print(f"engine: {error}", flush=True)
    code = 7
print("torch" in sys.modules, "transformers" in sys.modules, flush=True)
sys.exit(code)
"""


@contextmanager
def server_process(mode: str, drain_s: float) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-c", SCRIPT, mode, str(byte_level_folder()), str(drain_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_env()) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}


def lines(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.read().splitlines()


def http(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=60, trust_env=False)


def test_a_signal_lets_streams_end_with_an_error_and_the_process_with_zero() -> None:
    body = {"prompt": "x", "max_tokens": 9000, "stream": True}
    with server_process("endless", 0.2) as (process, url), http(url) as client:
        while client.get("/health/ready").status_code != 200:
            pass
        with client.stream("POST", "/v1/completions", json=body) as response:
            pieces = response.iter_bytes()
            received = next(pieces)
            process.send_signal(signal.SIGTERM)
            received += b"".join(pieces)
        events = parse_events(received)
        assert events[-1] == "[DONE]"
        last = events[-2]
        done_in_time = "choices" in last and last["choices"][0]["finish_reason"] == "length"
        assert done_in_time or last["error"]["code"] == "shutdown"
        assert process.wait() == 0
        assert lines(process) == ["False False"]


def test_a_second_signal_ends_it_now() -> None:
    body = {"prompt": "x", "max_tokens": 9000, "n": 4, "stream": True}
    with server_process("endless", 10_000) as (process, url), http(url) as client:
        while client.get("/health/ready").status_code != 200:
            pass
        with client.stream("POST", "/v1/completions", json=body) as response:
            pieces = response.iter_bytes()
            next(pieces)
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGTERM)
            assert b"[DONE]" in b"".join(pieces)
        assert process.wait() == 0


def test_an_engine_that_cannot_start_ends_the_server_with_its_reason() -> None:
    with server_process("broken", 1) as (process, _):
        assert process.wait() == 7
        assert "engine: model.path: there is nothing here" in lines(process)


def test_the_application_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, prelude.server.app, prelude.text.tokenizer;"
        "print([m for m in ('torch', 'transformers', 'numpy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_socket_listens_at_once_with_a_small_send_buffer() -> None:
    with open_socket("127.0.0.1", 0) as opened:
        port = opened.getsockname()[1]
        # Linux reports twice what was set, for its own bookkeeping
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 4 * 64 * 1024
        with socket.create_connection(("127.0.0.1", port)):
            pass
        with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port}.*server\.port"):
            open_socket("127.0.0.1", port)


def test_ipv6_and_a_host_that_is_not_ours() -> None:
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        with open_socket("::1", 0) as opened:
            assert opened.family == socket.AF_INET6
    with pytest.raises(OSError, match="cannot listen on"):
        open_socket("203.0.113.1", 0)


async def test_signals_are_counted_and_never_raised_again() -> None:
    from prelude.server.app import build_app
    from tests.text_samples import byte_level

    client, transport = scripted_client()
    app = build_app(client, byte_level(), Config())
    server = make_server(app, Config())
    assert isinstance(server, DrainingServer)
    lifecycle = app.state.services.lifecycle
    server.handle_exit(signal.SIGTERM, None)
    assert server.should_exit
    assert not lifecycle.expired.is_set()
    server.handle_exit(signal.SIGTERM, None)
    assert lifecycle.expired.is_set()
    assert server._captured_signals == []
    await client.close()
    assert transport.closed
    assert some_info().max_len


@pytest.mark.parametrize("is_serving", [False, True])
async def test_a_signal_that_nobody_listens_to_ends_what_is_under_way(
    is_serving: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, heard = asyncio.Event(), asyncio.Event()
    freed: list[bool] = []

    async def work(config: Config, serving: asyncio.Event) -> int:
        try:
            if is_serving:
                serving.set()
            begun.set()
            await heard.wait()
            return 7
        finally:
            freed.append(True)

    monkeypatch.setattr(main, "_serve", work)
    before = signal.getsignal(signal.SIGTERM)
    try:
        task = asyncio.create_task(main._until_told(Config()))
        await begun.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        if is_serving:
            await asyncio.sleep(0)
            heard.set()
        assert await task == (7 if is_serving else 0)
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
    assert freed == [True]


async def test_whoever_gives_it_up_in_another_way_hears_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(config: Config, serving: asyncio.Event) -> int:
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(main, "_serve", work)
    task = asyncio.create_task(main._until_told(Config()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
