"""An engine that dies is followed by another one: how soon, how often, and when not any more."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from prelude.client.transport import Transport
from prelude.conf.schema import SupervisorConfig
from prelude.types.wire import DeathReason

_MAX_BACKOFF_S = 30.0
_LOOKS = 4  # at an engine that may hang; one alone says nothing if this process was stopped

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Death:
    """How an engine ended: the kind, the root cause in one line, when (monotonic seconds), and how
    many requests it took along."""

    reason: DeathReason
    message: str
    at_s: float
    num_lost: int


class Supervisor:
    """``connect`` starts an engine and returns the way to it. ``clock`` gives monotonic seconds."""

    def __init__(
        self,
        connect: Callable[[], Transport],
        config: SupervisorConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.connect = connect
        self.sleep = sleep
        self._config = config
        self._clock = clock
        self._deaths_s: deque[float] = deque()

    def backoff_s(self) -> float | None:
        """An engine has died now: seconds until the next may start, None if enough have."""
        now_s, config = self._clock(), self._config
        self._deaths_s.append(now_s)
        while self._deaths_s[0] < now_s - config.window_s:
            self._deaths_s.popleft()
        num = len(self._deaths_s)
        if num > config.max_restarts:
            return None
        return min(config.backoff_s * 2.0 ** min(num - 1, 32), _MAX_BACKOFF_S)

    async def silence(self, num_heard: Callable[[], int]) -> None:
        """Return once ``num_heard`` has not changed for ``hang_s``; never if that is 0."""
        if not self._config.hang_s:
            await asyncio.Event().wait()
        looks, before = 0, num_heard()
        while looks < _LOOKS:
            await self.sleep(self._config.hang_s / _LOOKS)
            now = num_heard()
            looks, before = looks + 1 if now == before else 0, now

    @property
    def hang_s(self) -> float:
        return self._config.hang_s
