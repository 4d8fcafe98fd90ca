"""A client that misbehaves on purpose, and says exactly how each of its requests ended."""

import asyncio
import re
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import httptools
import msgspec

End = Literal["answer", "error", "refused", "left", "cut", "hung", "malformed"]

_FINISH = re.compile(rb'"finish_reason":\s*"')

# The ends that a server may be blamed for.
FAULTS: tuple[End, ...] = ("cut", "hung", "malformed")


@dataclass(slots=True)
class Reply:
    """What came back: ``end`` is how. An answer is complete; an error event ended a stream that had
    begun; refused is a status of its own; left was we. Cut off, hung and malformed are faults;
    ``code`` is the server's, or how far one that hangs has come."""

    end: End
    status: int = 0
    code: str | None = None
    events: list[bytes] = field(default_factory=list)

    @property
    def key(self) -> str:
        if self.end == "refused":
            return f"refused {self.status} {self.code or ''}".rstrip()
        return f"{self.end} {self.code}" if self.code else self.end


class _Response:
    """One response, as far as it has come."""

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()
        self.is_complete = False
        self.is_stream = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self.is_stream = value.startswith(b"text/event-stream")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_complete = True


def render(
    port: int, path: str, body: Mapping[str, Any] | bytes, headers: Mapping[str, str] | None = None
) -> bytes:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    lines = [f"POST {path} HTTP/1.1", f"host: 127.0.0.1:{port}", f"content-length: {len(data)}"]
    lines += ["content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


async def connect(
    port: int, receive_bytes: int | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """``receive_bytes`` bounds what the system takes for us while we do not read."""
    opened = socket.socket()
    if receive_bytes is not None:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    opened.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(opened, ("127.0.0.1", port))
    except BaseException:
        opened.close()
        raise
    return await asyncio.open_connection(sock=opened, limit=2**16)


async def ask(
    port: int,
    request: bytes,
    *,
    leave_after: int | None = None,
    timeout_s: float = 60.0,
    pause_s: float = 0.0,
    receive_bytes: int | None = None,
) -> Reply:
    """Send one request and read all that comes back; leave once ``leave_after`` events are here,
    0 being before the first; ``pause_s`` before each read makes a slow reader."""
    response = _Response()
    stage = "connecting"
    writer = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await connect(port, receive_bytes)
            writer.write(request)
            stage = "unanswered"
            while not response.is_complete:
                if leave_after is not None and _count(response) >= leave_after:
                    return Reply("left", response.status, events=_events(response))
                if pause_s:
                    await asyncio.sleep(pause_s)
                data = await reader.read(2**12 if pause_s else 2**16)
                if not data:
                    return Reply("cut", response.status, events=_events(response))
                response.feed(data)
                stage = "midway"
    except TimeoutError:
        return Reply("hung", response.status, stage, _events(response))
    except OSError:
        return Reply("cut", response.status, events=_events(response))
    except httptools.HttpParserError:
        return Reply("malformed", response.status)
    finally:
        if writer is not None:
            writer.transport.abort()
    return _judged(response)


def _count(response: _Response) -> int:
    return response.body.count(b"\n\n")


def _events(response: _Response) -> list[bytes]:
    whole, _, _ = bytes(response.body).rpartition(b"\n\n")
    return whole.split(b"\n\n") if response.is_stream and whole else []


def _judged(response: _Response) -> Reply:
    """A complete response. A stream has exactly one end mark, which is its last event."""
    if response.is_stream:
        return judged_stream(response.status, _events(response))
    try:
        document = msgspec.json.decode(bytes(response.body))
    except msgspec.DecodeError:  # the HTTP server's own refusals are no JSON
        is_refusal = 400 <= response.status < 500
        return Reply("refused" if is_refusal else "malformed", response.status)
    if response.status != 200:
        error = document.get("error") if isinstance(document, dict) else None
        code = error.get("code") if isinstance(error, dict) else None
        return Reply("refused", response.status, code)
    return Reply("answer", response.status)


def judged_stream(status: int, events: list[bytes]) -> Reply:
    """Of all events of a stream that has come to its end."""
    data = [_data(event) for event in events if not event.startswith(b":")]
    errors = [one for one in data if one.startswith(b'{"error"')]
    if not data or data[-1] != b"[DONE]" or data.count(b"[DONE]") != 1 or len(errors) > 1:
        return Reply("malformed", status, events=events)
    if errors:
        code = msgspec.json.decode(errors[0])["error"]["code"]
        return Reply("error", status, code, events)
    is_whole = any(_FINISH.search(one) for one in data)
    return Reply("answer" if is_whole else "malformed", status, events=events)


def _data(event: bytes) -> bytes:
    return event.rpartition(b"data: ")[2]


class Tally:
    """How requests ended, by what they were."""

    def __init__(self) -> None:
        self.ends: dict[str, Counter[str]] = {}

    def add(self, kind: str, reply: Reply) -> None:
        self.ends.setdefault(kind, Counter())[reply.key] += 1

    @property
    def num_faults(self) -> int:
        keys = [(key, n) for ends in self.ends.values() for key, n in ends.items()]
        return sum(n for key, n in keys if key.startswith((*FAULTS, "refused 500")))

    def document(self) -> dict[str, dict[str, int]]:
        return {kind: dict(sorted(ends.items())) for kind, ends in sorted(self.ends.items())}
