"""API keys: which there are, and whose the one is that a request shows.

A key is 256 random bits, so its plain SHA-256 is all that is kept of it, and nobody gets in with
what the file says. The file is looked at again, at most once a second; one that cannot be read
leaves everything as it was.
"""

import asyncio
import hmac
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path

from prelude.conf.schema import ServerConfig
from prelude.server.keys_file import KeyEntry, hash_key, read_keys
from prelude.server.principal import KeyLimits, Principal, Scope

logger = logging.getLogger(__name__)

API_KEY_VARIABLE = "PRELUDE_API_KEY"
ADMIN_KEY_VARIABLE = "PRELUDE_ADMIN_KEY"

_LOOK_S = 1.0
_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Known:
    entry: KeyEntry
    principal: Principal


class Keyring:
    """The keys of a server. ``now`` gives seconds since the epoch, ``clock`` monotonic ones.

    Raises ``ValueError`` if the file cannot be used, ``OSError`` if it is not there.
    """

    def __init__(
        self,
        config: ServerConfig,
        environment: Mapping[str, str] = os.environ,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = None if config.auth.keys is None else Path(config.auth.keys).expanduser()
        self._limits = config.limits
        self._fixed = _from_environment(environment)
        self._clock = clock
        self._now = now
        self._secret = secrets.token_bytes(32)  # of this process: what it salts lives no longer
        self._stamp = self._look()
        self._looked_s = clock()
        self._known = self._index(self._read())

    @property
    def is_empty(self) -> bool:
        """True if no keys are asked for."""
        return self._path is None and not self._fixed

    def names(self) -> list[str]:
        return [known.principal.name for known in self._known.values()]

    async def check(self, token: str) -> Principal:
        """Whose key this is. Raises ``PermissionError`` that says what is wrong with it."""
        await self.refresh()
        digest = hash_key(token)
        # Found by a keyed digest, whose comparisons tell an outsider nothing.
        known = self._known.get(self._place(digest))
        if known is None or not hmac.compare_digest(known.entry.sha256, digest):
            raise PermissionError("this API key is not known here")
        entry = known.entry
        if entry.disabled:
            raise PermissionError(f"the API key {entry.name} is disabled")
        if entry.expires is not None and entry.expires.timestamp() <= self._now():
            raise PermissionError(f"the API key {entry.name} expired at {entry.expires:%F %T %Z}")
        return known.principal

    def look_again(self) -> None:
        """At the next request, however soon it comes."""
        self._looked_s = -inf

    async def refresh(self) -> None:
        """Read the file again if it has changed."""
        now_s = self._clock()
        if self._path is None or now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        if (stamp := self._look()) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._known = self._index(await asyncio.to_thread(self._read))
            logger.info("%s has changed: %d keys", self._path, len(self._known))
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                self._stamp = None  # the file may be well, and the system short of something
            logger.error("the keys stay as they were: %s", error)

    def _look(self) -> _Stamp | None:
        try:
            state = os.stat(self._path) if self._path is not None else None
        except OSError:
            return None
        return state and (state.st_mtime_ns, state.st_size, state.st_ino)

    def _read(self) -> list[KeyEntry]:
        return [*self._fixed, *(read_keys(self._path) if self._path is not None else [])]

    def _index(self, entries: Iterable[KeyEntry]) -> dict[bytes, _Known]:
        known: dict[bytes, _Known] = {}
        for entry in entries:
            known[self._place(entry.sha256)] = _Known(entry, self._principal(entry))
        return known

    def _principal(self, entry: KeyEntry) -> Principal:
        return Principal(
            name=entry.name,
            key_id=entry.sha256,
            service_class=entry.service_class,
            priority=entry.priority,
            salt=self._mac(f"salt {entry.name}").hex(),
            scopes=frozenset(entry.scopes),
            limits=KeyLimits.of(entry, self._limits),
        )

    def _place(self, digest: str) -> bytes:
        return self._mac(f"key {digest}")

    def _mac(self, text: str) -> bytes:
        return hmac.digest(self._secret, text.encode(), "sha256")


def _from_environment(environment: Mapping[str, str]) -> list[KeyEntry]:
    scopes: dict[str, tuple[str, tuple[Scope, ...]]] = {
        API_KEY_VARIABLE: ("env", ("infer", "metrics")),
        ADMIN_KEY_VARIABLE: ("env-admin", ("admin",)),
    }
    return [
        KeyEntry(name=name, sha256=hash_key(token), scopes=allowed)
        for variable, (name, allowed) in scopes.items()
        if (token := environment.get(variable))
    ]
