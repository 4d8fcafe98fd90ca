"""The engine loop: messages in, steps, one message of events out per step."""

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from prelude.engine.core import EngineCore
from prelude.types.request import TokenEvent
from prelude.types.wire import (
    Abort,
    EngineStats,
    ForgetPrefixes,
    FromEngine,
    SetLogLevel,
    Shutdown,
    StepEvents,
    Submit,
    ToEngine,
    Truncate,
)

logger = logging.getLogger(__name__)

_IDLE_MS = 200.0
_LESSON_MS = 2.0  # of slack, to learn in


class Channel(Protocol):
    """The engine's end of a transport. ``receive`` returns what has arrived, waiting up to
    ``timeout_ms`` (a fraction counts) for a first message; it raises ``EOFError`` when the other
    side is gone."""

    def receive(self, timeout_ms: float) -> list[ToEngine]: ...
    def send(self, message: FromEngine) -> None: ...


def run_loop(
    core: EngineCore, channel: Channel, on_quiet: Callable[[], None] = lambda: None
) -> None:
    """Serve until ``Shutdown`` or until the other side is gone. What is still running then ends
    as aborted. An exception of a step ends the loop: no state is trusted after it. ``on_quiet`` is
    called whenever nobody has wanted anything for a while."""
    said = EngineStats()
    try:
        while (stats := _turn(core, channel, said, on_quiet)) is not None:
            said = stats
    except EOFError:
        logger.warning("the server process is gone; the engine ends")
        return
    finally:
        core.abort_all()
    logger.info("engine shut down")


def describe(error: Exception) -> str:
    """The root cause in one line: kind, message, and where it was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"


def _turn(
    core: EngineCore, channel: Channel, said: EngineStats, on_quiet: Callable[[], None]
) -> EngineStats | None:
    """Messages until a step is due, the step, one message back if there is news. Returns the
    statistics as the other side knows them now, None at the end."""
    learned = (not core.has_work or core.slack_ms > _LESSON_MS) and core.learn()
    idle_ms = 0.0 if learned else _IDLE_MS
    messages = channel.receive(max(core.slack_ms, 0.0) if core.has_work else idle_ms)
    events: list[TokenEvent] = []
    for message in messages:
        if isinstance(message, Shutdown):
            channel.send(StepEvents(events + core.abort_all(), core.stats()))
            return None
        events += _apply(core, message)
    if core.has_work:
        if core.slack_ms > 0.0 and not events and not core.only_compiles:
            return said
        if core.slack_ms <= 0.0:
            events += core.step()
    elif not messages and not learned:
        core.runner.upkeep()
        on_quiet()
    stats = core.stats()
    if events or stats != said:
        channel.send(StepEvents(events, stats))
    return stats


def _apply(core: EngineCore, message: ToEngine) -> list[TokenEvent]:
    match message:
        case Submit(request):
            return core.add(request)
        case Abort(uid):
            return core.abort(uid)
        case Truncate(uid, index, num_tokens):
            return core.truncate(uid, index, num_tokens)
        case ForgetPrefixes():
            core.forget_prefixes()
            return []
        case SetLogLevel(level):
            logging.getLogger("prelude").setLevel(level)
            return []
        case _:
            return []
