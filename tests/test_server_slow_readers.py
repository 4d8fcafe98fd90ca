"""Clients that read slowly or not at all: bounded, and felt by nobody else."""

import asyncio
import socket

import msgspec

from prelude.client.stream import Stream
from prelude.types.request import TokenEvent
from tests.fakes import until
from tests.scripted_server import ids, scripted, silent_peer
from tests.server_harness import Harness, parse_events

WORDS = "word " * 50


def stream_of(server: Harness, uid: int) -> Stream:
    return server.client._streams[uid]


async def received(peer: socket.socket) -> bytes:
    """The body that came, as far as ``[DONE]``, without its chunks' frames."""
    loop, data = asyncio.get_running_loop(), b""
    while b"[DONE]\n\n" not in data:
        piece = await loop.sock_recv(peer, 65536)
        assert piece, "cut off"
        data += piece
    data = data.split(b"\r\n\r\n", 1)[1]
    body = b""
    while data:
        size, data = data.split(b"\r\n", 1)
        body, data = body + data[: int(size, 16)], data[int(size, 16) + 2 :]
        if body.endswith(b"[DONE]\n\n"):
            break
    return body


async def test_one_who_does_not_read_is_bounded_and_holds_up_nobody() -> None:
    chunk, num = ids(WORDS), 2500
    async with scripted(send_timeout_s=3600.0) as (server, transport):
        peer = silent_peer(server)
        stuck = (await transport.submitted(1)).uid
        other = asyncio.create_task(server.chat_events())
        reader = (await transport.submitted(2)).uid
        most = 0
        for _ in range(num):
            transport.events(TokenEvent(stuck, 0, chunk), TokenEvent(reader, 0, ids("Hi ")))
            await asyncio.sleep(0)
            most = max(most, len(stream_of(server, stuck)._events))
        transport.events(TokenEvent(reader, 0, [], "stop"))
        events = await other
        text = "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1])
        assert text == "Hi " * num, "the one who reads has all, while the other has not moved"
        assert most <= 300, "what nobody takes is joined"
        assert stream_of(server, stuck)._events, "nor is it pushed into a buffer of the server's"
        transport.events(TokenEvent(stuck, 0, [], "stop"))
        events = parse_events(await received(peer))
        text = "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1])
        assert text == WORDS * num, "nothing is lost by being joined"
        assert len(events) < num, "and it comes in fewer, larger pieces"
        peer.close()


async def test_many_prompts_of_one_who_does_not_read_are_bounded_too() -> None:
    chunk = ids(WORDS)
    async with scripted(send_timeout_s=3600.0) as (server, transport):
        body = {"prompt": ["a", "b"], "stream": True}
        host, port = server.url.removeprefix("http://").split(":")
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.connect((host, int(port)))
            data = msgspec.json.encode(body)
            head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
            peer.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
            uids = [(await transport.submitted(n)).uid for n in (1, 2)]
            for _ in range(2500):
                transport.events(*(TokenEvent(uid, 0, chunk) for uid in uids))
                await asyncio.sleep(0)
            generation = next(iter(server.services.lifecycle._open))
            merged = generation._merged  # type: ignore[attr-defined]
            assert merged.full()
            assert all(len(stream_of(server, uid)._events) <= 300 for uid in uids)
        await until(lambda: server.client.num_streams == 0)
