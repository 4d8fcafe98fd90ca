"""The lines of a batch file, in OpenAI's format: what comes in and what goes out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/responses",
)


class _Line(msgspec.Struct):
    custom_id: str
    url: str
    body: msgspec.Raw
    method: str = "POST"


class _Stream(msgspec.Struct):
    stream: bool | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One request: ``body`` is the JSON object to post to ``path``. ``number`` is its line's,
    counted from 1."""

    number: int
    custom_id: str
    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no request. ``custom_id`` is None where it has none that can be read."""

    number: int
    custom_id: str | None
    message: str


class Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: Any


class Error(msgspec.Struct, omit_defaults=True):
    """``line`` is the input's, where nothing else names it."""

    code: str
    message: str
    line: int | None = None


class Result(msgspec.Struct):
    """A line of the output: one of ``response`` and ``error`` is null."""

    id: str
    custom_id: str | None
    response: Response | None = None
    error: Error | None = None

    @property
    def is_answer(self) -> bool:
        return self.response is not None and self.response.status_code == 200

    @property
    def key(self) -> str | int | None:
        """What an interrupted run knows it by."""
        if self.custom_id is None and self.error is not None:
            return self.error.line
        return self.custom_id


def read_tasks(path: Path) -> Iterator[Task | BadLine]:
    """Every line that is not empty, in order. Raises ``OSError`` if there is no such file."""
    seen: set[str] = set()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                task = parse(line, number)
                if isinstance(task, Task) and task.custom_id in seen:
                    task = BadLine(number, None, f"custom_id {task.custom_id!r} is used before")
                elif isinstance(task, Task):
                    seen.add(task.custom_id)
                yield task


def count_lines(path: Path) -> int:
    """Those that are not empty."""
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def parse(line: bytes, number: int) -> Task | BadLine:
    try:
        found = msgspec.json.decode(line, type=_Line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return BadLine(number, _custom_id(line), f"line {number}: {error}")
    if (problem := _problem(found)) is not None:
        return BadLine(number, found.custom_id, f"line {number}: {problem}")
    return Task(number, found.custom_id, found.url, bytes(found.body))


def refusal(bad: BadLine) -> Result:
    line = bad.number if bad.custom_id is None else None
    error = Error("invalid_request", bad.message, line)
    return Result(f"batch_req_{bad.number}", bad.custom_id, error=error)


def _problem(line: _Line) -> str | None:
    if line.method != "POST":
        return f"method: must be POST, not {line.method}"
    if line.url not in ENDPOINTS:
        return f"url: {line.url!r} is not one of {', '.join(ENDPOINTS)}"
    if not bytes(line.body).lstrip().startswith(b"{"):
        return "body: must be an object"
    try:
        streams = msgspec.json.decode(line.body, type=_Stream).stream
    except msgspec.MsgspecError as error:
        return f"body: {error}"
    return "body.stream: answers in files are whole; leave it out" if streams else None


def _custom_id(line: bytes) -> str | None:
    try:
        found = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    custom_id = found.get("custom_id") if isinstance(found, dict) else None
    return custom_id if isinstance(custom_id, str) else None
