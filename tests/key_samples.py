"""Servers that ask for keys, and keys to ask with."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
from starlette.applications import Starlette

from prelude.conf.schema import Config
from prelude.server.keys_file import KeyEntry, hash_key, write_keys
from tests.server_harness import Engine, Harness, serving, test_config


def entry(token: str, name: str | None = None, **fields: Any) -> KeyEntry:
    """The key ``token``, named like itself unless told otherwise."""
    raw = {"name": name or token, "sha256": hash_key(token), **fields}
    return msgspec.convert(raw, KeyEntry)


def keys_config(path: Path, *entries: KeyEntry) -> Config:
    write_keys(path, list(entries))
    config = test_config()
    config.server.auth.keys = str(path)
    return config


@asynccontextmanager
async def guarded(
    folder: Path, *entries: KeyEntry, config: Config | None = None, engine: Engine | None = None
) -> AsyncIterator[Harness]:
    """A server that takes these keys."""
    made = keys_config(folder / "keys.yaml", *entries)
    if config is not None:
        config.server.auth.keys = made.server.auth.keys
    async with serving(engine, config=config or made) as server:
        yield server


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def in_process(app: Starlette, host: str = "localhost") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}")
