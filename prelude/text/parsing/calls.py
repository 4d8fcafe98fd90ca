"""The calls of one answer as they are found: numbered, named, with arguments in pieces."""

import secrets
import string
from collections.abc import Callable, Mapping
from typing import Any

from prelude.text.message import ToolCallDelta

_ALPHANUMERIC = string.ascii_letters + string.digits

NewId = Callable[[], str]


def long_id() -> str:
    """As OpenAI's."""
    return f"call_{secrets.token_hex(12)}"


def short_id() -> str:
    """As Mistral's templates demand: nine letters and digits."""
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(9))


class Calls:
    """``begin``, ``arguments`` in pieces, ``end``; ``drain`` what there is to send.

    ``tools`` are the names there are, with the schemas of their parameters. Calls beyond
    ``limit`` are read and not sent.
    """

    def __init__(
        self, tools: Mapping[str, Mapping[str, Any]], new_id: NewId, limit: int | None = None
    ) -> None:
        self.tools = tools
        self.num_begun = 0
        self.is_whole = True  # the last one ended as it should
        self._new_id = new_id
        self._limit = limit
        self._ready: list[ToolCallDelta] = []
        self._head: tuple[str, str] | None = None
        self._pieces: list[str] = []

    def begin(self, name: str) -> None:
        self._flush()
        self._head = (self._new_id(), name)
        self.num_begun += 1
        self.is_whole = False

    def arguments(self, piece: str) -> None:
        self._pieces.append(piece)

    def end(self, is_whole: bool) -> None:
        self.is_whole = is_whole

    def drain(self) -> tuple[ToolCallDelta, ...]:
        self._flush()
        ready, self._ready = tuple(self._ready), []
        return ready

    def _flush(self) -> None:
        """Pieces that came together go together."""
        arguments = "".join(self._pieces)
        call_id, name = self._head or (None, None)
        self._head, self._pieces = None, []
        if not arguments and name is None:
            return
        if self._limit is None or self.num_begun <= self._limit:
            index = self.num_begun - 1
            self._ready.append(ToolCallDelta(index, call_id, name, arguments))
