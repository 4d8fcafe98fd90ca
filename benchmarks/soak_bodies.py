"""Requests that no server should choke on: malformed, of the wrong types, too large, absurd."""

import random
from collections.abc import Callable
from typing import Any

import msgspec

from benchmarks.fault_client import render

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
PATHS = (CHAT, TEXT, "/tokenize", "/detokenize", "/v1/responses", "/v1/messages")
HI: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]

_RAW = (
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"\xff\xfe\x00",
    b'{"messages": "Hi"}',
    b'{"messages": [{"role": "user", "content": "\xff"}]}',
    b'{"messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 4}',
    b'{"messages": [], "max_tokens": 1}',
    b'{"messages": [{"role": 5}]}',
    b'{"messages": [{}]}',
    b'{"messages": null, "messages": 5}',
    b'{"prompt": [1, 2, -3]}',
    b'{"prompt": [99999999999999999999]}',
    b'{"prompt": [[]]}',
    b'{"prompt": NaN}',
    b"[" * 20_000,
    b'{"a":' * 5_000,
    b'{"tokens": ["a"]}',
    b'{"input": {"deep": ' + b"[" * 2_000 + b"]" * 2_000 + b"}}",
)
_FIELDS: tuple[dict[str, Any], ...] = (
    {"temperature": "hot"},
    {"temperature": 1e308},
    {"top_p": 0},
    {"top_k": -5},
    {"n": 10**9},
    {"n": 0},
    {"max_tokens": -1},
    {"max_tokens": 2**63},
    {"stop": [""]},
    {"stop": ["x"] * 10_000},
    {"logit_bias": {"x": 5}},
    {"logit_bias": {"5": 1e9}},
    {"seed": 2**64},
    {"tools": [{"type": "function"}]},
    {"tools": "all of them"},
    {"tool_choice": {"type": "function", "function": {"name": "none"}}},
    {"response_format": {"type": "json_schema"}},
    {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"$ref": "#"}},
        }
    },
    {"stream_options": {"include_usage": "yes"}},
    {"model": "another"},
    {"service_class": "royal"},
    {"deadline_ms": -1},
    {"stream": "maybe"},
    {"chat_template_kwargs": {"x": [[[]]]}},
    {"logprobs": 10**6, "top_logprobs": 10**6},
)
_GARBAGE = (
    b"\x00\x01\x02\x03\r\n\r\n",
    b"GET\r\n\r\n",
    b"POST / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)


def malformed(rng: random.Random, port: int) -> bytes:
    return rng.choice(_KINDS)(rng, port)


def _raw(rng: random.Random, port: int) -> bytes:
    return render(port, rng.choice(PATHS), rng.choice(_RAW))


def _fields(rng: random.Random, port: int) -> bytes:
    body = {"messages": HI, "prompt": "Hi", "max_tokens": 4} | rng.choice(_FIELDS)
    body.pop(rng.choice(("messages", "prompt")))
    return render(port, CHAT if "messages" in body else TEXT, body)


def _cut(rng: random.Random, port: int) -> bytes:
    """A good body with some of its bytes gone or others."""
    body = bytearray(msgspec.json.encode({"messages": HI, "max_tokens": 4, "stream": True}))
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(body))
        body[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return render(port, CHAT, bytes(body))


def _oversized(rng: random.Random, port: int) -> bytes:
    text = "word " * rng.randrange(60_000, 120_000)
    return render(port, rng.choice(PATHS), {"messages": HI, "prompt": text})


def _chunked(rng: random.Random, port: int) -> bytes:
    """Oversized too, but nobody says so beforehand."""
    piece = b"%x\r\n%b\r\n" % (2**14, b" " * 2**14)
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + piece * rng.randrange(17, 40) + b"0\r\n\r\n"


def _garbage(rng: random.Random, port: int) -> bytes:
    return rng.choice(_GARBAGE)


def _elsewhere(rng: random.Random, port: int) -> bytes:
    path = rng.choice(
        ("/", "/v1", "/v1/models", "/metrics", "/..%2f..%2fetc/passwd", "/health?x=%")
    )
    return render(port, path, {"prompt": "Hi"})


_KINDS: tuple[Callable[[random.Random, int], bytes], ...] = (
    _raw,
    _fields,
    _fields,
    _cut,
    _oversized,
    _chunked,
    _garbage,
    _elsewhere,
)
