"""One key's requests are its own: what it has cached, who pays, which class it may have."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.server.principal import KeyLimits, Principal, nobody
from prelude.types.request import TokenEvent
from prelude.types.service import Hints, ServiceClass
from prelude.types.wire import Ready
from tests.fakes import scripted_client, some_info
from tests.key_samples import bearer, entry, guarded, keys_config
from tests.server_harness import Engine, Gate, Harness, listening, serving, test_config
from tests.text_samples import byte_level

LONG = "the quick brown fox jumps over the lazy dog and the dog sleeps on " * 2


async def cached(server: Harness, token: str, prompt: str = LONG, **fields: Any) -> int:
    """How many tokens of the prompt this key's request found."""
    body = {"prompt": prompt, "max_tokens": 1, **fields}
    response = await server.http.post("/v1/completions", json=body, headers=bearer(token))
    assert response.status_code == 200, response.text
    usage = response.json()["usage"]
    found: int = usage["prompt_tokens_details"]["cached_tokens"]
    assert found < usage["prompt_tokens"]
    return found


async def test_a_prefix_is_found_by_its_own_key_alone(tmp_path: Path) -> None:
    keys = [entry("a"), entry("b"), entry("a2", "a")]
    async with guarded(tmp_path, *keys) as server:
        assert await cached(server, "a") == 0
        hit = await cached(server, "a")
        assert hit > 0
        assert await cached(server, "b") == 0
        assert await cached(server, "a2") == hit
        assert await cached(server, "b") == hit
        for salt in ("a", "b", "x", server.services.keyring._secret.hex()):
            assert await cached(server, "b", cache_salt=salt) == 0
            assert await cached(server, "b", cache_salt=salt) == hit


async def test_no_salt_of_a_clients_own_opens_anothers_part(tmp_path: Path) -> None:
    async with guarded(tmp_path, entry("a"), entry("b")) as server:
        await cached(server, "a")
        await cached(server, "a", cache_salt="mine")
        salts = {p.name: p.salt for p in await principals(server)}
        for guess in ("a", "/", "", salts["a"], f"{salts['a']}/", f"{salts['a']}/mine", "mine"):
            assert await cached(server, "b", cache_salt=guess) == 0, guess


async def test_nobody_in_particular_shares_one_part() -> None:
    async with serving() as server:
        assert await cached(server, "whoever") == 0
        assert await cached(server, "somebody else") > 0
        assert await cached(server, "somebody else", cache_salt="mine") == 0


async def test_a_first_token_does_not_tell_what_others_asked(tmp_path: Path) -> None:
    """The engine computes as much for a stranger as if nobody had ever asked."""
    async with guarded(tmp_path, entry("a"), entry("b")) as server:
        assert server.core is not None
        await cached(server, "a")
        before = server.core.stats().cached_prompt_tokens
        await cached(server, "b")
        assert server.core.stats().cached_prompt_tokens == before


async def principals(server: Harness) -> list[Principal]:
    return [await server.services.keyring.check(token) for token in ("a", "b")]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text()), max_size=20))
def test_salts_of_different_keys_never_meet(uses: list[tuple[str, str]]) -> None:
    who = {name: Principal(name=name, salt=name * 64) for name in "ab"}
    made = {(name, who[name].salted(salt)) for name, salt in uses}
    assert len({salt for _, salt in made}) == len({(name, salt) for name, salt in made})


@pytest.mark.parametrize(
    ("most", "wish", "given_class"),
    [
        (None, None, None),
        (None, "fast", "fast"),
        ("batch", None, "batch"),
        ("batch", "fast", "batch"),
        ("batch", "deep", "batch"),
        ("deep", None, "deep"),
        ("deep", "fast", "deep"),
        ("deep", "doc", "doc"),
        ("deep", "batch", "batch"),
        ("fast", "batch", "batch"),
        ("fast", None, "fast"),
    ],
)
def test_a_class_is_a_default_and_the_most(
    most: ServiceClass | None, wish: ServiceClass | None, given_class: ServiceClass | None
) -> None:
    who = Principal(name="a", service_class=most)
    hints = who.bound(Hints(service_class=wish))
    assert hints.service_class == given_class
    assert hints.is_assigned == (most in ("deep", "batch")), "or it could be guessed to be better"


def test_urgency_is_the_keys_to_give() -> None:
    assert Principal(name="a").bound(Hints(priority=-5)).priority == 0
    assert Principal(name="a").bound(Hints(priority=3)).priority == 3
    assert Principal(name="a", priority=-2).bound(Hints(priority=-5)).priority == -2
    assert nobody().bound(Hints(priority=-5)).priority == -5


def test_the_rest_of_a_requests_words_stay() -> None:
    said = Hints(client="somebody", template="t", reasoning="high", deadline_ms=5.0)
    bound = Principal(name="a", limits=KeyLimits(max_cost_ms=9.0)).bound(said)
    assert bound == Hints(
        client="a", template="t", reasoning="high", deadline_ms=5.0, max_cost_ms=9.0
    )
    assert nobody().bound(said) == said


async def test_fairness_goes_by_the_key(tmp_path: Path) -> None:
    """Neither ``user`` nor a header makes a client of its own."""
    config = keys_config(tmp_path / "keys.yaml", entry("a", **{"class": "deep"}))
    client, transport = scripted_client()
    transport.say(Ready(some_info()))
    await client.wait_ready()
    async with listening(client, byte_level(), config) as server:
        for number, fields in enumerate(({}, {"user": "x"}, {"safety_identifier": "y"})):
            body = {"prompt": "hi", "max_tokens": 1, "service_class": "fast", **fields}
            headers = {"x-prelude-class": "fast", **bearer("a")}
            asking = asyncio.create_task(
                server.http.post("/v1/completions", json=body, headers=headers)
            )
            request = await transport.submitted(number + 1)
            assert (request.hints.client, request.hints.service_class) == ("a", "deep")
            transport.events(TokenEvent(request.uid, 0, [5], "length"))
            assert (await asking).status_code == 200
    await client.close()


async def test_a_request_may_cost_so_much_of_the_device(tmp_path: Path) -> None:
    limited = entry("a", max_cost_ms=30, tokens_per_min=5000, requests_per_min=9)
    async with guarded(tmp_path, limited) as server:
        before = server.services.limits.open(await server.services.keyring.check("a"), counts=False)
        for max_tokens, status in ((200, 400), (1, 200)):
            body = {"prompt": "the fox", "max_tokens": max_tokens, "ignore_eos": True}
            answer = await server.http.post("/v1/completions", json=body, headers=bearer("a"))
            assert answer.status_code == status, answer.text
            if status == 400:
                error = answer.json()["error"]
                assert error["param"] == "max_tokens"
                assert "and one request may take 30 ms" in error["message"]
                left = before.headers()  # nothing was computed, nothing is paid
                assert left["x-ratelimit-remaining-requests"] == "9"
                assert left["x-ratelimit-remaining-tokens"] == "5000"


async def test_a_request_that_the_queue_refuses_is_not_counted(tmp_path: Path) -> None:
    config = test_config()
    config.batcher.max_waiting = 1
    gate = Gate()
    one = entry("a", requests_per_min=9, tokens_per_min=5000)
    async with guarded(
        tmp_path, one, config=config, engine=Engine(gate=gate, max_seqs=1)
    ) as server:

        async def ask() -> int:
            body = {"prompt": "the fox", "max_tokens": 20}
            response = await server.http.post("/v1/completions", json=body, headers=bearer("a"))
            return response.status_code

        report = server.services.limits.report
        core = server.core
        assert core is not None
        asking = [asyncio.create_task(ask())]
        await server.until(lambda: core.ledger.num_running == 1)
        asking += [asyncio.create_task(ask()) for _ in range(3)]
        await server.until(lambda: server.client.num_streams == 4)
        gate.allow(3)  # between two steps the engine hears of them, and with the next it answers
        await server.until(lambda: sum(task.done() for task in asking) == 2)
        assert {task.result() for task in asking if task.done()} == {429}
        assert (report("a")["requests"], report("a")["open"]) == (2, 2)
        gate.open()
        assert sorted(await asyncio.gather(*asking)) == [200, 200, 429, 429]
        assert (report("a")["requests"], report("a")["open"]) == (2, 0)
        assert (report("a")["prompt_tokens"], report("a")["output_tokens"]) != (0, 0)
