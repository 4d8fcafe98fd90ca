"""Cold and warm start, and what streams feel while programs compile:

    python -m benchmarks.startup --output benchmarks/results/cpu/startup.json

Starts ``prelude serve`` with an empty cache of compiled code, asks for a first token as soon as the
socket listens, keeps a few streams running until the compiled program is in use, and reports the
longest gap between two tokens of a stream. Then starts it again with the cache it has made. Seconds
are counted from the start of the process. A model whose tokenizer is not its own sends few texts:
with ``--streams 0`` nothing is streamed, and first tokens alone are reported:

    python -m benchmarks.startup --streams 0 model=qwen3_0_6b

``model.path=FOLDER model.tokenizer=demo`` reads a checkpoint instead of drawing random weights.
"""

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec

from prelude.bench import machine
from prelude.bench.observer import Observer
from prelude.bench.probe import probe_apart

PROMPT = "Sort 9, 4, 7, 1, 8, 2."
MAX_COMPILE_S = 180.0
AFTER_S = 5.0


class Server:
    """A ``prelude serve`` of this environment; ``seconds`` since it was started."""

    def __init__(self, overrides: list[str], cache_dir: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._start_s = time.perf_counter()
        settings = [f"server.port={port}", f"graphs.cache_dir={cache_dir}", "log.level=WARNING"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "prelude", "serve", *settings, *overrides]
        )

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start_s

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=60)


async def first_token_s(server: Server, client: httpx.AsyncClient) -> float:
    """Ask for one token until answered to the end, whatever its text: a refused connection or a
    503 means not yet."""
    while server.seconds < MAX_COMPILE_S:
        try:
            async for _ in tokens(server, client, max_tokens=1):
                pass
            return server.seconds
        except httpx.HTTPError:
            await asyncio.sleep(0.02)
    raise TimeoutError("no first token")


async def tokens(server: Server, client: httpx.AsyncClient, max_tokens: int) -> Any:
    """The moments (seconds of the server) at which a stream's tokens arrive."""
    body = {
        "messages": [{"role": "user", "content": PROMPT}],
        "stream": True,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "temperature": 0,
    }
    async with client.stream("POST", server.url + "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {") and '"content":"' in line and '"role"' not in line:
                yield server.seconds


async def program_ready_s(server: Server, client: httpx.AsyncClient) -> float | None:
    while server.seconds < MAX_COMPILE_S:
        metrics = (await client.get(server.url + "/metrics")).text
        for line in metrics.splitlines():
            if line.startswith("prelude_programs_ready") and float(line.split()[-1]) > 0:
                return server.seconds
        await asyncio.sleep(0.2)
    return None


async def watch(server: Server, client: httpx.AsyncClient, streams: int) -> dict[str, Any]:
    """Keep streams busy until the program is in use and a little longer."""
    gaps_ms: list[tuple[float, float]] = []
    done = asyncio.Event()

    async def stream() -> None:
        while not done.is_set():
            last = None
            async for now in tokens(server, client, max_tokens=400):
                if last is not None:
                    gaps_ms.append(((now - last) * 1e3, now))
                last = now
                if done.is_set():
                    return

    running = [asyncio.create_task(stream()) for _ in range(streams)]
    ready_s = await program_ready_s(server, client)
    await asyncio.sleep(AFTER_S if streams else 0.0)
    done.set()
    await asyncio.gather(*running)
    before = sorted(gap for gap, at in gaps_ms if ready_s is None or at <= ready_s)
    after = sorted(gap for gap, at in gaps_ms if ready_s is not None and at > ready_s)
    return {
        "program_in_use_s": ready_s,
        "longest_gap_ms": max(gaps_ms)[0] if gaps_ms else None,
        "while_compiling": percentiles(before),
        "compiled": percentiles(after),
    }


def percentiles(gaps_ms: list[float]) -> dict[str, float]:
    """Of gaps in ascending order."""
    count = len(gaps_ms)
    if not count:
        return {"gaps": 0}
    points = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    found = {name: round(gaps_ms[min(int(q * count), count - 1)], 2) for name, q in points.items()}
    return {"gaps": count, **found}


async def measure(overrides: list[str], streams: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache_dir:
        for name in ("cold", "warm"):
            server = Server(overrides, cache_dir)
            try:
                async with httpx.AsyncClient(timeout=60) as client:
                    first_s = await first_token_s(server, client)
                    result[name] = {"first_token_s": round(first_s, 2)}
                    result[name] |= await watch(server, client, streams)
            finally:
                server.stop()
            print(name, result[name], file=sys.stderr)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--output", type=Path)
    parser.add_argument("overrides", nargs="*", help="of the server's configuration")
    arguments = parser.parse_args()
    observer = Observer(probe_apart("cpu", len(machine.my_cores()), "float32"))
    measured = asyncio.run(measure(arguments.overrides, arguments.streams))
    result = {
        "benchmark": "startup",
        "version": 1,
        "environment": msgspec.to_builtins(observer.finish()),
        "overrides": arguments.overrides,
        "streams": arguments.streams,
        **measured,
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
