"""A server whose engine says what a test says, and requests of it."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec

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


def silent_peer(server: Harness) -> socket.socket:
    """It has asked for a stream, and reads nothing."""
    host, port = server.url.removeprefix("http://").split(":")
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.connect((host, int(port)))
    body = msgspec.json.encode(HI | {"stream": True})
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    peer.sendall(head.encode() + body)
    peer.setblocking(False)
    return peer
