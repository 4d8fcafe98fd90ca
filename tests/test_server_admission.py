"""Refused and expired over HTTP, by the real engine loop behind a real server on loopback."""

import asyncio
from typing import Any

import httpx
import openai
import pytest

from prelude.conf.schema import Config, Policy
from prelude.types.errors import REFUSAL_CODES
from tests.server_harness import ANSWER, Engine, Gate, Harness, says, serving, test_config
from tests.text_samples import byte_level


def config(policy: Policy = Policy.fcfs, **limits: int) -> Config:
    found = test_config()
    found.batcher.policy = policy
    for name, most in limits.items():
        getattr(found.batcher.classes, name).max_waiting = most
    return found


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error's details; header and body agree on when to come back."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    found: dict[str, Any] = error["details"]
    assert error["message"]
    assert found["retry_after_ms"] == int(response.headers["retry-after-ms"])
    assert int(response.headers["retry-after"]) == -(-found["retry_after_ms"] // 1000)
    return found


async def refusals(server: Harness) -> dict[str, int]:
    text = (await server.http.get("/metrics")).text
    found = {}
    for code in REFUSAL_CODES:
        (line,) = [
            line
            for line in text.splitlines()
            if line.startswith("prelude_requests_refused_total") and f'"{code}"' in line
        ]
        found[code] = int(float(line.rsplit(" ", 1)[1]))
    return {code: num for code, num in found.items() if num}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("policy", [Policy.fcfs, Policy.class_aware])
async def test_a_hopeless_deadline_is_429_with_reason_and_estimate(
    policy: Policy, stream: bool
) -> None:
    async with serving(config=config(policy)) as server:
        for name, code in (
            ("ttft_deadline_ms", "ttft_infeasible"),
            ("deadline_ms", "deadline_infeasible"),
        ):
            details = error_of(await server.chat(stream=stream, **{name: 1e-6}), 429)
            assert details["reason"] == code
            assert details["estimate_ms"] >= 0.0
            assert details["limit_ms"] == 1e-6
        assert (await server.chat(ttft_deadline_ms=1e7, deadline_ms=1e8)).status_code == 200
        assert await refusals(server) == {"ttft_infeasible": 1, "deadline_infeasible": 1}


async def test_the_deadline_header_counts_too() -> None:
    async with serving() as server:
        body = {"messages": [{"role": "user", "content": "Hi"}]}
        headers = {"X-Request-Deadline-Ms": "0.000001"}
        response = await server.http.post("/v1/chat/completions", json=body, headers=headers)
        assert error_of(response, 429)["reason"] == "deadline_infeasible"


@pytest.mark.parametrize("stream", [False, True])
async def test_who_expires_in_the_queue_is_503_and_never_runs(stream: bool) -> None:
    """``batch`` is let in whatever it asks for, and ends when its time is up."""
    gate = Gate()
    endless = says(byte_level(), ANSWER, forever=True)
    engine = Engine(endless, gate, max_len=1000, max_seqs=1)
    async with serving(engine) as server:
        held = asyncio.create_task(server.chat(max_tokens=500))
        gate.allow(1)
        await server.until(lambda: server.client.stats.num_running == 1)
        fields = {"service_class": "batch", "ttft_deadline_ms": 1e-3, "stream": stream}
        late = asyncio.create_task(server.chat(**fields))
        await server.until(lambda: server.client.num_streams == 2)
        gate.allow(2)  # the engine reads between two steps, and looks at deadlines before each
        details = error_of(await late, 503)
        assert (details["reason"], details["service_class"]) == ("ttft_expired", "batch")
        assert await refusals(server) == {"ttft_expired": 1}
        gate.open()
        assert (await held).status_code == 200
        assert server.client.stats.num_blocks_referenced == 0


async def test_a_class_with_a_full_queue_is_429_and_others_are_served() -> None:
    gate = Gate()
    async with serving(Engine(gate=gate, max_seqs=1), config=config(batch=1)) as server:
        held = asyncio.create_task(server.chat())
        gate.allow(1)
        await server.until(lambda: server.client.stats.num_running == 1)
        waiting = asyncio.create_task(server.chat(service_tier="flex"))
        await server.until(lambda: server.client.num_streams == 2)
        gate.allow(2)
        await server.until(lambda: server.client.stats.num_waiting == 1)
        late = asyncio.create_task(server.chat(service_tier="flex"))
        await server.until(lambda: server.client.num_streams == 3)
        gate.allow(2)
        details = error_of(await late, 429)
        assert (details["reason"], details["num_waiting"]) == ("class_full", 1)
        other = asyncio.create_task(server.chat())
        gate.open()
        assert [one.status_code for one in await asyncio.gather(held, waiting, other)] == [200] * 3


async def test_openais_client_sees_a_rate_limit_and_may_wait_for_it() -> None:
    async with serving() as server:
        client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="some key", max_retries=0)
        async with client:
            with pytest.raises(openai.RateLimitError) as refused:
                await client.chat.completions.create(
                    model="test-model",
                    messages=[{"role": "user", "content": "Hi"}],
                    extra_body={"ttft_deadline_ms": 1e-6},
                )
        assert refused.value.code == "rate_limit_exceeded"
        assert isinstance(refused.value.body, dict)
        assert refused.value.body["details"]["reason"] == "ttft_infeasible"
