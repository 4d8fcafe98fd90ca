"""What one streamed token costs besides the engine: processor time of the server process alone,
with everything in it (engine messages, detokenizing, JSON, server-sent events, sockets).

It starts a real server with a tiny random model as a child process, streams through it, and
divides the processor time of the front-end process by the tokens.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from prelude.bench import machine
from prelude.bench.serve import measure
from prelude.conf.bench import (
    Arrival,
    Endpoint,
    Lengths,
    PromptSource,
    ServeBenchConfig,
    TrafficClass,
)

STREAMS = 16
TOKENS_PER_REQUEST = 128
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
SERVER_ARGUMENTS = (
    "model=tiny",
    "runner.threads=1",
    "graphs.capture=eager",
    "cache.num_blocks=512",
    "server.drain_s=1",
)


def frontend_us_per_token(num_tokens: int, *, max_s: float, tokenizer: str | None = None) -> float:
    """Microseconds of the server process's own processor time per streamed token.

    ``tokenizer`` is a folder or a bundled name. Raises ``RuntimeError`` with the server's last
    words when it does not start, or with what failed.
    """
    arguments = [f"model.tokenizer='{tokenizer}'"] if tokenizer is not None else []
    with running_server([*SERVER_ARGUMENTS, *arguments]) as (base_url, pid):
        before = machine.process(pid, "server").cpu_s
        config = _load(base_url, num_tokens, max_s)
        result = asyncio.run(measure(config, None))
        used_s = machine.process(pid, "server").cpu_s - before
    if not result.total.output_tokens or result.total.num_completed < result.total.num_sent:
        raise RuntimeError(f"the front end failed requests: {result.total.failures}")
    warm_tokens = config.warmup * TOKENS_PER_REQUEST
    return used_s * 1e6 / (result.total.output_tokens + warm_tokens)


def _load(base_url: str, num_tokens: int, max_s: float) -> ServeBenchConfig:
    traffic = TrafficClass(
        source=PromptSource.ids,
        vocab_size=256,
        prompt=Lengths(value=8),
        output=Lengths(value=TOKENS_PER_REQUEST),
    )
    return ServeBenchConfig(
        base_url=base_url,
        endpoint=Endpoint.completions,
        arrival=Arrival.closed,
        concurrency=STREAMS,
        num_requests=-(-num_tokens // TOKENS_PER_REQUEST),
        duration_s=max_s,
        classes={"stream": traffic},
        resamples=0,
        probe=False,
    )


@contextlib.contextmanager
def running_server(
    arguments: Sequence[str],
    start_timeout_s: float = START_TIMEOUT_S,
    module: Sequence[str] = ("prelude", "serve"),
) -> Iterator[tuple[str, int]]:
    """``prelude serve ARGUMENTS``, or what another ``module`` makes of them, on a free loopback
    port: its base address and process id.

    Leaves when the server accepts requests; ends it on the way out. Raises ``RuntimeError``.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # -P: a folder called prelude where we are, a checkout say, is not the package.
    flags = ["-P", "-m"] if module[0] == "prelude" else ["-m"]
    command = [sys.executable, *flags, *module, f"server.port={port}", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as out:
            child = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        try:
            _wait_until_ready(child, port, log, start_timeout_s)
            yield f"http://127.0.0.1:{port}/v1", child.pid
        finally:
            _stop(child)


def _wait_until_ready(
    child: subprocess.Popen[bytes], port: int, log: Path, timeout_s: float
) -> None:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if child.poll() is not None:
            raise RuntimeError(f"prelude serve ended at once: {_last_words(log)}")
        if _answers(port):
            return
        time.sleep(0.1)
    raise RuntimeError(f"prelude serve was not ready in {timeout_s:g} s: {_last_words(log)}")


def _answers(port: int) -> bool:
    """Is the engine ready? Until then the health route says something else than 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close"
            connection.sendall(head + b"\r\n\r\n")
            return connection.recv(16).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def _last_words(log: Path) -> str:
    return log.read_text(errors="replace")[-800:].strip()


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ask, wait, then end the whole group: the engine is a process of its own."""
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGTERM)
    try:
        child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
