"""The file of API keys: hashes, what each key may do, and how the file is written.

YAML or JSON, ``keys: [...]`` with the fields of ``KeyEntry``. The name is the tenant: it pays, and
what it has cached is its own, whichever key of that name was shown.
"""

import hashlib
import os
import re
import secrets
import tempfile
from datetime import datetime
from pathlib import Path

import msgspec

from prelude.server.principal import Scope
from prelude.types.service import ServiceClass

PREFIX = "sk-prelude-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
LIMITS = ("requests_per_min", "tokens_per_min", "concurrency", "max_context", "max_cost_ms")


class KeyEntry(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    rename={"service_class": "class"},
):
    """One key. Limits left out are ``server.limits``'; 0 is no limit. ``service_class`` is its
    default and the most it may ask for, and so is ``priority`` (smaller is more urgent). Raises
    ``ValueError`` naming the field."""

    name: str
    sha256: str
    service_class: ServiceClass | None = None
    priority: int = 0
    scopes: tuple[Scope, ...] = ("infer",)
    requests_per_min: int | None = None
    tokens_per_min: int | None = None
    concurrency: int | None = None
    max_context: int | None = None
    max_cost_ms: float | None = None
    created: datetime | None = None
    expires: datetime | None = None
    disabled: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError("name: must be 1 to 64 letters, digits, dots, dashes or underscores")
        if not _HASH.fullmatch(self.sha256):
            raise ValueError("sha256: must be 64 hexadecimal digits in lower case")
        if self.expires is not None and self.expires.tzinfo is None:
            raise ValueError("expires: must say its time zone, as in 2030-01-31T00:00:00Z")
        for limit in LIMITS:
            if (getattr(self, limit) or 0) < 0:
                raise ValueError(f"{limit}: must be 0 (no limit) or more")


class _KeysFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[KeyEntry] = []


def new_key() -> str:
    """256 random bits, in a form that secret scanners can know."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_key(token: str) -> str:
    """All that is kept of a key: 64 hexadecimal digits."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def read_keys(path: Path) -> list[KeyEntry]:
    """Raises ``ValueError`` that names the file and what is wrong, ``OSError`` if there is none."""
    data = path.read_bytes()
    try:
        decode = msgspec.json.decode if path.suffix == ".json" else msgspec.yaml.decode
        entries = msgspec.convert(decode(data or b"{}"), _KeysFile).keys
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError(f"server.auth.keys={path}: {error}") from error
    hashes = [entry.sha256 for entry in entries]
    if len(set(hashes)) < len(hashes):
        raise ValueError(f"server.auth.keys={path}: the same sha256 is there twice")
    return entries


def write_keys(path: Path, entries: list[KeyEntry]) -> None:
    """All at once, for a server may be reading it, and for its owner's eyes only."""
    encode = msgspec.json.encode if path.suffix == ".json" else msgspec.yaml.encode
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(encode(_KeysFile(entries)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
