"""A transport played by the test: for what a healthy engine never does."""

import asyncio
from collections.abc import Callable

from prelude.client.client import EngineClient, EngineDeadError
from prelude.client.supervisor import Supervisor
from prelude.conf.schema import SupervisorConfig
from prelude.types.request import Request, TokenEvent
from prelude.types.wire import (
    DeathReason,
    EngineInfo,
    EngineStats,
    FromEngine,
    Ready,
    StepEvents,
    Submit,
    ToEngine,
)


class ScriptedTransport:
    """``sent`` is what the client sent, ``say`` what the engine says, ``die`` how it ends."""

    def __init__(self) -> None:
        self.sent: list[ToEngine] = []
        self.closed = False
        self.num_dumps = 0
        self._inbox: asyncio.Queue[FromEngine | EngineDeadError] = asyncio.Queue()

    def send(self, message: ToEngine) -> None:
        self.sent.append(message)

    async def receive(self) -> FromEngine:
        message = await self._inbox.get()
        if isinstance(message, EngineDeadError):
            raise message
        return message

    def dump_stacks(self) -> None:
        self.num_dumps += 1

    async def close(self, *, wait: bool) -> None:
        self.closed = True

    def say(self, message: FromEngine) -> None:
        self._inbox.put_nowait(message)

    def events(self, *events: TokenEvent) -> None:
        self.say(StepEvents(list(events), EngineStats()))

    def die(self, message: str, reason: DeathReason = "error") -> None:
        self._inbox.put_nowait(EngineDeadError(message, reason))

    @property
    def requests(self) -> list[Request]:
        return [message.request for message in self.sent if isinstance(message, Submit)]

    async def submitted(self, num: int = 1) -> Request:
        """The ``num``-th request, once it is here."""
        await until(lambda: len(self.requests) >= num)
        return self.requests[num - 1]


async def until(condition: Callable[[], object]) -> None:
    """Yield to the loop until ``condition``; the test's own time limit ends a wait in vain."""
    while not condition():
        await asyncio.sleep(0)


def scripted_client() -> tuple[EngineClient, ScriptedTransport]:
    transport = ScriptedTransport()
    return EngineClient(transport), transport


class ScriptedEngines:
    """Engines that follow one another behind one client. ``waits`` are the seconds that the client
    wanted to sleep: none of them pass."""

    def __init__(self, config: SupervisorConfig | None = None) -> None:
        self.started: list[ScriptedTransport] = []
        self.waits: list[float] = []
        self.now_s = 0.0
        self.refusal: Exception | None = None
        supervisor = Supervisor(
            self._connect,
            config or SupervisorConfig(hang_s=0.0),
            clock=lambda: self.now_s,
            sleep=self._sleep,
        )
        self.client = EngineClient(supervisor.connect(), supervisor)

    def _connect(self) -> ScriptedTransport:
        if self.refusal is not None:
            raise self.refusal
        self.started.append(ScriptedTransport())
        return self.started[-1]

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)

    async def ready(self, num: int = 1) -> ScriptedTransport:
        """The ``num``-th engine, which is ready now."""
        await until(lambda: len(self.started) >= num)
        self.started[-1].say(Ready(some_info()))
        await self.client.wait_ready()
        return self.started[-1]


def some_info(max_len: int = 256, vocab_size: int = 512) -> EngineInfo:
    return EngineInfo(
        model_name="test-model",
        model_path="/nonexistent",
        device="fake",
        dtype="none",
        max_len=max_len,
        vocab_size=vocab_size,
        eos_ids=[],
        num_blocks=16,
        block_size=16,
        max_seqs=8,
        startup_s={},
    )
