"""The event-stream parser gives the same events however the bytes are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.bench.sse import SseParser


def parse(*chunks: bytes) -> list[bytes]:
    parser = SseParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


LINE = st.binary(max_size=12).filter(lambda data: not set(data) & {10, 13})
EVENTS = st.lists(st.lists(LINE, min_size=1, max_size=3), max_size=6)
NOISE = st.sampled_from([b"", b": ping", b"event: message", b"id: 7", b"retry: 10", b":"])


@given(
    EVENTS,
    st.lists(NOISE, min_size=6, max_size=6),
    st.sampled_from([b"\n", b"\r\n"]),
    st.lists(st.integers(0, 400), max_size=12),
)
def test_any_chunking_gives_the_same_events(
    events: list[list[bytes]], noise: list[bytes], newline: bytes, cuts: list[int]
) -> None:
    stream = b""
    for lines, extra in zip(events, noise, strict=False):
        stream += extra + newline if extra else b""
        stream += b"".join(b"data: " + line + newline for line in lines) + newline
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[start:stop] for start, stop in pairwise(edges)]
    assert parse(*chunks) == [b"\n".join(lines) for lines in events]


@given(EVENTS, st.lists(st.integers(0, 400), max_size=12))
def test_lone_carriage_returns_end_lines_too(events: list[list[bytes]], cuts: list[int]) -> None:
    stream = b"".join(
        b"".join(b"data:" + b" " + line + b"\r" for line in lines) + b"\r" for lines in events
    )
    stream += b":\r:"  # a stream that goes on: the last CR is no longer the last byte
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[start:stop] for start, stop in pairwise(edges)]
    assert parse(*chunks) == [b"\n".join(lines) for lines in events]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b": keep-alive\n\n: again\n\ndata: a\n\n", [b"a"]),
        (b"event: x\n\n", []),
        (b"data: a\n", []),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data:\n\n", [b""]),
        (b"dataset: a\n\n", []),
        (b"\n\n\n", []),
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b'data: {"text": "\\n"}\n\n', [b'{"text": "\\n"}']),
    ],
)
def test_grammar(stream: bytes, events: list[bytes]) -> None:
    assert parse(stream) == events


def test_an_event_that_was_cut_off_is_none() -> None:
    assert parse(b"data: a\n\nda", b"ta: b\n") == [b"a"]


def test_an_event_is_given_as_soon_as_it_is_complete() -> None:
    parser = SseParser()
    assert parser.feed(b"data: a\n") == []
    assert parser.feed(b"\n") == [b"a"]
    assert parser.feed(b"data: b\r\n\r") == []
    assert parser.feed(b"\n") == [b"b"]
