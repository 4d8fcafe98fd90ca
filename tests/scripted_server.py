"""A server whose engine says what a test says, and requests of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from prelude.types.wire import Ready
from tests.fakes import ScriptedTransport, scripted_client, some_info
from tests.server_harness import Harness, listening, parse_events, test_config
from tests.text_samples import byte_level

CHAT = "/v1/chat/completions"

HI = {"messages": [{"role": "user", "content": "Hi"}]}


@asynccontextmanager
async def scripted(
    ready: bool = True, **server: Any
) -> AsyncIterator[tuple[Harness, ScriptedTransport]]:
    client, transport = scripted_client()
    if ready:
        transport.say(Ready(some_info()))
        await client.wait_ready()
    try:
        async with listening(client, byte_level(), test_config(**server)) as harness:
            yield harness, transport
    finally:
        await client.close()


def ids(text: str) -> list[int]:
    return byte_level().encode(text)


def error_of(body: bytes) -> dict[str, Any]:
    """The error event of a broken stream, which is followed by the one end mark."""
    *_, error, done = parse_events(body)
    assert done == "[DONE]"
    assert body.count(b"[DONE]") == 1
    found: dict[str, Any] = error["error"]
    return found


async def open_stream(server: Harness, **fields: Any) -> httpx.Response:
    request = server.http.build_request("POST", CHAT, json=HI | {"stream": True} | fields)
    return await server.http.send(request, stream=True)
