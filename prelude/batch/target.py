"""Whom the requests of a batch are sent to: our own application in this process, or a server."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol

from starlette.types import ASGIApp, Message

from prelude.client.client import EngineClient
from prelude.client.process import start_engine
from prelude.conf.schema import Config, LimitsConfig
from prelude.engine.progress import progress_bar

_CLASS = ("x-prelude-class", "batch")  # a body's own service_class comes before it


class Reply(NamedTuple):
    """Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Target(Protocol):
    """``concurrency`` is how many requests it wants at once."""

    @property
    def concurrency(self) -> int: ...
    async def post(self, path: str, body: bytes) -> Reply:
        """Raises ``OSError`` where no answer came."""
        ...


class AppTarget:
    """An application before an engine, called as a server would. Cancelling ``post`` aborts the
    request; it raises ``EngineDeadError`` once there will be no engine any more."""

    def __init__(self, app: ASGIApp, client: EngineClient, concurrency: int) -> None:
        self._app = app
        self._client = client
        self.concurrency = concurrency

    async def post(self, path: str, body: bytes) -> Reply:
        requests = iter([{"type": "http.request", "body": body, "more_body": False}])
        status = 500
        headers: dict[str, str] = {}
        pieces: list[bytes] = []

        async def receive() -> Message:
            for message in requests:
                return message
            await asyncio.Event().wait()  # this client never leaves
            raise AssertionError("unreachable")

        async def send(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                pieces.append(message.get("body", b""))

        try:
            await self._app(_scope(path, len(body)), receive, send)
        except Exception:  # what went wrong is in the answer, and in the log
            if not pieces:
                raise
        if self._client.error is not None:
            raise self._client.error
        return Reply(status, headers, b"".join(pieces))


class HttpTarget:
    """A server at ``url``. Use it as a context manager; raises ``ValueError`` without httpx."""

    def __init__(self, url: str, concurrency: int, key: str | None = None) -> None:
        try:
            import httpx
        except ImportError as error:
            raise ValueError("--url needs httpx: pip install 'prelude-llm[bench]'") from error
        self.concurrency = concurrency
        self._error = httpx.HTTPError
        self._client = httpx.AsyncClient(
            base_url=url.removesuffix("/").removesuffix("/v1"),
            headers=dict([_CLASS, *([("authorization", f"Bearer {key}")] if key else [])]),
            timeout=httpx.Timeout(None, connect=10.0),
            limits=httpx.Limits(max_connections=concurrency),
        )

    async def post(self, path: str, body: bytes) -> Reply:
        headers = {"content-type": "application/json"}
        try:
            response = await self._client.post(path, content=body, headers=headers)
        except self._error as error:
            raise OSError(f"{type(error).__name__}: {error}") from error
        return Reply(response.status_code, response.headers, response.content)

    async def __aenter__(self) -> "HttpTarget":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()


@asynccontextmanager
async def own_engine(config: Config, concurrency: int | None) -> AsyncIterator[AppTarget]:
    """Start the engine that ``config`` describes, and the application before it. Who may run it
    needs no key and has no limits here. Raises ``EngineDeadError`` if it cannot start."""
    config.server.auth.keys = None
    config.server.limits = LimitsConfig()
    client = start_engine(config)
    try:
        from prelude.models.tokenizer import load_tokenizer
        from prelude.server.app import build_app

        tokenizer = await asyncio.to_thread(load_tokenizer, config.model)
        app = build_app(client, tokenizer, config, environment={})
        with progress_bar() as report:
            ready = asyncio.create_task(client.wait_ready())
            while not ready.done():
                report(client.progress.phase, client.progress.fraction)
                await asyncio.wait([ready], timeout=0.1)
        info = ready.result()
        yield AppTarget(app, client, concurrency or 2 * info.max_seqs)
    finally:
        await client.close()


def _scope(path: str, size: int) -> dict[str, Any]:
    headers = [
        ("host", "localhost"),
        ("content-type", "application/json"),
        ("content-length", str(size)),
        _CLASS,
    ]
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
    }
