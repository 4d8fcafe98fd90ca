"""Ending without cutting anybody off: what is open, and how long it may go on."""

import asyncio
import logging
from typing import Protocol

logger = logging.getLogger(__name__)


class Interruptible(Protocol):
    def interrupt(self) -> None: ...


class Lifecycle:
    """``is_ending`` is set once the server wants to end, ``is_held`` while an operator wants no new
    requests; ``began`` is told of the former, ``expired`` once open work must end too."""

    def __init__(self) -> None:
        self.is_ending = False
        self.is_held = False
        self.began = asyncio.Event()
        self.expired = asyncio.Event()
        self._open: set[Interruptible] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def draining(self) -> bool:
        """True while new requests are refused."""
        return self.is_ending or self.is_held

    @property
    def num_open(self) -> int:
        return len(self._open)

    def opened(self, work: Interruptible) -> None:
        self._open.add(work)
        self._idle.clear()

    def closed(self, work: Interruptible) -> None:
        self._open.discard(work)
        if not self._open:
            self._idle.set()

    def begin(self) -> None:
        """From now on new requests are refused, and readiness says so."""
        self.is_ending = True
        self.began.set()

    async def drain(self, seconds: float) -> None:
        """Let open work finish for up to ``seconds`` or until ``hurry``, then interrupt it."""
        self.begin()
        if self.num_open:
            logger.info("draining %d requests for up to %g s", self.num_open, seconds)
        idle = asyncio.ensure_future(self._idle.wait())
        hurry = asyncio.ensure_future(self.expired.wait())
        await asyncio.wait({idle, hurry}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        hurry.cancel()
        self.expired.set()
        if self._open:
            logger.warning("interrupting %d unfinished requests", self.num_open)
        for work in list(self._open):
            work.interrupt()

    def hurry(self) -> None:
        """End the drain now."""
        self.expired.set()
