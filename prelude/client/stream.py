"""The events of one request on their way from the engine to whoever asked for it."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Self

import msgspec

from prelude.client.transport import EngineDeadError
from prelude.types.request import Request, TokenEvent
from prelude.types.wire import Truncate

if TYPE_CHECKING:
    from prelude.client.client import EngineClient

_MAX_EVENTS = 256


class Stream:
    """Iterate; call ``close`` when done with it, finished or not (``async with`` does): an
    unfinished request is then aborted, a finished one is not touched. ``close`` is idempotent.

    What nobody takes is joined, choice by choice: a reader that is slow, or gone without a word,
    costs the memory of its tokens and not of their events.
    """

    def __init__(self, client: "EngineClient", request: Request) -> None:
        self.request = request
        self._client = client
        self._unfinished = request.params.n
        self._events: list[TokenEvent] = []
        self._max_events = _MAX_EVENTS + 4 * request.params.n
        self._error: EngineDeadError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def truncate(self, index: int, num_tokens: int) -> None:
        """End choice ``index`` after its first ``num_tokens`` output tokens (stop string)."""
        if self._unfinished and self._error is None:
            self._client.send(Truncate(self.request.uid, index, num_tokens))

    def put(self, item: TokenEvent | EngineDeadError) -> None:
        if isinstance(item, EngineDeadError):
            self._error = item
        else:
            self._events.append(item)
            if len(self._events) > self._max_events:
                self._events = _joined(self._events)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next_batch(self) -> list[TokenEvent]:
        """Everything that has arrived since the last call, at least one event; empty at the end.
        Raises ``EngineDeadError``."""
        if self._unfinished <= 0:
            return []
        while not self._events:
            if self._error is not None:
                self.close()
                raise self._error.with_traceback(None)  # one error for many streams
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        events, self._events = self._events, []
        for event in events:
            self._unfinished -= event.finish_reason is not None
        if self._unfinished <= 0:
            self._client.forget(self.request.uid, abort=False)
        return events

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        while batch := await self.next_batch():
            for event in batch:
                yield event

    def close(self) -> None:
        self._client.forget(self.request.uid, abort=self._unfinished > 0)
        self._unfinished = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


def _joined(events: list[TokenEvent]) -> list[TokenEvent]:
    """One event for each choice."""
    found: dict[int, TokenEvent] = {}
    for event in events:
        earlier = found.get(event.index)
        found[event.index] = event if earlier is None else join(earlier, event)
    return list(found.values())


def join(earlier: TokenEvent, later: TokenEvent) -> TokenEvent:
    """Two events of one choice as if one step had made both."""
    logprobs = earlier.logprobs
    if later.logprobs is not None:
        logprobs = [*(logprobs or ()), *later.logprobs]
    return msgspec.structs.replace(
        later,
        token_ids=earlier.token_ids + later.token_ids,
        logprobs=logprobs,
        prompt_logprobs=later.prompt_logprobs or earlier.prompt_logprobs,
        num_cached_tokens=max(earlier.num_cached_tokens, later.num_cached_tokens),
        timings=later.timings or earlier.timings,
    )
