"""What a client needs of the way to an engine, and how it learns that there is none any more."""

from typing import Protocol

from prelude.types.wire import DeathReason, FromEngine, ToEngine


class EngineDeadError(RuntimeError):
    """The engine ended or could not start; the message is the root cause, ``reason`` its kind.
    ``restarting`` says that another one is being started in its place."""

    def __init__(
        self, message: str, reason: DeathReason = "error", *, restarting: bool = False
    ) -> None:
        super().__init__(message)
        self.reason: DeathReason = reason
        self.restarting = restarting


class Transport(Protocol):
    """Frames to and from one engine. ``receive`` raises ``EngineDeadError`` when it is gone."""

    def send(self, message: ToEngine) -> None: ...
    async def receive(self) -> FromEngine: ...
    def dump_stacks(self) -> None:
        """Have an engine that hangs write down where, if it can."""
        ...

    async def close(self, *, wait: bool) -> None:
        """Free everything. ``wait`` lets an engine that is ending end by itself, for a while."""
        ...


class Unreachable:
    """The way to an engine that the system would not start."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def send(self, message: ToEngine) -> None:
        pass

    async def receive(self) -> FromEngine:
        raise EngineDeadError(f"the engine process cannot be started: {self._error}", "start")

    def dump_stacks(self) -> None:
        pass

    async def close(self, *, wait: bool) -> None:
        pass
