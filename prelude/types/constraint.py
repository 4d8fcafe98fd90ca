"""What an answer must look like, whatever the model would rather say."""

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ConstraintKind = Literal["json", "json_schema", "regex", "choice", "lark"]
MatchEnd = Literal["stop", "error"]


class Constraint(msgspec.Struct, frozen=True, omit_defaults=True):
    """``text`` is, by ``kind``: nothing ("json": any JSON object), a JSON schema as JSON text, a
    regular expression that the whole answer matches, a JSON list of strings of which it is one,
    a grammar in llguidance's dialect of Lark or in GBNF. ``after_reasoning`` leaves everything free
    up to and including the model's token that ends reasoning; with ``may_reason`` that is so if the
    model begins with the token that begins it. ``field`` is what the client calls the constraint,
    for messages."""

    kind: ConstraintKind
    text: str = ""
    after_reasoning: bool = False
    may_reason: bool = False
    field: str = "constraint"


class ConstraintError(ValueError):
    """A constraint that cannot be met or is not worth the effort; the message is for its author."""


class SlowConstraintError(ConstraintError):
    """It took too long, which on a busier or idler machine may come out otherwise."""


class Matcher(Protocol):
    """Where one answer stands in its grammar. ``ended`` is "stop" once nothing may follow, "error"
    once it cannot go on; ``error`` then says why. ``wish_id`` is one more token that may come next,
    but only if the model finds none likelier. Used by one thread at a time."""

    @property
    def ended(self) -> MatchEnd | None: ...
    @property
    def error(self) -> str: ...
    @property
    def wish_id(self) -> int | None: ...

    def fill(self, mask: "NDArray[np.int32]") -> None:
        """Which tokens may come next: bit ``i % 32`` of word ``i // 32``, [ceil(vocab / 32)]."""
        ...

    def accept(self, token_id: int) -> None:
        """The token that came."""
        ...
