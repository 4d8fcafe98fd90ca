"""A tiny OpenAI-compatible server in the test's own event loop, whose clock the test owns.

The client under test reads its time from ``Clock``; the server moves it. After each chunk the
server waits until the client has looked at the clock (which it does when bytes arrive), so every
latency is known by construction and no test depends on how fast it runs.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


class Clock:
    """Seconds that pass only when told to; counts who looks."""

    def __init__(self) -> None:
        self.time_s = 100.0
        self.looks = 0
        self._looked = asyncio.Event()

    def __call__(self) -> float:
        self.looks += 1
        self._looked.set()
        return self.time_s

    def now(self) -> float:
        return self.time_s

    async def sleep_until(self, time_s: float) -> None:
        await asyncio.sleep(0)  # what is due now runs now
        self.time_s = max(self.time_s, time_s)

    async def looked(self, looks: int) -> None:
        while self.looks < looks:
            self._looked.clear()
            await self._looked.wait()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes to send after the clock has moved by ``after_s``."""

    data: bytes
    after_s: float = 0.0


def event(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def text(content: str, finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "text": content, "finish_reason": finish}]})


def usage(prompt: int, completion: int, cached: int = 0) -> bytes:
    details = {"cached_tokens": cached}
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return event({"choices": [], "usage": {**counts, "prompt_tokens_details": details}})


@dataclass(slots=True)
class Answer:
    """What the server does with one request. ``hang`` never ends it; ``drop`` cuts it
    off; ``close`` ends it with the connection; status 0 says nothing at all."""

    chunks: list[Chunk] = field(default_factory=list)
    status: int = 200
    body: bytes = b""
    hang: bool = False
    drop: bool = False
    close: bool = False


MODELS = Answer(body=b'{"object": "list", "data": [{"id": "tiny"}]}')

Handler = Callable[[dict[str, Any]], Answer]


def stream_of(tokens: int, *, ttft_s: float = 0.0, gap_s: float = 0.0) -> Answer:
    """``tokens`` chunks, then usage and [DONE]."""
    chunks = [
        Chunk(text("x", "length" if number == tokens - 1 else None), gap_s if number else ttft_s)
        for number in range(tokens)
    ]
    return Answer([*chunks, Chunk(usage(7, tokens)), Chunk(DONE)])


class Server:
    """Answers GET /v1/models itself and every POST by ``handler``."""

    def __init__(
        self, handler: Handler, clock: Clock | None = None, *, models: Answer = MODELS
    ) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.num_connections = 0
        self.cancelled = 0
        self.base_url = ""
        self._handler = handler
        self._clock = clock
        self._models = models
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await self._head(reader):
                method, path, headers = head
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                if method == "GET" and path == "/v1/models":
                    answer = self._models
                else:
                    self.headers.append(headers)
                    self.requests.append({"path": path, **json.loads(body)})
                    answer = self._handler(self.requests[-1])
                await self._answer(reader, writer, answer)
                if answer.drop or answer.close:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            self.cancelled += 1
        finally:
            writer.close()

    async def _head(self, reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]] | None:
        line = (await reader.readline()).decode().split()
        headers: dict[str, str] = {}
        while field := (await reader.readline()).decode().strip():
            name, _, value = field.partition(":")
            headers[name.lower()] = value.strip()
        return (line[0], line[1], headers) if line else None

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer
    ) -> None:
        if not answer.status:
            return
        streams = bool(answer.chunks) or answer.hang or answer.drop
        if answer.close:
            framing = "Connection: close"
        elif streams:
            framing = "Transfer-Encoding: chunked"
        else:
            framing = f"Content-Length: {len(answer.body)}"
        head = f"HTTP/1.1 {answer.status} Status\r\n{framing}\r\n\r\n".encode()
        await self._write(writer, head + (b"" if streams else answer.body))
        for chunk in answer.chunks:
            if self._clock is not None:
                self._clock.time_s += chunk.after_s
            framed = b"%x\r\n%s\r\n" % (len(chunk.data), chunk.data)
            await self._write(writer, chunk.data if answer.close else framed)
        if answer.hang:
            await reader.readexactly(1)
        if streams and not answer.drop and not answer.close:
            writer.write(b"0\r\n\r\n")

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        looks = self._clock.looks if self._clock is not None else 0
        writer.write(data)
        await writer.drain()
        if self._clock is not None:
            await self._clock.looked(looks + 1)
