"""One HTTP request's work in the engine: prompts in, text deltas out, numbers at the end."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prelude.client.client import EngineDeadError, Stream
from prelude.server.errors import (
    ApiError,
    engine_gone,
    from_engine,
    from_value_error,
    retry_later,
)
from prelude.server.limits import Ticket
from prelude.server.services import Services
from prelude.server.tally import Tally, Timings
from prelude.text.choice import ChoiceText, TextDelta
from prelude.types.request import RequestTimings, SamplingParams, TokenEvent, TokenLogprobs
from prelude.types.service import Hints

_MAX_BATCHES = 16  # of several prompts' events; the rest is joined where it waits


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0

    def body(self) -> dict[str, object]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


@dataclass(slots=True)
class _Prompt:
    """One prompt in flight."""

    stream: Stream
    prompt_ids: list[int]
    cached_tokens: int = 0
    logprobs: list[TokenLogprobs | None] | None = None
    timings: RequestTimings | None = None
    embedding: bytes = b""


class Generation:
    """Submits every prompt on creation; iterate with ``next``, then ``close``. The ``ticket`` owns
    it, and closes it where nobody else did.

    Choice ``j`` of prompt ``i`` has index ``i * n + j``. ``continues`` says that the text goes on
    from the prompt (completions) instead of beginning anew (chat answers); ``shown_ids`` are
    special tokens that its deltas print all the same; ``prompt_only`` says that
    output tokens are nobody's and do not count; ``embeds`` that embeddings are wanted instead.
    What is computed is on the ``ticket``'s account. Raises ``ApiError`` for what its key may not
    ask for.
    """

    def __init__(
        self,
        services: Services,
        prompts: Sequence[list[int]],
        params: Sequence[SamplingParams],
        *,
        ticket: Ticket,
        arrival_s: float,
        continues: bool,
        shown_ids: frozenset[int] = frozenset(),
        cache_salt: str = "",
        hints: Hints | None = None,
        prompt_only: bool = False,
        embeds: bool = False,
    ) -> None:
        self._services = services
        self._metrics = services.metrics
        self._end_s: float | None = None
        self._prompt_only = prompt_only
        self._interrupted = False
        self._is_failed = False
        self.count_reasoning: Callable[[], int] = lambda: 0  # whoever parses the text knows
        self.params = params[0]  # of all prompts, but for what each has room for
        self._n = params[0].n
        self._prompts: list[_Prompt] = []
        principal = ticket.principal
        hints, cache_salt = principal.bound(hints or Hints()), principal.salted(cache_salt)
        self._merged: asyncio.Queue[list[TokenEvent] | EngineDeadError] | None = None
        self._pumps: list[asyncio.Task[None]] = []
        self._reservation = ticket.reserve(prompts, params)
        try:
            # What can fail without an engine comes before there is anything to be aborted.
            self.choices = [
                ChoiceText(services.tokenizer, one, ids if continues else (), shown_ids)
                for ids, one in zip(prompts, params, strict=True)
                for _ in range(one.n)
            ]
            self._unfinished = len(self.choices)
            self._tally = Tally(self._metrics, len(self.choices), arrival_s)
            for ids, one in zip(prompts, params, strict=True):
                stream = services.client.submit(
                    ids, one, cache_salt=cache_salt, hints=hints, embeds=embeds
                )
                self._prompts.append(_Prompt(stream, ids))
            if len(self._prompts) > 1:
                self._merge()
        except BaseException as error:
            self._give_up()
            if isinstance(error, ValueError):
                raise from_value_error(error) from error
            raise
        ticket.owns(self)
        services.lifecycle.opened(self)

    @property
    def generation(self) -> "Generation":
        """Itself: a source of text deltas, as ``respond`` takes them."""
        return self

    @property
    def finished(self) -> bool:
        return self._unfinished == 0

    async def next(self) -> list[TextDelta]:
        """What has arrived since the last call, one delta a choice; empty when all have ended.

        Raises ``ApiError`` when the engine refuses or fails the request.
        """
        while self._unfinished:
            events = await self._next_events()
            start_s = time.perf_counter()
            deltas = self._read(events)
            self._metrics.stream_seconds.inc(time.perf_counter() - start_s)
            if deltas:
                return deltas
        return []

    def prompt_logprobs(self, index: int) -> list[TokenLogprobs | None] | None:
        """Of the prompt that choice ``index`` answers, once its first event is here."""
        return self._prompts[index // self._n].logprobs

    def prompt_ids(self, index: int) -> list[int]:
        """Of the prompt that choice ``index`` answers."""
        return self._prompts[index // self._n].prompt_ids

    @property
    def embeddings(self) -> list[bytes]:
        """One a prompt, float32, as ``TokenEvent`` has them; empty until they are here."""
        return [prompt.embedding for prompt in self._prompts]

    def usage(self) -> Usage:
        return Usage(
            sum(len(prompt.prompt_ids) for prompt in self._prompts),
            0 if self._prompt_only else sum(choice.num_tokens for choice in self.choices),
            sum(prompt.cached_tokens for prompt in self._prompts),
            self.count_reasoning(),
        )

    def timings(self) -> Timings:
        """Milliseconds and the service class so far, as ``Tally`` has them."""
        num_later = self.usage().completion_tokens - len(self.choices)
        return self._tally.timings(self._end_s or time.monotonic(), num_later)

    def log_fields(self) -> dict[str, object]:
        """For the access log."""
        usage = self.usage()
        unfinished = "resumable" if self._end_s is None else "abort"
        reasons = sorted({choice.finish_reason or unfinished for choice in self.choices})
        return {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
            "finish_reasons": reasons,
            **self.timings(),
        }

    def interrupt(self) -> None:
        """The server ends: whoever waits in ``next``, or calls it again, gets the error."""
        self._interrupted = True
        for prompt in self._prompts:
            prompt.stream.close()
        wake = EngineDeadError("interrupted")
        if self._merged is not None:
            with contextlib.suppress(asyncio.QueueFull):  # then nobody waits
                self._merged.put_nowait(wake)
        else:
            self._prompts[0].stream.put(wake)

    def close(self) -> None:
        """Abort what is unfinished and take stock. Idempotent."""
        self._services.lifecycle.closed(self)
        for task in self._pumps:
            task.cancel()
        for prompt in self._prompts:
            prompt.stream.close()
        if self._end_s is None:
            self._end_s = time.monotonic()
            self._take_stock()

    def _give_up(self) -> None:
        """Nobody has seen it yet: it never was."""
        for task in self._pumps:
            task.cancel()
        for prompt in self._prompts:
            prompt.stream.close()
        self._reservation.settle()

    async def _next_events(self) -> list[TokenEvent]:
        if not self._interrupted:
            try:
                return await self._receive()
            except EngineDeadError as error:
                self._is_failed = not self._interrupted
                if not self._interrupted:
                    raise engine_gone(error) from error
        raise retry_later("the server is shutting down", "shutdown")

    async def _receive(self) -> list[TokenEvent]:
        if self._merged is None:
            return await self._prompts[0].stream.next_batch()
        item = await self._merged.get()
        if isinstance(item, EngineDeadError):
            raise item
        return item

    def _merge(self) -> None:
        merged = self._merged = asyncio.Queue(_MAX_BATCHES)

        async def pump(stream: Stream) -> None:
            try:
                while batch := await stream.next_batch():
                    await merged.put(batch)
            except EngineDeadError as error:
                await merged.put(error)

        self._pumps = [asyncio.create_task(pump(prompt.stream)) for prompt in self._prompts]
        self._by_uid = {p.stream.request.uid: n for n, p in enumerate(self._prompts)}

    def _read(self, events: list[TokenEvent]) -> list[TextDelta]:
        now_s = time.monotonic()
        found: dict[int, TextDelta] = {}
        for event in events:
            number = 0 if self._merged is None else self._by_uid[event.uid]
            index = number * self._n + event.index
            choice = self.choices[index]
            if choice.finish_reason is not None:
                continue
            self._check(event)
            self._note(self._prompts[number], event, index, now_s)
            delta = choice.feed(event)
            if delta.truncate_at is not None and event.finish_reason is None:
                self._prompts[number].stream.truncate(event.index, delta.truncate_at)
            self._unfinished -= delta.finish_reason is not None
            earlier = found.get(index)
            found[index] = _joined(index, earlier, delta)
        return list(found.values())

    def _check(self, event: TokenEvent) -> None:
        self._is_failed = event.finish_reason in ("error", "abort")
        if event.finish_reason == "error":
            raise from_engine(event.error or "the engine failed this request", event.refusal)
        if event.finish_reason == "abort":
            raise ApiError(503, "the engine aborted the request", code="aborted")

    def _note(self, prompt: _Prompt, event: TokenEvent, index: int, now_s: float) -> None:
        self._tally.note(index, event, now_s)
        if event.num_cached_tokens > prompt.cached_tokens:
            prompt.cached_tokens = event.num_cached_tokens
        if event.prompt_logprobs is not None:
            prompt.logprobs = event.prompt_logprobs
        if event.timings is not None and prompt.timings is None:
            prompt.timings = event.timings
        if event.embedding is not None:
            prompt.embedding = event.embedding

    def _take_stock(self) -> None:
        assert self._end_s is not None
        usage = self.usage()
        self._settle(usage)
        if self.finished:
            self._tally.ended(self._end_s, [choice.num_tokens for choice in self.choices])
        self._metrics.prompt_tokens.observe(usage.prompt_tokens)
        self._metrics.output_tokens.observe(usage.completion_tokens)
        self._metrics.num_choices.observe(self._n)
        if (limit := self.params.max_tokens) is not None:
            self._metrics.max_tokens.observe(limit)
        for prompt in self._prompts:
            if prompt.timings is not None:
                waited_as = prompt.timings.waited_as
                self._metrics.queue[waited_as].add(prompt.timings.queue_ms / 1e3)
        for choice in self.choices:
            self._metrics.finished(choice.finish_reason or "abort", self._tally.service_class)

    def _settle(self, usage: Usage) -> None:
        """Who left before the first token pays for the prompt: it may have been computed."""
        is_begun = not self._is_failed or usage.completion_tokens > 0
        self._reservation.settle(
            usage.prompt_tokens if is_begun else 0,
            usage.completion_tokens,
            is_served=not self._is_failed,
        )


def _joined(index: int, earlier: TextDelta | None, later: TextDelta) -> TextDelta:
    """Both as one, when a slow client made events pile up; with the request's choice index."""
    if earlier is None and later.index == index:
        return later
    earlier = earlier or TextDelta(index)
    return TextDelta(
        index=index,
        text=earlier.text + later.text,
        token_ids=earlier.token_ids + later.token_ids,
        logprobs=earlier.logprobs + later.logprobs,
        finish_reason=later.finish_reason,
        stop_reason=later.stop_reason,
        truncate_at=later.truncate_at,
    )
