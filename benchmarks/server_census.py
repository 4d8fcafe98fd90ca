"""What a server and its processes hold, as the system and its own metrics say it."""

import asyncio
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import httpx

from prelude.bench import machine

_METRIC = re.compile(r"^(prelude_\w+)(?:\{[^}]*\})? ([\d.e+-]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Holdings:
    """Of the server's process: open files and threads, and MiB that are resident; and how many
    processes there are, it and its descendants."""

    files: int
    threads: int
    rss_mib: float
    processes: int


def holdings(pid: int) -> Holdings:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Holdings(
        files=len(os.listdir(f"/proc/{pid}/fd")),
        threads=len(os.listdir(f"/proc/{pid}/task")),
        rss_mib=round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
        processes=len(machine.family([pid])),
    )


def accept_queue(pid: int, port: int) -> int:
    """How many connections wait for the process that listens on ``port`` to accept them."""
    wanted = f":{port:04X}"
    with Path(f"/proc/{pid}/net/tcp").open() as lines:  # those that listen come first
        for line in lines:
            _, local, _, state, queues, *_ = line.split()
            if state == "0A" and local.endswith(wanted):
                return int(queues.partition(":")[2], 16)
    raise LookupError(f"nobody listens on port {port}")


def open_kinds(pid: int) -> dict[str, int]:
    """How many of its open files are sockets, pipes, devices and so on."""
    folder = Path(f"/proc/{pid}/fd")
    links = [os.readlink(folder / name) for name in os.listdir(folder)]
    kinds = [re.sub(r"^/(?!dev/).*", "file", link.split(":[")[0]) for link in links]
    return dict(sorted(Counter(kinds).items()))


async def gauges(port: int) -> dict[str, float]:
    """Sums over the labels of each of the server's metrics."""
    async with httpx.AsyncClient(trust_env=False, timeout=60.0) as http:
        response = await http.get(f"http://127.0.0.1:{port}/metrics")
        text = response.raise_for_status().text
    found: dict[str, float] = {}
    for name, value in _METRIC.findall(text):
        found[name] = found.get(name, 0.0) + float(value)
    return found


# All zero once nobody asks for anything.
USED = (
    "prelude_num_requests_running",
    "prelude_num_requests_waiting",
    "prelude_class_blocks",
    "prelude_kv_cache_usage_perc",
)


async def settled(port: int, timeout_s: float = 30.0) -> dict[str, float]:
    """The gauges, once nothing is running, waiting or holding blocks, or ``timeout_s`` are over."""
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    while True:
        now = await gauges(port)
        is_idle = not any(now[name] for name in USED)
        if is_idle or asyncio.get_running_loop().time() > deadline_s:
            return now
        await asyncio.sleep(0.5)


async def until_ready(port: int, timeout_s: float = 60.0) -> dict[str, object]:
    """What ``/health`` says once it is 200. Raises ``TimeoutError``."""
    async with asyncio.timeout(timeout_s), httpx.AsyncClient(trust_env=False) as http:
        while True:
            response = await http.get(f"http://127.0.0.1:{port}/health", timeout=timeout_s)
            if response.status_code == 200:
                found: dict[str, object] = response.json()
                return found
            await asyncio.sleep(0.1)
