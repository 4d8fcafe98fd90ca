"""Who is let in, on every path there is; how it is said; and what other sites' pages may do."""

import base64
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from starlette.routing import Route

from prelude.server.app import public_routes
from prelude.server.auth import HEALTH_PATHS
from tests.key_samples import bearer, entry, guarded
from tests.server_harness import ANSWER, Engine, Gate, Harness, serving, test_config

PAGE = {"accept": "text/html,*/*"}
HI = {"messages": [{"role": "user", "content": "Hi"}]}


def basic(token: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"me:{token}".encode()).decode()}


def every_path() -> list[tuple[str, str]]:
    """Each method of each route of the public application."""
    found = []
    for route in public_routes(test_config()):
        assert isinstance(route, Route)
        path = route.path.replace("{model:path}", "test-model")
        found += [(method, path) for method in sorted(route.methods or ())]
    return found


async def test_every_path_is_closed_unless_it_is_listed(tmp_path: Path) -> None:
    strange = ["/nothing", "//health", "/health/", "/HEALTH", "/v1", "/%2e%2e/health", "/docs"]
    async with guarded(tmp_path, entry("good")) as server:
        paths = [*every_path(), *(("GET", path) for path in strange)]
        assert len(paths) > 20
        for method, path in paths:
            for headers in (
                {},
                bearer("bad"),
                {"authorization": "Bearer"},
                {"x-api-key": "bad"},
                basic("bad"),
            ):
                response = await server.http.request(method, path, headers=headers)
                if path in HEALTH_PATHS:
                    assert response.status_code == 200, path
                else:
                    assert response.status_code == 401, (method, path)
                    assert response.headers["www-authenticate"] == "Bearer"


async def test_an_open_server_is_open() -> None:
    async with serving() as server:
        assert (await server.chat()).status_code == 200
        assert (await server.http.get("/metrics")).status_code == 200
        assert (await server.http.get("/nothing")).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        bearer("good"),
        {"authorization": "bearer  good"},
        {"x-api-key": "good"},
        basic("good"),
    ],
)
async def test_ways_to_show_a_key(tmp_path: Path, headers: dict[str, str]) -> None:
    async with guarded(tmp_path, entry("good")) as server:
        assert (await server.http.get("/v1/models", headers=headers)).status_code == 200


async def test_refusals_are_openais(tmp_path: Path) -> None:
    async with guarded(tmp_path, entry("off", disabled=True)) as server:
        error = (await server.http.get("/v1/models")).json()["error"]
        assert error["message"].startswith("no API key was sent; send it as")
        assert (error["type"], error["param"], error["code"]) == (
            "authentication_error",
            None,
            None,
        )
        error = (await server.http.get("/v1/models", headers=bearer("no"))).json()["error"]
        assert (error["message"], error["code"]) == (
            "this API key is not known here",
            "invalid_api_key",
        )
        error = (await server.http.get("/v1/models", headers=bearer("off"))).json()["error"]
        assert error["message"] == "the API key off is disabled"


async def test_refusals_of_messages_are_anthropics(tmp_path: Path) -> None:
    async with guarded(tmp_path, entry("good")) as server:
        body = (await server.http.post("/v1/messages", json={})).json()
        assert (body["type"], body["error"]["type"]) == ("error", "authentication_error")


async def test_strange_headers_are_no_key(tmp_path: Path) -> None:
    strange: list[Any] = ["Basic !!", "Basic " + base64.b64encode(b"\xff").decode(), "Bearer", ""]
    strange += [b"Bearer \xff\xfe", "Digest x", "Bearer " + "x" * 8000]
    async with guarded(tmp_path, entry("good")) as server:
        for value in strange:
            response = await server.http.get("/v1/models", headers={"authorization": value})
            assert response.status_code == 401, value


async def test_a_browser_is_asked_for_the_key(tmp_path: Path) -> None:
    async with guarded(tmp_path, entry("good")) as server:
        asked = await server.http.get("/", headers=PAGE)
        assert asked.status_code == 401
        assert asked.headers["www-authenticate"].startswith('Basic realm="')
        for path in ("/", "/page/style.css"):
            assert (await server.http.get(path, headers=basic("good"))).status_code == 200


async def test_the_page_can_be_public_and_nothing_else_is(tmp_path: Path) -> None:
    config = test_config()
    config.server.auth.public_page = True
    async with guarded(tmp_path, entry("good"), config=config) as server:
        for path in ("/", "/page/style.css"):
            assert (await server.http.get(path)).status_code == 200
        for path in ("/live", "/live/events", "/metrics", "/v1/models", "/page/none.js"):
            assert (await server.http.get(path)).status_code == 401, path


async def test_scopes(tmp_path: Path) -> None:
    keys = [entry("chat"), entry("watch", scopes=["metrics"]), entry("ops", scopes=["admin"])]
    async with guarded(tmp_path, *keys) as server:
        for token, path, status in [
            ("chat", "/v1/models", 200),
            ("chat", "/metrics", 403),
            ("chat", "/live/events", 403),
            ("watch", "/metrics", 200),
            ("watch", "/live", 200),
            ("watch", "/page/live.js", 200),
            ("watch", "/v1/models", 403),
            ("ops", "/v1/models", 200),
            ("ops", "/metrics", 200),
            ("ops", "/admin/config", 404),
            ("chat", "/admin/config", 403),
        ]:
            response = await server.http.get(path, headers=bearer(token))
            assert response.status_code == status, (token, path)
        error = (await server.http.get("/metrics", headers=bearer("chat"))).json()["error"]
        assert (error["type"], error["code"]) == ("permission_error", "insufficient_permissions")


async def test_limits_are_said_with_every_answer(tmp_path: Path) -> None:
    limited = entry("good", requests_per_min=2, tokens_per_min=1000)
    async with guarded(tmp_path, limited) as server:
        models = await server.http.get("/v1/models", headers=bearer("good"))
        assert models.headers["x-ratelimit-remaining-requests"] == "2"
        answer = await server.http.post(
            "/v1/chat/completions", json={**HI, "max_tokens": 100}, headers=bearer("good")
        )
        assert answer.status_code == 200
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert answer.headers["x-ratelimit-remaining-requests"] == "1"
        used = answer.json()["usage"]["total_tokens"]
        left = int(answer.headers["x-ratelimit-remaining-tokens"])
        assert 1000 - used <= left <= 1000 - used + 50  # time passes
        invalid = await server.http.post("/v1/chat/completions", json={}, headers=bearer("good"))
        assert invalid.status_code == 400
        await server.http.post("/tokenize", json={"prompt": "x"}, headers=bearer("good"))
        refused = await server.http.post("/tokenize", json={}, headers=bearer("good"))
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"


async def test_limits_without_keys_are_everybodys() -> None:
    config = test_config()
    config.server.limits.requests_per_min = 1
    async with serving(config=config) as server:
        assert (await server.chat()).status_code == 200
        refused = await server.chat()
        assert refused.status_code == 429
        assert refused.json()["error"]["message"].startswith("this server is at its limit")


async def test_who_leaves_gives_back_what_was_reserved(tmp_path: Path) -> None:
    gate = Gate()
    limited = entry("good", tokens_per_min=10_000, requests_per_min=5, concurrency=1)
    async with guarded(tmp_path, limited, engine=Engine(gate=gate)) as server:
        limits = server.services.limits

        def left() -> int:
            return int(str(limits.report("good")["x-ratelimit-remaining-tokens"]))

        body = {**HI, "max_tokens": 200}
        for stream in (False, True):
            request = server.http.build_request(
                "POST",
                "/v1/chat/completions",
                json={**body, "stream": stream},
                headers=bearer("good"),
                timeout=httpx.Timeout(60, read=0.05),
            )
            with pytest.raises(httpx.ReadTimeout):
                await server.http.send(request)
            await server.until(lambda: limits.report("good")["open"] == 0)
            assert left() > 10_000 - 100  # prompts are paid for
        gate.open()
        done = await server.http.post("/v1/chat/completions", json=body, headers=bearer("good"))
        assert done.status_code == 200


async def test_what_is_refused_does_not_count(tmp_path: Path) -> None:
    async with guarded(tmp_path, entry("good", requests_per_min=1)) as server:
        for path, body in (
            ("/v1/chat/completions", {"messages": []}),
            ("/v1/chat/completions", {**HI, "model": "another"}),
            ("/v1/nothing", {}),
        ):
            response = await server.http.post(path, json=body, headers=bearer("good"))
            assert response.status_code in (400, 404), path
        told = []
        for _ in range(2):
            response = await server.http.post(
                "/v1/chat/completions", json=HI, headers=bearer("good")
            )
            told.append(response.status_code)
        assert told == [200, 429]


async def test_the_openai_client(tmp_path: Path) -> None:
    keys = [entry("good"), entry("slow", requests_per_min=600)]
    async with guarded(tmp_path, *keys) as server:

        def client(token: str, **options: Any) -> openai.AsyncOpenAI:
            return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=token, **options)

        async def ask(who: openai.AsyncOpenAI) -> str | None:
            found = await who.chat.completions.create(
                model="test-model", messages=[{"role": "user", "content": "Hi"}]
            )
            return found.choices[0].message.content

        async with client("good") as good, client("bad") as bad, client("slow") as slow:
            assert await ask(good) == ANSWER
            with pytest.raises(openai.AuthenticationError, match="not known here"):
                await ask(bad)
            use_up(server, "slow")
            assert await ask(slow) == ANSWER  # after a 429 and the wait that it asked for
            assert server.services.limits.report("slow")["limited"] == 1
        async with client("slow", max_retries=0) as slow:
            use_up(server, "slow")
            with pytest.raises(openai.RateLimitError) as caught:
                await ask(slow)
            assert caught.value.code == "rate_limit_exceeded"


def use_up(server: Harness, name: str) -> None:
    """All requests of this minute but the tenth of a second that passes meanwhile."""
    entries = server.services.keyring._known.values()
    (who,) = [known.principal for known in entries if known.principal.name == name]
    server.services.limits.open(who, counts=False)
    account = server.services.limits._accounts[who.name, who.key_id]
    assert account.requests is not None
    now_s = server.services.limits._clock()
    account.requests.take(account.requests.level(now_s), now_s)


CROSS = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}


async def test_other_sites_pages_may_not_act_through_a_browser(tmp_path: Path) -> None:
    async with serving() as server:
        body = "/v1/chat/completions"
        assert (await server.http.post(body, json=HI, headers=CROSS)).status_code == 403
        same = {"sec-fetch-site": "same-origin", "origin": server.url}
        assert (await server.http.post(body, json=HI, headers=same)).status_code == 200
        assert (await server.http.get("/", headers=CROSS)).status_code == 200  # a link
        plain = {"origin": "http://evil.example"}  # over plain HTTP browsers say no more
        assert (await server.http.post(body, json=HI, headers=plain)).status_code == 403
        own = {"origin": server.url}
        assert (await server.http.post(body, json=HI, headers=own)).status_code == 200
    async with guarded(tmp_path, entry("good")) as server:
        by_itself = {**CROSS, **basic("good")}
        assert (await server.http.post(body, json=HI, headers=by_itself)).status_code == 403
        by_hand = {**CROSS, **bearer("good")}
        assert (await server.http.post(body, json=HI, headers=by_hand)).status_code == 200


async def test_without_keys_this_machine_answers_to_its_own_names_alone() -> None:
    """A page whose name points here is of this origin to the browser."""
    rebound = {"host": "evil.example:8000", "origin": "http://evil.example:8000"}
    body = "/v1/chat/completions"
    async with serving() as server:
        for path in ("/", "/metrics", "/v1/models"):
            answer = await server.http.get(path, headers=rebound)
            assert answer.status_code == 403
            assert "allow_anonymous" in answer.text
        assert (await server.http.post(body, json=HI, headers=rebound)).status_code == 403
        assert (await server.http.get("/health", headers=rebound)).status_code == 200
        named = {"host": "localhost:8000"}
        assert (await server.http.get("/metrics", headers=named)).status_code == 200
    config = test_config()
    config.server.auth.allow_anonymous = True
    async with serving(config=config) as server:
        assert (await server.http.post(body, json=HI, headers=rebound)).status_code == 200


async def test_cross_origin_requests_are_closed_unless_named() -> None:
    wish = {
        "origin": "https://chat.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    async with serving() as server:
        asked = await server.http.options("/v1/chat/completions", headers=wish)
        assert "access-control-allow-origin" not in asked.headers
    config = test_config()
    config.server.cors.origins = ["https://chat.example"]
    async with serving(config=config) as server:
        asked = await server.http.options("/v1/chat/completions", headers=wish)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == "https://chat.example"
        other = {**wish, "origin": "https://evil.example"}
        asked = await server.http.options("/v1/chat/completions", headers=other)
        assert "access-control-allow-origin" not in asked.headers
        sent = {"origin": "https://chat.example", "sec-fetch-site": "cross-site"}
        answer = await server.http.post("/v1/chat/completions", json=HI, headers=sent)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        shown = answer.headers["access-control-expose-headers"].lower()
        assert "x-request-id" in shown and "x-ratelimit-remaining-tokens" in shown


async def test_preflights_need_no_key(tmp_path: Path) -> None:
    config = test_config()
    config.server.cors.origins = ["https://chat.example"]
    async with guarded(tmp_path, entry("good"), config=config) as server:
        wish = {"origin": "https://chat.example", "access-control-request-method": "POST"}
        asked = await server.http.options("/v1/chat/completions", headers=wish)
        assert asked.status_code == 200
        refused = await server.http.post("/v1/chat/completions", headers=wish)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://chat.example"
