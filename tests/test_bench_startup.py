"""What the start-up benchmark calls a first token and a gap, on a server that the test plays."""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from benchmarks import startup

CHUNKS = (
    'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    'data: {"choices":[{"delta":{"content":"7"}}]}\n\n'
    'data: {"choices":[{"delta":{"content":"8"}}]}\n\n'
    "data: [DONE]\n\n"
)


class Server:
    """Time passes by a second whenever somebody looks."""

    url = "http://server"

    def __init__(self) -> None:
        self._looks = itertools.count()

    @property
    def seconds(self) -> float:
        return float(next(self._looks))


@pytest.fixture
def server() -> Any:
    return Server()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    answers = itertools.chain([503, 503], itertools.repeat(200))

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            return httpx.Response(200, text="# HELP x\nprelude_programs_ready 2.0\n")
        return httpx.Response(next(answers), text=CHUNKS)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        yield client


async def test_the_first_token_is_the_end_of_the_first_answer(
    server: Any, client: httpx.AsyncClient
) -> None:
    assert await startup.first_token_s(server, client) == 5.0, "two refusals, two tokens, the end"


async def test_moments_are_of_tokens_alone(server: Any, client: httpx.AsyncClient) -> None:
    await startup.first_token_s(server, client)
    moments = [moment async for moment in startup.tokens(server, client, max_tokens=2)]
    assert len(moments) == 2


async def test_without_streams_there_are_no_gaps(server: Any, client: httpx.AsyncClient) -> None:
    seen = await startup.watch(server, client, streams=0)
    assert seen["program_in_use_s"] is not None
    assert (seen["longest_gap_ms"], seen["compiled"]) == (None, {"gaps": 0})


def test_percentiles() -> None:
    gaps = [float(value) for value in range(1, 101)]
    assert startup.percentiles(gaps) == {"gaps": 100, "p50": 51.0, "p99": 100.0, "max": 100.0}
    assert startup.percentiles([]) == {"gaps": 0}
