"""Who asks: what an API key stands for once it has been checked.

Everything that a key decides about a request is decided here, so that no route can forget it: whose
prefix cache it may see, who pays for it, and how much it may ask for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

import msgspec

from prelude.conf.schema import LimitsConfig
from prelude.types.service import Hints, ServiceClass

Scope = Literal["infer", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

# What a class may do that the next one may not: be served at once, take long, take any time at all.
_RANKS: Mapping[ServiceClass, int] = {"fast": 0, "doc": 1, "deep": 1, "batch": 2}


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What one key may use; null is no limit. Tokens are prompts' and answers' together."""

    requests_per_min: int | None = None
    tokens_per_min: int | None = None
    concurrency: int | None = None
    max_context: int | None = None
    max_cost_ms: float | None = None

    @classmethod
    def of(cls, said: object, defaults: LimitsConfig) -> "KeyLimits":
        """What ``said``'s fields of these names say, else the defaults; 0 is no limit."""
        values = {}
        for one in fields(cls):
            value = getattr(said, one.name, None)
            values[one.name] = (getattr(defaults, one.name) if value is None else value) or None
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Principal:
    """``name`` is the key's, empty where no keys are asked for; ``key_id`` tells keys of one name
    apart, for each has limits of its own. ``salt`` is the name's part of the prefix cache;
    ``service_class`` and ``priority`` are the most it may ask for, and the class is also what it
    gets without asking."""

    name: str = ""
    key_id: str = ""
    service_class: ServiceClass | None = None
    priority: int = 0
    salt: str = ""
    scopes: frozenset[Scope] = frozenset({"infer"})
    limits: KeyLimits = field(default_factory=KeyLimits)

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def context(self, max_len: int) -> int:
        """Tokens that prompt and answer may have together where the model takes ``max_len``."""
        limit = self.limits.max_context
        return max_len if limit is None else min(limit, max_len)

    def salted(self, cache_salt: str) -> str:
        """``cache_salt`` divides what is the key's own; it never opens what is another's."""
        return f"{self.salt}/{cache_salt}" if self.salt else cache_salt

    def bound(self, hints: Hints) -> Hints:
        """A request's own words, as far as they are this key's to say."""
        hints = msgspec.structs.replace(hints, max_cost_ms=self.limits.max_cost_ms)
        if not self.name:
            return hints
        return msgspec.structs.replace(
            hints,
            client=self.name,
            service_class=self._class(hints.service_class),
            is_assigned=self.service_class not in (None, "fast"),
            priority=max(hints.priority, self.priority),
        )

    def _class(self, wish: ServiceClass | None) -> ServiceClass | None:
        if self.service_class is None or wish is None:
            return wish or self.service_class
        return wish if _RANKS[wish] >= _RANKS[self.service_class] else self.service_class


def nobody(limits: LimitsConfig | None = None) -> Principal:
    """Who asks where no keys are asked for: everybody together, under the server's own limits."""
    known = KeyLimits() if limits is None else KeyLimits.of(None, limits)
    return Principal(scopes=frozenset(SCOPES), limits=known)
