"""A server in bad company, for as long as wanted:

    python -m benchmarks.soak --minutes 20 --output benchmarks/results/cpu/soak.json

Before the null engine (``benchmarks/null_engine.py``) thousands of connections are kept open: they
stream, leave midway, read slowly or not at all, come back for streams that they lost, send what is
malformed, oversized or half of a request, or nothing. There must be no 500, every request must end
once and properly, and when all have gone the server must hold the tasks, files and blocks that it
held before, and no more memory than after the first quarter. Exit code 1 otherwise.
"""

import argparse
import asyncio
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from benchmarks.fault_client import FAULTS, Reply, Tally, ask, connect, judged_stream, render
from benchmarks.server_census import (
    USED,
    Holdings,
    accept_queue,
    holdings,
    open_kinds,
    settled,
    until_ready,
)
from benchmarks.soak_bodies import malformed
from prelude.bench.frontend import running_server
from prelude.bench.observer import Observer

CHAT = "/v1/chat/completions"
SAMPLE_S = 2.0
MAX_GROWTH = 1.1
PAUSE_S = 3.0
ARGUMENTS = (
    "batcher.step_ms=20",
    "runner.max_seqs=1024",  # nobody is to wait for the engine
    "batcher.max_waiting=4096",
    "server.send_timeout_s=3",
    "server.resume_s=2",
    "server.max_body_mib=0.25",
    "server.drain_s=1",
    "server.limits.read_timeout_s=5",
    "sampling.max_tokens=64",
    "log.level=ERROR",
)


class Look(NamedTuple):
    """At one moment: how late this event loop was to look, in seconds, how many connections waited
    to be accepted, and the seconds that an answer of ``/health/live`` took on a new one."""

    lag_s: float
    accept_queue: int
    alive_s: float


@dataclass(slots=True)
class Soak:
    """One run: ``end_s`` is when nobody begins anything any more, on the loop's clock. ``faults``
    are seconds of the run, kinds of visit, and how they ended."""

    port: int
    pid: int
    rng: random.Random
    end_s: float
    tally: Tally = field(default_factory=Tally)
    samples: list[Holdings] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    faults: list[tuple[float, str, str]] = field(default_factory=list)
    num_open: int = 0
    max_open: int = 0

    def chat(self, *, stream: bool = True, most: int = 96, **fields: Any) -> dict[str, Any]:
        words = " ".join(["word"] * self.rng.randrange(1, 40))
        return {
            "messages": [{"role": "user", "content": words}],
            "max_tokens": self.rng.randrange(4, most),
            "stream": stream,
            **fields,
        }

    def request(self, *, resumable: bool = False, stream: bool = True, most: int = 96) -> bytes:
        headers = {"x-prelude-resume": "1"} if resumable else {}
        return render(self.port, CHAT, self.chat(stream=stream, most=most), headers)


async def streams(soak: Soak) -> Reply:
    return await ask(soak.port, soak.request(stream=soak.rng.random() < 0.8))


async def leaves(soak: Soak) -> Reply:
    return await ask(soak.port, soak.request(), leave_after=soak.rng.randrange(12))


async def reads_slowly(soak: Soak) -> Reply:
    """A few KiB at a time, and as long as the server bears with it."""
    request = soak.request(most=400)
    pause_s = soak.rng.uniform(0.05, 0.3)
    return await ask(soak.port, request, pause_s=pause_s, receive_bytes=2048)


async def never_reads(soak: Soak) -> Reply:
    """The server has to give up: the connection must end although nobody closes it here."""
    body = soak.chat(most=12_000, logprobs=True, top_logprobs=20, n=4)
    body["max_tokens"] = 8000
    _, writer = await connect(soak.port, receive_bytes=2048)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(render(soak.port, CHAT, body))
    await asyncio.sleep(soak.rng.uniform(5.0, 10.0))
    writer.transport.abort()
    return Reply("left")


async def comes_back(soak: Soak) -> Reply:
    """Leaves, and asks for the rest; one in four does not come back. Both parts together are the
    stream: who had seen the last event gets nothing more."""
    first = await ask(soak.port, soak.request(resumable=True), leave_after=soak.rng.randrange(1, 9))
    if first.end != "left" or not first.events:
        return first
    numbers = [_number(event) for event in first.events if event.startswith(b"id: ")]
    if not numbers or soak.rng.random() < 0.25:
        return first
    last = first.events[-1].split(b"\n", 1)[0].removeprefix(b"id: ").decode()
    rest = await ask(soak.port, render(soak.port, CHAT, b"{}", {"last-event-id": last}))
    if rest.status != 200:
        return rest
    numbers += [_number(event) for event in rest.events if event.startswith(b"id: ")]
    if numbers != list(range(1, len(numbers) + 1)) or rest.end in ("cut", "hung"):
        return Reply("malformed")
    return judged_stream(200, first.events + rest.events)


def _number(event: bytes) -> int:
    return int(event.split(b"\n", 1)[0].rsplit(b"-", 1)[1])


async def sends_nonsense(soak: Soak) -> Reply:
    """What is not HTTP, or goes on and on, may be cut off; what is a request gets an answer."""
    reply = await ask(soak.port, malformed(soak.rng, soak.port), timeout_s=20.0)
    is_unfinished = reply.end in ("cut", "hung") and not reply.status
    return Reply("refused", 0, "closed") if is_unfinished else reply


async def sends_half(soak: Soak) -> Reply:
    """And waits; the server has to say that it has had enough, or is left."""
    request = soak.request()
    part = request[: soak.rng.randrange(len(request))]
    reply = await ask(soak.port, part, timeout_s=soak.rng.uniform(0.1, PAUSE_S))
    return Reply("left") if reply.end in ("hung", "cut") else reply


async def idles(soak: Soak) -> Reply:
    _, writer = await connect(soak.port)
    await asyncio.sleep(soak.rng.uniform(1.0, 2 * PAUSE_S))
    writer.transport.abort()
    return Reply("left")


Behaviour = Callable[[Soak], Awaitable[Reply]]
BEHAVIOURS: dict[Behaviour, int] = {
    streams: 24,
    leaves: 24,
    reads_slowly: 8,
    never_reads: 2,
    comes_back: 12,
    sends_nonsense: 12,
    sends_half: 6,
    idles: 12,
}


async def peer(soak: Soak) -> None:
    """One connection after the other, each for something else."""
    kinds, weights = list(BEHAVIOURS), list(BEHAVIOURS.values())
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    while loop.time() < soak.end_s:
        (behaviour,) = soak.rng.choices(kinds, weights)
        soak.num_open += 1
        soak.max_open = max(soak.max_open, soak.num_open)
        try:
            reply = await behaviour(soak)
        except OSError:
            reply = Reply("cut")
        finally:
            soak.num_open -= 1
        soak.tally.add(behaviour.__name__, reply)
        if reply.end in FAULTS or reply.status == 408:
            seconds = round(loop.time() - begun_s, 1)
            soak.faults.append((seconds, behaviour.__name__, reply.key))
            print(f"{seconds} s: {behaviour.__name__}: {reply.key}", file=sys.stderr, flush=True)


async def sample(soak: Soak) -> None:
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    alive = b"GET /health/live HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % soak.port
    while True:
        lag_s = loop.time() - due_s
        soak.samples.append(holdings(soak.pid))
        queue = accept_queue(soak.pid, soak.port)
        asked_s = loop.time()
        await ask(soak.port, alive)
        soak.looks.append(Look(lag_s, queue, loop.time() - asked_s))
        due_s = loop.time() + SAMPLE_S
        await asyncio.sleep(SAMPLE_S)


class Census:
    """What the server says that it holds, when asked by a signal."""

    def __init__(self, pid: int, path: Path) -> None:
        self._pid = pid
        self._path = path

    async def take(self) -> dict[str, int]:
        before = self._path.stat().st_size if self._path.exists() else 0
        os.kill(self._pid, signal.SIGUSR2)
        async with asyncio.timeout(10.0):
            while not self._path.exists() or self._path.stat().st_size == before:
                await asyncio.sleep(0.05)
        found: dict[str, int] = msgspec.json.decode(self._path.read_bytes().splitlines()[-1])
        return found


async def at_rest(soak: Soak, census: Census) -> dict[str, Any]:
    """Of a server that everybody has left, for longer than it waits for anybody."""
    await asyncio.sleep(PAUSE_S + 2.0)
    gauges = await settled(soak.port)
    await asyncio.sleep(1.0)  # that was a request too
    return {
        **await census.take(),
        **asdict(holdings(soak.pid)),
        "kinds": open_kinds(soak.pid),
        "used": {name: gauges[name] for name in USED},
    }


async def trial(
    port: int, pid: int, census: Census, *, minutes: float, peers: int, seed: int
) -> dict[str, Any]:
    await until_ready(port)
    loop = asyncio.get_running_loop()
    soak = Soak(port, pid, random.Random(seed), loop.time())
    for behaviour in (streams, leaves, comes_back, sends_nonsense):  # what is made once, is made
        soak.tally.add("first", await behaviour(soak))
    before = await at_rest(soak, census)
    soak.end_s = loop.time() + minutes * 60.0
    sampler = asyncio.create_task(sample(soak))
    begun_s = time.monotonic()
    await asyncio.gather(*(peer(soak) for _ in range(peers)))
    lasted_s = time.monotonic() - begun_s
    sampler.cancel()
    after = await at_rest(soak, census)
    return {
        "minutes": round(lasted_s / 60.0, 2),
        "peers": peers,
        "max_open": soak.max_open,
        "max_files": max(one.files for one in soak.samples),
        "ends": soak.tally.document(),
        "faults": soak.tally.num_faults,
        "late": [list(one) for one in soak.faults[:200]],
        "looks": looks(soak.looks),
        "rss_mib": [one.rss_mib for one in soak.samples[:: max(len(soak.samples) // 60, 1)]],
        "growth": growth([one.rss_mib for one in soak.samples]),
        "before": before,
        "after": after,
    }


def looks(all_of_them: Sequence[Look]) -> dict[str, dict[str, float]]:
    """Median, 99th percentile and maximum of each."""
    found = {}
    for name, values in zip(Look._fields, zip(*all_of_them, strict=True), strict=True):
        p50, p99, most = np.quantile(values, [0.5, 0.99, 1.0]).round(4).tolist()
        found[name] = {"p50": p50, "p99": p99, "max": most}
    return found


def growth(rss_mib: Sequence[float]) -> float:
    """The largest of the last quarter over the largest of the one after the warm-up."""
    quarter = max(len(rss_mib) // 4, 1)
    return round(max(rss_mib[-quarter:]) / max(rss_mib[quarter : 2 * quarter] or rss_mib), 3)


def problems(result: dict[str, Any]) -> list[str]:
    before, after = result["before"], result["after"]
    checks = {
        "requests that did not end as they should": result["faults"] == 0,
        "tasks that were left behind": after["tasks"] <= before["tasks"],
        "files that were left open": after["files"] <= before["files"],
        "slots or blocks that were lost": not any(after["used"].values()),
        "memory that grew": result["growth"] <= MAX_GROWTH,
    }
    return [what for what, is_good in checks.items() if not is_good]


def measure(minutes: float, peers: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "census"
        module = ("benchmarks.null_engine", "--census", str(path))
        with running_server(ARGUMENTS, module=module) as (base_url, pid):
            port = int(base_url.rsplit(":", 1)[1].split("/")[0])
            observer = Observer(None, [pid])
            work = trial(port, pid, Census(pid, path), minutes=minutes, peers=peers, seed=seed)
            result = asyncio.run(work)
            environment = msgspec.to_builtins(observer.finish())
    head = {"benchmark": "soak", "version": 1, "environment": environment, "seed": seed}
    return {**head, **result, "problems": problems(result)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--peers", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    result = measure(args.minutes, args.peers, args.seed)
    print(msgspec.json.encode(result).decode())
    if args.output is not None:
        args.output.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
