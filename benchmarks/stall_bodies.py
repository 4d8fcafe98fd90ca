"""Bodies of nearly 16 MiB that are quick to send and slow to read: what ``benchmarks/stalls.py``
sends, by name."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

SIZE = 15 * 2**20
IDS = b"1,22,333,4444,"

_MESSAGE = b'"messages":[{"role":"user","content":"Hi"}]'
_MAX = b'"max_tokens":1'


def many(item: bytes, size: int = SIZE, most: int = SIZE) -> bytes:
    """A list of ``item``, as often as it fits, and no more than ``most`` times."""
    count = min(size // (len(item) + 1), most)
    return b"[" + b",".join([item] * count) + b"]"


def ids(size: int = SIZE) -> bytes:
    return b"[" + IDS * (size // len(IDS)) + b"1]"


def _chat(extra: bytes) -> bytes:
    return b"{%b,%b,%b}" % (_MESSAGE, _MAX, extra)


def _numbered(form: bytes, size: int) -> bytes:
    """``form`` with a number of six digits in it, again and again."""
    return b",".join(form % n for n in range(100_000, 100_000 + size // (len(form) + 5)))


def _parts(part: bytes, most: int = SIZE) -> bytes:
    return b'{"messages":[{"role":"user","content":%b}],%b}' % (many(part, most=most), _MAX)


def _words(size: int = SIZE) -> bytes:
    return b"a quick brown fox, and more; " * (size // 29)


_PART = b'{"type":"text","text":"a"}'
_ANY: Mapping[str, Callable[[], bytes]] = {
    "unknown: 0s": lambda: b'"x":' + many(b"0"),
    "unknown: arrays": lambda: b'"x":' + many(b"[]"),
    "unknown: texts": lambda: b'"x":' + many(b'""'),
    "many unknown": lambda: _numbered(b'"%d":1', SIZE),
    "one field often": lambda: b'"x":1,' * (SIZE // 6) + b'"x":1',
    "spaces": lambda: b'"x":1' + b" " * SIZE,
    "backslashes": lambda: b'"x":"%b"' % (b"\\\\" * (SIZE // 2)),
    "quotes": lambda: b'"x":"%b"' % (b'\\",' * (SIZE // 3)),
    "unsupported: 0s": lambda: b'"bad_words":' + many(b"0"),
    "stop_token_ids": lambda: b'"stop_token_ids":' + many(b"1"),
    "stop_token_ids, 2 MiB": lambda: b'"stop_token_ids":' + many(b"1", 2_000_000),
    "stop_token_ids, twice": lambda: b'"stop_token_ids":%b,"stop_token_ids":[1]' % many(b"1"),
    "allowed_token_ids, 2 MiB": lambda: b'"allowed_token_ids":' + ids(2_000_000),
    "logit_bias": lambda: b'"logit_bias":{%b}' % _numbered(b'"%d":1', SIZE),
    "logit_bias, 2 MiB": lambda: b'"logit_bias":{%b}' % _numbered(b'"%d":1', 1_900_000),
    "guided_choice": lambda: b'"guided_choice":' + many(b'"a"', 65_000),
    "metadata": lambda: b'"metadata":{%b}' % _numbered(b'"%d":"a"', SIZE),
}
_CHAT: Mapping[str, Callable[[], bytes]] = {
    **{name: partial(lambda make: _chat(make()), make) for name, make in _ANY.items()},
    "parts": lambda: _parts(_PART),
    "parts, 30,000": lambda: _parts(_PART, 30_000),
    "long parts": lambda: _parts(b'{"type":"text","text":"%b"}' % (b"a" * 1000)),
    "messages, 4096": lambda: (
        b'{"messages":%b,%b}' % (many(b'{"role":"user","content":"%b"}' % _words(3600)), _MAX)
    ),
    "one text": lambda: b'{"messages":[{"role":"user","content":"%b"}],%b}' % (_words(), _MAX),
    "kwargs": lambda: _chat(b'"chat_template_kwargs":{"x":%b}' % many(b"0")),
    "calls": lambda: (
        b'{"messages":[{"role":"assistant","tool_calls":%b}],%b}'
        % (many(b'{"function":{"name":"f","arguments":"{}"}}', most=30_000), _MAX)
    ),
    "a call's arguments": lambda: (
        b'{"messages":[{"role":"assistant","tool_calls":'
        b'[{"function":{"name":"f","arguments":"%b"}}]}],%b}' % (many(b"[]"), _MAX)
    ),
}
_PROMPTS: Mapping[str, Callable[[], bytes]] = {
    "ids": lambda: ids(),
    "0s": lambda: many(b"0"),
    "200,000 ids": lambda: many(b"1234", most=200_000),
    "empty texts": lambda: many(b'""'),
    "short texts": lambda: many(b'"a"'),
    "arrays": lambda: many(b"[]"),
    "lists of one id": lambda: many(b"[1]"),
    "1,000 lists of ids": lambda: many(b"[%b1]" % (b"12345," * 2500), most=1000),
    "1,000 lists of 500 ids": lambda: many(b"[%b1]" % (b"100," * 500), most=1000),
    "1,000 texts": lambda: many(b'"%b"' % _words(15_000), most=1000),
    "one text": lambda: b'"%b"' % _words(),
    "floats": lambda: many(b"0.1"),
    "long ints": lambda: many(b"9" * 30),
}


def bodies() -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """Path, name and how to make each: one at a time, for together they are large."""
    for name, make in _CHAT.items():
        yield "/v1/chat/completions", name, make
    for path, field in (("/v1/completions", b"prompt"), ("/v1/embeddings", b"input")):
        for name, make in _PROMPTS.items():
            yield path, name, partial(_prompt, field, make)
    yield "/v1/responses", "input", lambda: b'{"input":%b}' % many(b"{}")
    yield "/v1/responses", "parts", lambda: _input(b'{"type":"input_text","text":"a"}', 30_000)
    yield "/v1/responses", "systems", lambda: b'{"input":%b}' % _systems()
    yield "/v1/messages", "blocks", lambda: _blocks(b"user", b'{"type":"text","text":"a"}')
    yield "/v1/messages", "thoughts", lambda: _blocks(b"assistant", _thought())
    yield "/v1/messages", "systems", lambda: b'{%b,"messages":%b}' % (_MAX, _systems())
    yield "/v1/messages/count_tokens", "systems", lambda: b'{"messages":%b}' % _systems()
    yield "/tokenize", "one text", lambda: b'{"prompt":"%b"}' % _words()
    yield "/tokenize", "digits", lambda: b'{"prompt":"%b"}' % (b"1 " * (SIZE // 2))
    yield "/detokenize", "ids", lambda: b'{"tokens":%b}' % ids()
    yield "/detokenize", "0s", lambda: b'{"tokens":%b}' % many(b"0")
    yield "/detokenize", "floats", lambda: b'{"tokens":%b}' % many(b"0.0")


def _prompt(field: bytes, make: Callable[[], bytes]) -> bytes:
    return b'{"%b":%b,%b}' % (field, make(), _MAX)


def _input(part: bytes, most: int) -> bytes:
    parts = many(part, most=most)
    return b'{"input":[{"role":"user","content":%b}],"max_output_tokens":1}' % parts


def _systems() -> bytes:
    return many(b'{"role":"system","content":"%b"}' % _words(3600), most=4096)


def _thought() -> bytes:
    return b'{"type":"thinking","thinking":"%b"}' % (b"a" * 400)


def _blocks(role: bytes, block: bytes) -> bytes:
    messages = b'[{"role":"%b","content":%b}]' % (role, many(block, most=30_000))
    return b'{%b,"messages":%b}' % (_MAX, messages)
