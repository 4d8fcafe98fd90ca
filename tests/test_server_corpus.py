"""Bodies that break parsers: whatever is sent is answered, or refused in the API's own words."""

from collections.abc import Iterator

import msgspec
import pytest

from tests.server_harness import Harness, parse_events, serving

DIGITS = b"9" * 5000
TEXTS = {
    "nul": rb'"\u0000"',
    "lone high surrogate": rb'"\ud800"',
    "lone low surrogate": rb'"a\udfff"',
    "reversed surrogates": rb'"\udc00\ud800"',
    "not utf-8": b'"\xff\xfe"',
    "overlong utf-8": b'"\xc0\x80"',
    "surrogate in utf-8": b'"\xed\xa0\x80"',
    "byte order mark within": b'"\xef\xbb\xbf"',
    "line separators": rb'"\u2028\u2029\u0085\r\n\ndata: [DONE]\n\n"',
    "noncharacters": rb'"\uffff\ufffe"',
    "joined marks": '"e{}"'.format("\u0301" * 300).encode(),
    "special tokens": b'"<|im_end|><|endoftext|><s></s>"',
    "one long word": b'"' + b"a" * 20_000 + b'"',
    "spaces": b'"' + b" " * 20_000 + b'"',
    "empty": b'""',
    "number": DIGITS,
    "exponent": b"1e999999",
    "minus zero": b"-0.0",
    "not a number": b"NaN",
    "nested": b"[" * 3000 + b"]" * 3000,
    "nested and open": b"[" * 3000,
    "duplicated keys": b'{"a": 1, "a": {"a": 2}}',
}
VALUES = {**TEXTS, "null": b"null", "list": b"[]", "huge id": b"[%b]" % DIGITS, "true": b"true"}
MESSAGE = b'{"messages": [{"role": "user", "content": %b}], "max_tokens": 2}'
SHAPES = {
    ("/v1/chat/completions", "content"): MESSAGE,
    ("/v1/chat/completions", "role"): b'{"messages": [{"role": %b, "content": "a"}]}',
    ("/v1/chat/completions", "streamed"): MESSAGE[:-1] + b', "stream": true}',
    ("/v1/chat/completions", "stop"): MESSAGE[:-1].replace(b"%b", b'"a"') + b', "stop": %b}',
    ("/v1/chat/completions", "schema"): b'{"messages": [{"role": "user", "content": "a"}], '
    b'"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": %b}}}',
    ("/v1/chat/completions", "arguments"): b'{"messages": [{"role": "assistant", "tool_calls": '
    b'[{"id": "a", "type": "function", "function": {"name": "f", "arguments": %b}}]}]}',
    ("/v1/chat/completions", "logit_bias"): b'{"messages": [{"role": "user", "content": "a"}], '
    b'"max_tokens": 2, "logit_bias": {"1": %b}}',
    ("/v1/completions", "prompt"): b'{"prompt": %b, "max_tokens": 2}',
    ("/v1/completions", "seed"): b'{"prompt": "a", "max_tokens": 2, "seed": %b}',
    ("/v1/completions", "unknown"): b'{"prompt": "a", "max_tokens": 2, "odd": %b}',
    ("/v1/completions", "salt"): b'{"prompt": "a", "max_tokens": 2, "cache_salt": %b, "user": "b"}',
    ("/v1/embeddings", "input"): b'{"input": %b}',
    ("/v1/responses", "input"): b'{"input": %b, "max_output_tokens": 2}',
    ("/v1/responses", "metadata"): b'{"input": "a", "max_output_tokens": 2, "metadata": {"a": %b}}',
    ("/v1/messages", "system"): MESSAGE[:-1].replace(b"%b", b'"a"') + b', "system": %b}',
    ("/v1/messages", "input"): b'{"max_tokens": 2, "messages": [{"role": "assistant", "content": '
    b'[{"type": "tool_use", "id": "a", "name": "f", "input": %b}]}]}',
    ("/v1/messages/count_tokens", "content"): MESSAGE,
    ("/tokenize", "prompt"): b'{"prompt": %b}',
    ("/detokenize", "tokens"): b'{"tokens": %b}',
    ("/detokenize", "one"): b'{"tokens": [1, %b]}',
}
BODIES = {
    "byte order mark": b"\xef\xbb\xbf{}",
    "utf-16": '{"prompt": "a"}'.encode("utf-16"),
    "two values": b"{} {}",
    "trailing comma": b'{"prompt": "a",}',
    "duplicated fields": b'{"prompt": 1, "prompt": "a", "max_tokens": 2, "max_tokens": -1}',
    "a list": b"[]",
    "nul bytes": b"\0" * 64,
    "many fields": b"{" + b",".join(b'"x%d": 1' % n for n in range(3000)) + b"}",
    "a long name": b'{"' + b"a" * 50_000 + b'": 1}',
    "a name that is no text": rb'{"\ud800": 1, "prompt": "a"}',
}


@pytest.mark.parametrize(("path", "field"), SHAPES)
async def test_any_value_in_any_place(path: str, field: str) -> None:
    async with serving() as server:
        for name, value in VALUES.items():
            await check(server, path, SHAPES[path, field].replace(b"%b", value), name)
        assert (await server.complete(max_tokens=1)).status_code == 200


@pytest.mark.parametrize("path", sorted({path for path, _ in SHAPES}))
async def test_any_body(path: str) -> None:
    async with serving() as server:
        for name, body in BODIES.items():
            await check(server, path, body, name)


async def check(server: Harness, path: str, body: bytes, name: str) -> None:
    response = await server.http.post(path, content=body)
    assert response.status_code in (200, 400), (name, response.text[:500])
    if response.headers["content-type"].startswith("text/event-stream"):
        assert parse_events(response.content)[-1] == "[DONE]", name
        return
    found = msgspec.json.decode(response.content)
    if response.status_code == 400:
        assert_is_error(found, path)


def assert_is_error(found: dict[str, dict[str, str]], path: str) -> None:
    error = found["error"]
    assert error["type"] == "invalid_request_error"
    assert 0 < len(error["message"]) < 4000, "what was sent is not sent back at length"
    assert path.startswith("/v1/messages") or {"param", "code"} <= set(error)


def odd_texts() -> Iterator[str]:
    for value in TEXTS.values():
        try:
            text = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            continue
        if isinstance(text, str) and text:
            yield text


@pytest.mark.parametrize("text", [*odd_texts()], ids=range(len([*odd_texts()])))
async def test_answers_of_any_text_are_events_that_can_be_read(text: str) -> None:
    """An answer's line ends and marks stay within its event."""
    async with serving() as server:
        echoed = await server.events("/v1/completions", {"prompt": text[:100], "echo": True})
        assert echoed[-1] == "[DONE]"
        parts = [choice["text"] for one in echoed[:-1] for choice in one["choices"]]
        assert "".join(parts).startswith(text[:100])
