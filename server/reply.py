"""From a generation to a response, streamed or whole; the APIs differ only in their words."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Protocol, TypeVar

import msgspec
from prometheus_client import Counter
from starlette.requests import Request
from starlette.responses import Response

import prelude
from prelude.server.errors import CLIENT_CLOSED, ApiError, invalid
from prelude.server.generation import Generation
from prelude.server.protocol import GenerationFields
from prelude.server.services import Services
from prelude.server.sse import DONE, SSEResponse, disconnected, error_event
from prelude.server.tally import Timings, server_timing


class Delta(Protocol):
    """What one step adds to one choice; ``TextDelta`` and ``MessageDelta`` are such."""

    @property
    def index(self) -> int: ...
    @property
    def finish_reason(self) -> str | None: ...


D = TypeVar("D", bound=Delta)
D_co = TypeVar("D_co", bound=Delta, covariant=True)
D_contra = TypeVar("D_contra", bound=Delta, contravariant=True)


class Source(Protocol[D_co]):
    """Where the deltas of one request come from: a ``Generation``, or what reads one."""

    @property
    def generation(self) -> Generation: ...
    async def next(self) -> Sequence[D_co]: ...


class Reply(Protocol[D_contra]):
    """The words of one API. The methods that return bytes write whole SSE events, or nothing;
    ``body`` is the whole answer, from every delta of every choice. Its ``usage`` is OpenAI's,
    unless it has one."""

    def opening(self) -> bytes: ...
    def delta(self, delta: D_contra) -> bytes: ...
    def finish(self, delta: D_contra, timings: Timings | None) -> bytes: ...
    def usage(self) -> bytes: ...
    def body(self, answers: Sequence[Sequence[D_contra]]) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every chunk and the whole answer share; ``system_fingerprint`` is for the last chunk."""

    request_id: str
    model: str
    created: int
    chunk_object: str
    body_object: str
    system_fingerprint: str
    service_tier: str | None = None

    @classmethod
    def make(
        cls, request: Request, services: Services, prefix: str, chunk_object: str, body_object: str
    ) -> "Envelope":
        request_id = f"{prefix}-{request.state.request_id}"
        created, fingerprint = int(time.time()), _fingerprint(services)
        return cls(request_id, services.model_name, created, chunk_object, body_object, fingerprint)

    def with_tier(self, service_tier: str) -> "Envelope":
        return replace(self, service_tier=service_tier)

    def chunk_prefix(self) -> bytes:
        """The bytes of a chunk up to its choice's index: the same for every chunk."""
        head = msgspec.json.encode(self.head(self.chunk_object))
        return b"data: " + head[:-1] + b',"choices":[{"index":'

    def usage_chunk(self, generation: Generation) -> bytes:
        body = {
            **self.head(self.chunk_object),
            "system_fingerprint": self.system_fingerprint,
            "choices": [],
            "usage": generation.usage().body(),
            "timings": generation.timings(),
        }
        return b"data: " + msgspec.json.encode(body) + b"\n\n"

    def ended(self, chunk: bytes, timings: Timings | None) -> bytes:
        """A request's last chunk, with ``timings`` where they are told there."""
        if timings is None:
            return chunk
        told = {"system_fingerprint": self.system_fingerprint, "timings": timings}
        return chunk.removesuffix(b"}\n\n") + b"," + msgspec.json.encode(told)[1:] + b"\n\n"

    def body_head(self) -> dict[str, Any]:
        """The beginning of a whole answer."""
        return self.head(self.body_object) | {"system_fingerprint": self.system_fingerprint}

    def head(self, kind: str) -> dict[str, Any]:
        head: dict[str, Any] = {
            "id": self.request_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
        }
        return head if self.service_tier is None else {**head, "service_tier": self.service_tier}


def _fingerprint(services: Services) -> str:
    """Of all that an answer depends on beside its request. Where it is the same, so is what a seed
    or temperature 0 gives, as far as it can be: to the bit if it ends in ``-invariant``."""
    info, is_invariant = services.client.info, services.config.runner.batch_invariant
    what = (info.model_path, info.device, info.dtype, info.weights) if info is not None else ()
    digest = blake2b(repr((prelude.__version__, what, is_invariant)).encode(), digest_size=5)
    return f"fp_{digest.hexdigest()}" + "-invariant" * is_invariant


def wants_usage(body: GenerationFields) -> bool:
    """Whether the stream ends with a usage chunk. Raises ``ApiError`` for impossible options."""
    options = body.stream_options
    if options is None:
        return False
    if not body.stream:
        raise invalid("stream_options", "needs stream to be true")
    return bool(options.include_usage or options.continuous_usage_stats)


async def respond(
    request: Request,
    services: Services,
    source: Source[D],
    reply: Reply[D],
    stream: bool,
    *,
    done: bytes = DONE,
    on_error: Callable[[ApiError], bytes] = error_event,
) -> Response:
    """The response to a request whose generation has begun; closes it in every case. A stream's
    last bytes are ``done``, or what ``on_error`` makes of what went wrong."""
    if not stream:
        return await respond_whole(request, source, reply.body)
    request.state.generation = generation = source.generation
    return SSEResponse(
        _chunks(source, reply, done, services.metrics.stream_seconds),
        generation.close,
        ping_s=services.config.server.ping_s,
        send_timeout_s=services.config.server.send_timeout_s,
        late_headers=lambda: _headers(generation.timings(), is_end=False),
        on_error=on_error,
    )


async def _chunks(
    source: Source[D], reply: Reply[D], done: bytes, seconds: Counter
) -> AsyncGenerator[bytes, None]:
    """One item for all that one engine step brought; ``seconds`` counts the time it takes."""
    generation = source.generation
    out = [reply.opening()]
    while deltas := await source.next():
        start_s = time.perf_counter()
        for delta in deltas:
            out.append(reply.delta(delta))
            if delta.finish_reason is not None:
                timings = generation.timings() if generation.finished else None
                out.append(reply.finish(delta, timings))
        if generation.finished:
            out += [reply.usage(), done]
        data = b"".join(out)
        out.clear()
        seconds.inc(time.perf_counter() - start_s)
        if data:
            yield data


async def respond_whole(
    request: Request, source: Source[D], body_of: Callable[[Sequence[Sequence[D]]], dict[str, Any]]
) -> Response:
    """``respond`` for what is never streamed; ``body_of`` is a reply's ``body``."""
    request.state.generation = generation = source.generation
    work = asyncio.create_task(_collect(source))
    gone = asyncio.create_task(disconnected(request.receive))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return Response(status_code=CLIENT_CLOSED)
        body = body_of(work.result())
    finally:
        work.cancel()
        gone.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)
        generation.close()
    timings = generation.timings()
    body.setdefault("usage", generation.usage().body())
    body["timings"] = timings
    headers = _headers(timings, is_end=True)
    return Response(msgspec.json.encode(body), headers=headers, media_type="application/json")


def _headers(timings: Timings, *, is_end: bool) -> dict[str, str]:
    told = server_timing(timings, is_end=is_end)
    return {"server-timing": told} if told else {}


async def _collect(source: Source[D]) -> list[list[D]]:
    """Every choice's deltas."""
    answers: list[list[D]] = [[] for _ in source.generation.choices]
    while deltas := await source.next():
        for delta in deltas:
            answers[delta.index].append(delta)
    return answers
