"""Server-sent events, as the load generator must read them: bytes in any chunking, data out."""


class SseParser:
    """Feed bytes, get the data of every event that is complete.

    Follows the WHATWG event-stream grammar for what matters here: lines end in LF, CRLF or CR;
    several ``data:`` lines of one event are joined by LF; comments and other fields are skipped;
    an event without data is none. An event that the stream cuts off is never returned.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        buffer = self._rest + chunk if self._rest else chunk
        if b"\r" in buffer:
            held = buffer.endswith(b"\r")  # it may be half of a CRLF
            body = buffer[:-1] if held else buffer
            buffer = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + b"\r" * held
        *lines, self._rest = buffer.split(b"\n")
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                start = 6 if line.startswith(b"data: ") else 5
                self._data.append(line[start:])
            elif not line and self._data:
                events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data = []
        return events
