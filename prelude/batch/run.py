"""A batch from its first line to its last: so many at once, each tried until it is answered."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from prelude.batch.lines import (
    BadLine,
    Error,
    Response,
    Result,
    Task,
    count_lines,
    read_tasks,
    refusal,
)
from prelude.batch.output import Output, written
from prelude.batch.target import Reply, Target
from prelude.client.client import EngineDeadError

Report = Callable[[str, float], None]
Sleep = Callable[[float], Awaitable[None]]

_AGAIN = frozenset({408, 429, 502, 503, 504})
_UNWELCOME = frozenset({401, 403})  # whatever else is asked: nothing is written of it
_MOST_S = 60.0


class _Usage(msgspec.Struct):
    """As any of the APIs has it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class Summary:
    """``skipped`` results were in the file already; ``failed`` lines have an error instead of an
    answer."""

    answered: int = 0
    failed: int = 0
    skipped: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0

    @property
    def done(self) -> int:
        return self.answered + self.failed + self.skipped

    def count(self, result: Result) -> None:
        if not result.is_answer:
            self.failed += 1
            return
        self.answered += 1
        assert result.response is not None
        usage = _usage(result.response.body)
        self.prompt_tokens += usage.prompt_tokens + usage.input_tokens
        self.output_tokens += usage.completion_tokens + usage.output_tokens


@dataclass(slots=True)
class Batch:
    """``source`` answered into ``path`` by ``target``, in whatever order the answers come. What is
    refused for now, or lost with its engine, is sent again up to ``tries`` times in all."""

    source: Path
    path: Path
    target: Target
    tries: int = 10
    sleep: Sleep = asyncio.sleep

    async def run(self, report: Report) -> Summary:
        """Raises ``OSError`` or ``ValueError`` for files that cannot be used, ``PermissionError``
        if the server wants another key, ``EngineDeadError`` once there is no engine any more."""
        known = written(self.path)
        total = count_lines(self.source)
        summary = Summary()
        lines = _open_lines(self.source, known, summary)
        output = Output(self.path)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.target.concurrency):
                    group.create_task(self._work(lines, output, summary, total, report))
        except* (OSError, EngineDeadError) as errors:
            raise errors.exceptions[0] from None
        finally:
            output.close()
        return summary

    async def _work(
        self,
        lines: Iterator[Task | BadLine],
        output: Output,
        summary: Summary,
        total: int,
        report: Report,
    ) -> None:
        for line in lines:
            result = refusal(line) if isinstance(line, BadLine) else await self._answer(line)
            await output.add(result)
            summary.count(result)
            report(f"{summary.done} of {total}", summary.done / total)

    async def _answer(self, task: Task) -> Result:
        name = f"batch_req_{task.number}"
        for attempt in range(1, self.tries + 1):
            try:
                reply = await self.target.post(task.path, task.body)
            except OSError as error:
                result = Result(name, task.custom_id, error=Error("connection", str(error)))
                wait_s = None
            else:
                result = Result(name, task.custom_id, response=_response(reply))
                if reply.status in _UNWELCOME:
                    raise PermissionError(f"{reply.status}: {_message(reply)}")
                if reply.status not in _AGAIN:
                    return result
                wait_s = _retry_s(reply)
            if attempt < self.tries:
                backoff_s = min(2.0 ** (attempt - 1), _MOST_S) * random.uniform(0.5, 1.0)
                await self.sleep(min(wait_s or backoff_s, _MOST_S))
        return result


def all_done(source: Path, path: Path) -> Summary | None:
    """What a run would come to for which nothing is left to ask; None if there is something.

    Raises ``OSError`` or ``ValueError`` for files that cannot be used.
    """
    summary = Summary()
    if not any(True for _ in _open_lines(source, written(path), summary)):
        return summary
    path.open("ab").close()  # or nothing could be kept of what is asked
    return None


def _open_lines(source: Path, known: set[str | int], summary: Summary) -> Iterator[Task | BadLine]:
    for line in read_tasks(source):
        key = line.number if line.custom_id is None else line.custom_id
        if key in known:
            summary.skipped += 1
        else:
            yield line


def _response(reply: Reply) -> Response:
    try:
        body: Any = msgspec.json.decode(reply.body)
    except msgspec.MsgspecError:
        body = reply.body.decode("utf-8", "replace")
    return Response(reply.status, reply.headers.get("x-request-id", ""), body)


def _message(reply: Reply) -> str:
    try:
        return str(msgspec.json.decode(reply.body)["error"]["message"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return "no access"


def _retry_s(reply: Reply) -> float | None:
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return float(reply.headers[name]) * scale
        except (KeyError, ValueError):
            continue
    return None


def _usage(body: Any) -> _Usage:
    try:
        return msgspec.convert(body["usage"], _Usage)
    except (KeyError, TypeError, msgspec.ValidationError):
        return _Usage()
