"""What was used last, shared out among its users: who fills it loses its own."""

from collections import Counter, OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Kept(Generic[K, V]):
    """At most ``most`` values. One too many costs who used the most of them last its oldest, and
    never the newest of all."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: OrderedDict[K, tuple[V, str]] = OrderedDict()  # with who used it last

    def find(self, key: K, user: str) -> V | None:
        if (entry := self._found.get(key)) is None:
            return None
        self.keep(key, entry[0], user)
        return entry[0]

    def keep(self, key: K, value: V, user: str) -> None:
        self._found[key] = value, user
        self._found.move_to_end(key)
        if len(self._found) > self._most:
            # The first of equals is who has the oldest.
            ((most, _),) = Counter(who for _, who in self._found.values()).most_common(1)
            del self._found[next(k for k, (_, who) in self._found.items() if who == most)]

    def forget(self, key: K) -> None:
        self._found.pop(key, None)
