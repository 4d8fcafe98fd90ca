"""A client that takes next to nothing of a core: streams of server-sent events whose ends it counts
and whose contents it does not look at, and a probe beside them."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import msgspec

CHAT = "/v1/chat/completions"
_DONE = b"data: [DONE]\n\n"
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")
_GENERATED = re.compile(
    rb"^prelude_generation_tokens(?:_total)?(?:\{[^}]*\})? ([\d.e+]+)$", re.MULTILINE
)
_WARM = 32  # events of every stream before the steady part
_LOOK_S = 0.01
_PROBE_EVERY_S = 0.05
_PROBES = 10  # between two looks at the metrics


def render(path: str, body: Mapping[str, Any] | None = None) -> bytes:
    """A request that closes its connection; without ``body``, a GET that does not."""
    if body is None:
        return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()
    data = msgspec.json.encode(body)
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
    fields = f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return (head + fields).encode() + data


class EventCounter(asyncio.Protocol):
    """Sends ``request`` and counts the events of its answer; ``ended`` has whether the stream was
    whole once the server has closed the connection."""

    def __init__(self, request: bytes, ended: asyncio.Future[bool]) -> None:
        self.num_events = 0
        self.num_bytes = 0
        self.ended = ended
        self._request = request
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).write(self._request)  # uvloop's are not its heirs

    def data_received(self, data: bytes) -> None:
        self.num_bytes += len(data)
        self.num_events += data.count(b"\n\n")
        if data[0] == 10 and self._tail[-1:] == b"\n":
            self.num_events += self._tail[-2:] != b"\n\n"
        self._tail = data[-64:] if len(data) >= 64 else (self._tail + data)[-64:]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(exc is None and _DONE in self._tail)


@dataclass(frozen=True, slots=True)
class Moment:
    """Seconds, tokens that the engine has made, events that are here, and the server's processor
    time: until now, or between two moments."""

    wall_s: float
    num_tokens: float
    num_events: int
    cpu_s: float

    def since(self, start: "Moment") -> "Moment":
        return Moment(
            self.wall_s - start.wall_s,
            self.num_tokens - start.num_tokens,
            self.num_events - start.num_events,
            self.cpu_s - start.cpu_s,
        )


@dataclass(frozen=True, slots=True)
class Streamed:
    """The part of some streams in which all of them flowed, and the probe's latencies in it."""

    steady: Moment
    probe_ms: list[float]


async def stream(
    port: int, bodies: Sequence[Mapping[str, Any]], cpu_s: Callable[[], float], most_s: float
) -> Streamed:
    """Begin all at once, watch them from when the last has begun until the first ends or
    ``most_s`` are over, and leave. ``cpu_s`` is what the server has used until now. Raises
    ``RuntimeError`` for streams that break or do not overlap."""
    loop = asyncio.get_running_loop()
    counters, transports = [], []
    for body in bodies:
        counter = EventCounter(render(CHAT, body), loop.create_future())
        made = await loop.create_connection(lambda one=counter: one, "127.0.0.1", port)  # type: ignore[misc]
        counters.append(counter)
        transports.append(made[0])
    try:
        return await _watch(port, counters, cpu_s, most_s)
    finally:
        for transport in transports:
            transport.abort()


async def _watch(
    port: int, counters: Sequence[EventCounter], cpu_s: Callable[[], float], most_s: float
) -> Streamed:
    while min(counter.num_events for counter in counters) < _WARM:
        _check(counters)
        await asyncio.sleep(_LOOK_S)
    async with Probe(port) as probe:

        async def moment() -> Moment:
            num_tokens = await probe.generated()
            events = sum(counter.num_events for counter in counters)
            return Moment(time.perf_counter(), num_tokens, events, cpu_s())

        latencies: list[float] = []
        start = end = now = await moment()
        while now.wall_s - start.wall_s < most_s and not _check(counters):
            end = now
            for _ in range(_PROBES):
                latencies.append(await probe.live_ms())
                await asyncio.sleep(max(_PROBE_EVERY_S - latencies[-1] / 1e3, 0.0))
            now = await moment()
        end = end if _check(counters) else now
    if end is start:
        raise RuntimeError("the streams flowed together for too short a time")
    return Streamed(end.since(start), latencies)


def _check(counters: Sequence[EventCounter]) -> bool:
    """Has one ended?"""
    ended = [counter.ended.result() for counter in counters if counter.ended.done()]
    if not all(ended):
        raise RuntimeError(f"{ended.count(False)} streams broke")
    if ended and min(counter.num_events for counter in counters) < _WARM:
        raise RuntimeError("some streams had ended before others began: ask for more tokens")
    return bool(ended)


class Probe:
    """A connection of its own, for questions one after the other."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()

    async def ask(self, path: str) -> bytes:
        self._writer.write(render(path))
        return await read_answer(self._reader)

    async def live_ms(self) -> float:
        start_s = time.perf_counter()
        await self.ask("/health/live")
        return (time.perf_counter() - start_s) * 1e3

    async def generated(self) -> float:
        """Tokens of all requests, as the server has heard of them from the engine."""
        found = _GENERATED.search(await self.ask("/metrics"))
        assert found is not None
        return float(found[1])


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """The body of one answer. Raises ``RuntimeError`` unless it is a 200 of known length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    if not head.startswith(b"HTTP/1.1 200") or length is None:
        raise RuntimeError(f"not an answer to measure: {head[:80]!r}")
    return await reader.readexactly(int(length[1]))
