"""How long one request can hold up everybody else's streams:

    python -m benchmarks.stalls --output benchmarks/results/cpu/stalls.json [--only PATH]

Bodies of nearly 16 MiB, the most that the server reads by default, are sent one after the other to
a server before the null engine (``benchmarks/null_engine.py``). Meanwhile another connection asks
for /health/live again and again: its slowest answer is the gap in which the event loop did nothing
for anybody. Gaps with nothing sent are in the result as ``idle_ms``.
"""

import argparse
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import msgspec
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated.vllm_engine_pb2_grpc import VllmEngineStub

from benchmarks.stall_bodies import SIZE, bodies
from prelude.bench.frontend import running_server
from prelude.bench.observer import Observer

ARGUMENTS = ("server.drain_s=1", "log.level=ERROR", "server.grpc.port={grpc_port}")
PAUSE_S = 0.002
IDLE_S = 2.0
TIMEOUT_S = 60.0
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")


class Poller:
    """Asks for liveness over one connection, as fast as it is answered but for short pauses."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self._is_over, self._answered = threading.Event(), threading.Event()
        self._worst_s = 0.0
        self._thread = threading.Thread(target=self._poll)

    def __enter__(self) -> "Poller":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._socket.close()

    def worst_ms(self) -> float:
        """The slowest answer since this was asked last, of those that are awaited now too."""
        for _ in range(2):
            self._answered.clear()
            self._answered.wait(TIMEOUT_S)
        worst_s, self._worst_s = self._worst_s, 0.0
        return round(worst_s * 1e3, 1)

    def _poll(self) -> None:
        while not self._is_over.is_set():
            start_s = time.perf_counter()
            self._socket.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            data = b""
            while not data.endswith(b"}"):  # head and body may come apart
                data += self._socket.recv(65536)
            assert data.startswith(b"HTTP/1.1 200"), data
            self._worst_s = max(self._worst_s, time.perf_counter() - start_s)
            self._answered.set()
            time.sleep(PAUSE_S)


def post(port: int, path: str, body: bytes) -> str:
    """The status of the answer, once all of it is here."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.sendall(head.encode() + body)
        first = connection.recv(65536)
        while connection.recv(2**20):
            pass
    match = _STATUS.match(first)
    return match.group(1).decode() if match else "none"


def generate(port: int, request: pb.GenerateRequest) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            list(VllmEngineStub(channel).Generate(request, timeout=TIMEOUT_S))
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def calls() -> dict[str, pb.GenerateRequest]:
    many, params = [1] * SIZE, pb.SamplingParams(max_tokens=1)
    return {
        "ids": pb.GenerateRequest(tokenized={"input_ids": many}, sampling_params=params),
        "text": pb.GenerateRequest(text="a quick fox " * (SIZE // 12), sampling_params=params),
        "stop_token_ids": pb.GenerateRequest(
            text="a", sampling_params=pb.SamplingParams(max_tokens=1, stop_token_ids=many)
        ),
        "logit_bias": pb.GenerateRequest(
            text="a", sampling_params=pb.SamplingParams(logit_bias=dict.fromkeys(range(10**6), 1.0))
        ),
        "stop": pb.GenerateRequest(
            text="a", sampling_params=pb.SamplingParams(max_tokens=1, stop=["a"] * (SIZE // 3))
        ),
    }


def measure(only: str) -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        grpc_port = free.getsockname()[1]
    arguments = [one.format(grpc_port=grpc_port) for one in ARGUMENTS]
    with running_server(arguments, module=("benchmarks.null_engine",)) as (url, pid):
        port = int(url.rsplit(":", 1)[1].partition("/")[0])
        observer = Observer(None, [pid])
        with Poller(port) as poller:
            time.sleep(IDLE_S)
            result: dict[str, Any] = {"idle_ms": poller.worst_ms(), "gaps": (gaps := [])}

            def note(path: str, name: str, send: Callable[[], str]) -> None:
                poller.worst_ms()
                start_s = time.perf_counter()
                status = send()
                took_ms = round((time.perf_counter() - start_s) * 1e3, 1)
                row = {"path": path, "body": name, "status": status}
                gaps.append(row | {"gap_ms": poller.worst_ms(), "took_ms": took_ms})
                print(f"{path:28} {name:26} {status:20}", *list(gaps[-1].values())[3:], flush=True)

            for path, name, make in bodies():
                if only in path:
                    body = make()
                    note(path, name, lambda body=body, path=path: post(port, path, body))  # type: ignore[misc]
            for name, request in calls().items() if only in "gRPC" else ():
                note("gRPC", name, lambda request=request: generate(grpc_port, request))  # type: ignore[misc]
        result["worst_ms"] = max((row["gap_ms"] for row in gaps), default=0.0)
        result["environment"] = msgspec.to_builtins(observer.finish())
    return result


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", default="", help="part of a path, or gRPC")
    args = parser.parse_args(argv)
    result = measure(args.only)
    if args.output is not None:
        text = msgspec.json.format(msgspec.json.encode(result), indent=1)
        args.output.write_bytes(text + b"\n")
    print(f"the worst gap is {result['worst_ms']} ms; idle {result['idle_ms']} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
