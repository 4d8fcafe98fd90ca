"""Engines killed under load, and clients that leave: every request must end exactly once, and
nothing may be lost.

    python -m benchmarks.faults --kills 10 --disconnects 40 --output faults.json

A server with the real engine answers a steady load, streamed and not. The engine is killed again
and again at random moments, each time once the one before has been ready for a while; then clients
leave at random moments. Afterwards slots, blocks, files, processes and the folders of sockets must
be as they were. ``--output`` appends a run to the file's list. Exit code 1 if anything was not.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.fault_client import Reply, Tally, ask, render
from benchmarks.server_census import USED, gauges, holdings, settled, until_ready
from prelude.bench import machine
from prelude.bench.frontend import running_server
from prelude.bench.observer import Observer

CHAT = "/v1/chat/completions"
NUM_CLIENTS = 8
ARGUMENTS = (
    "server.supervisor.max_restarts=1000",
    "server.supervisor.backoff_s=0",
    "server.drain_s=1",
)


@dataclass(slots=True)
class Run:
    port: int
    pid: int
    rng: random.Random
    tally: Tally = field(default_factory=Tally)
    is_over: bool = False
    down_s: list[float] = field(default_factory=list)

    def request(self, *, stream: bool) -> bytes:
        body = {
            "messages": [{"role": "user", "content": f"Count to {self.rng.randrange(1000)}."}],
            "max_tokens": self.rng.randrange(16, 192),
            "ignore_eos": True,
            "stream": stream,
            "n": self.rng.choice((1, 1, 1, 2)),
        }
        return render(self.port, CHAT, body)


async def load(run: Run) -> None:
    """One client that asks, and waits a little after a refusal."""
    while not run.is_over:
        stream = run.rng.random() < 0.7
        reply = await ask(run.port, run.request(stream=stream))
        run.tally.add("stream" if stream else "whole", reply)
        if reply.end == "refused":
            await asyncio.sleep(0.2)


def engine_pid(server_pid: int) -> int:
    for pid in machine.family([server_pid]):
        if pid != server_pid and "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
            return pid
    raise RuntimeError("there is no engine process")


async def kill_engines(run: Run, count: int) -> None:
    for _ in range(count):
        await until_ready(run.port)
        await asyncio.sleep(run.rng.uniform(0.05, 1.0))
        os.kill(engine_pid(run.pid), signal.SIGKILL)
        begun_s = time.monotonic()
        while engine_is_up(await gauges(run.port)):
            await asyncio.sleep(0.02)
        await until_ready(run.port)
        run.down_s.append(round(time.monotonic() - begun_s, 2))


def engine_is_up(now: dict[str, float]) -> bool:
    return now["prelude_engine_up"] == 1.0


async def disconnect(run: Run, count: int) -> None:
    """``count`` clients leave: before the first event, between two, or after a random while."""

    async def one(number: int) -> None:
        request = run.request(stream=number % 4 != 3)
        if number % 2:
            limit_s = run.rng.uniform(0.0, 0.5)
            reply = await ask(run.port, request, timeout_s=limit_s)
            reply = Reply("left") if reply.end == "hung" else reply
        else:
            reply = await ask(run.port, request, leave_after=run.rng.randrange(24))
        run.tally.add("leaves", reply)

    for first in range(0, count, NUM_CLIENTS):
        await asyncio.gather(*map(one, range(first, min(first + NUM_CLIENTS, count))))


async def trial(port: int, pid: int, kills: int, disconnects: int, seed: int) -> dict[str, Any]:
    run = Run(port, pid, random.Random(seed))
    run.tally.add("first", await ask(port, run.request(stream=True)))
    before, gauges_before = holdings(pid), await settled(port)
    clients = [asyncio.create_task(load(run)) for _ in range(NUM_CLIENTS)]
    await kill_engines(run, kills)
    await disconnect(run, disconnects)
    run.is_over = True
    await asyncio.gather(*clients)
    run.tally.add("last", await ask(port, run.request(stream=True)))
    after, now = await settled(port), holdings(pid)
    return {
        "kills": kills,
        "disconnects": disconnects,
        "ends": run.tally.document(),
        "faults": run.tally.num_faults,
        "down_s": run.down_s,
        "restarts_counted": after["prelude_engine_restarts_total"],
        "requests_lost": after["prelude_requests_lost_total"],
        "left_behind": {name: after[name] for name in USED},
        "before": asdict(before),
        "after": asdict(now),
        "blocks": [gauges_before["prelude_kv_blocks"], after["prelude_kv_blocks"]],
    }


def problems(result: dict[str, Any], folders: tuple[int, int]) -> list[str]:
    """Everything that is not as it was to be."""
    before, after = result["before"], result["after"]
    checks = {
        "requests that did not end as they should": result["faults"] == 0,
        "restarts that were not counted": result["restarts_counted"] == result["kills"],
        "slots or blocks that were lost": not any(result["left_behind"].values()),
        "another number of blocks": len(set(result["blocks"])) == 1,
        "more open files": after["files"] <= before["files"] + 2,
        "more processes": after["processes"] <= before["processes"],
        "folders of dead engines": folders == (1, 0),
    }
    return [what for what, is_good in checks.items() if not is_good]


def measure(kills: int, disconnects: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TMPDIR"] = scratch  # of the server: there it makes a folder for each engine
        with running_server(ARGUMENTS) as (base_url, pid):
            port = int(base_url.rsplit(":", 1)[1].split("/")[0])
            observer = Observer(None, [pid])
            result = asyncio.run(trial(port, pid, kills, disconnects, seed))
            environment = msgspec.to_builtins(observer.finish())
            during = len(list(Path(scratch).glob("prelude-*")))
        folders = (during, len(list(Path(scratch).glob("prelude-*"))))
    wrong = problems(result, folders)
    head = {"benchmark": "faults", "version": 1, "environment": environment, "seed": seed}
    return {**head, **result, "folders": folders, "problems": wrong}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--disconnects", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    result = measure(args.kills, args.disconnects, args.seed)
    print(msgspec.json.encode(result).decode())
    if args.output is not None:
        runs = msgspec.json.decode(args.output.read_bytes()) if args.output.exists() else []
        args.output.write_bytes(msgspec.json.format(msgspec.json.encode([*runs, result]), indent=1))
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
