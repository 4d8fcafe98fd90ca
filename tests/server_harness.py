"""A real server on a real socket, before the real engine loop with a runner that can be scripted.

Everything runs in the test's own event loop and one engine thread; nothing waits for time to
pass: a ``Gate`` lets the engine make exactly as many tokens as a test wants.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
from starlette.applications import Starlette

from prelude.client.client import EngineClient
from prelude.client.local import start_local
from prelude.conf.schema import Config
from prelude.engine.core import EngineCore
from prelude.engine.grammars import Grammars
from prelude.runner.fake import FakeRunner
from prelude.server.app import build_app
from prelude.server.http_server import DrainingServer, make_server
from prelude.server.listen import open_socket
from prelude.server.services import Services
from prelude.text.grammar import GrammarCompiler
from prelude.text.tokenizer import Tokenizer
from prelude.types.wire import EngineInfo
from tests.text_samples import byte_level

ANSWER = "The quick brown fox jumps over the lazy dog."


class Gate:
    """Tokens the engine may still make; closed at first unless told otherwise."""

    def __init__(self, opened: bool = False) -> None:
        self._opened = opened
        self._permits = threading.Semaphore(0)

    def allow(self, num_tokens: int) -> None:
        self._permits.release(num_tokens)

    def open(self) -> None:
        self._opened = True
        self._permits.release(1)

    def wait(self) -> None:
        if not self._opened:
            self._permits.acquire()
        if self._opened:
            self._permits.release(1)


def says(tokenizer: Tokenizer, text: str, *, forever: bool = False) -> Callable[[list[int]], int]:
    """A model that answers every prompt with ``text``, and then ends or starts again."""
    answer = tokenizer.encode(text, add_special_tokens=False)

    def model(context: list[int]) -> int:
        for num in range(min(len(answer), len(context)), -1, -1):
            if context[len(context) - num :] == answer[:num]:
                done = num == len(answer)
                return answer[0 if done else num] if forever or not done else tokenizer.eos_ids[0]
        raise AssertionError("unreachable: every context ends with nothing")

    return model


@dataclass
class Harness:
    url: str
    app: Starlette
    server: DrainingServer
    client: EngineClient
    http: httpx.AsyncClient
    core: EngineCore | None = None

    @property
    def services(self) -> Services:
        found: Services = self.app.state.services
        return found

    async def chat(self, **fields: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
        return await self.http.post("/v1/chat/completions", json=body)

    async def complete(self, **fields: Any) -> httpx.Response:
        return await self.http.post("/v1/completions", json={"prompt": "the fox", **fields})

    async def events(self, path: str, body: dict[str, Any]) -> list[Any]:
        """The events of a stream, parsed; ``[DONE]`` and comments as they are."""
        async with self.http.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200, await response.aread()
            return parse_events(await response.aread())

    async def chat_events(self, **fields: Any) -> list[Any]:
        body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
        return await self.events("/v1/chat/completions", body)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Yield to the loop until ``condition``; the test's own time limit ends a wait in vain."""
        while not condition():
            await asyncio.sleep(0)


def parse_events(body: bytes) -> list[Any]:
    events: list[Any] = []
    for block in body.decode().removesuffix("\n\n").split("\n\n"):
        assert "\n" not in block, block
        data = block.removeprefix("data: ")
        plain = block.startswith(":") or data == "[DONE]"
        events.append(data if plain else msgspec.json.decode(data))
    return events


@dataclass(slots=True)
class Engine:
    """What to put behind the server."""

    model: Callable[[list[int]], int] | None = None
    gate: Gate = field(default_factory=lambda: Gate(opened=True))
    max_len: int = 256
    max_seqs: int = 64
    name: str = "test-model"
    eos_ids: Sequence[int] | None = None
    tokenizer_file: Path | None = None  # tokenizer.json, for answers that are held to a grammar


def make_core(engine: Engine, tokenizer: Tokenizer, config: Config) -> EngineCore:
    runner = FakeRunner(
        num_blocks=1024,
        max_len=engine.max_len,
        vocab_size=tokenizer.vocab_size,
        model=engine.model or says(tokenizer, ANSWER),
        sleep=lambda ms: engine.gate.wait(),
    )
    eos_ids = tokenizer.eos_ids if engine.eos_ids is None else tuple(engine.eos_ids)
    compiler = None
    if engine.tokenizer_file is not None:
        compiler = GrammarCompiler(engine.tokenizer_file, tokenizer.vocab_size, eos_ids)
    return EngineCore(
        runner,
        batcher=config.batcher,
        cache=config.cache,
        max_seqs=engine.max_seqs,
        eos_ids=eos_ids,
        seed=0,
        grammars=Grammars(compiler),
    )


def engine_info(engine: Engine, tokenizer: Tokenizer, folder: Path) -> EngineInfo:
    return EngineInfo(
        model_name=engine.name,
        model_path=str(folder),
        device="fake",
        dtype="none",
        max_len=engine.max_len,
        vocab_size=tokenizer.vocab_size,
        eos_ids=list(tokenizer.eos_ids),
        num_blocks=1024,
        block_size=16,
        max_seqs=engine.max_seqs,
        startup_s={},
    )


@asynccontextmanager
async def serving(
    engine: Engine | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    config: Config | None = None,
    folder: Path = Path("/nonexistent"),
) -> AsyncIterator[Harness]:
    """A server before the real engine loop on a thread."""
    engine = engine or Engine()
    tokenizer = tokenizer or byte_level()
    config = config or test_config(engine.name)
    core = make_core(engine, tokenizer, config)
    client = start_local(lambda: (core, engine_info(engine, tokenizer, folder)))
    await client.wait_ready()
    try:
        async with listening(client, tokenizer, config) as harness:
            harness.core = core
            yield harness
    finally:
        engine.gate.open()
        await client.close()


@asynccontextmanager
async def listening(
    client: EngineClient, tokenizer: Tokenizer, config: Config
) -> AsyncIterator[Harness]:
    """A server on a free port before ``client``, stopped without draining at the end."""
    app = build_app(client, tokenizer, config)
    server = make_server(app, config)
    opened = open_socket("127.0.0.1", 0)
    url = f"http://127.0.0.1:{opened.getsockname()[1]}"
    # _serve is serve without signal handlers, which belong to the test runner here
    task = asyncio.create_task(server._serve([opened]))
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
        harness = Harness(url, app, server, client, http)
        await harness.until(lambda: server.started)
        try:
            yield harness
        finally:
            app.state.services.lifecycle.hurry()
            server.should_exit = True
            await http.aclose()
            await task


def test_config(name: str = "test-model", **server: Any) -> Config:
    config = Config()
    config.model.name = name
    for key, value in server.items():
        setattr(config.server, key, value)
    return config


test_config.__test__ = False  # type: ignore[attr-defined]
