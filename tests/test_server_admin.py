"""The operator's port: what is on it, who may use it, and that none of it is on the other one."""

import asyncio
import logging
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from prelude.conf.schema import Config
from prelude.server.admin import build_admin_app, redacted
from prelude.server.app import operator_routes, public_routes
from prelude.server.auth import HEALTH_PATHS
from prelude.server.http_server import make_server
from prelude.server.listen import open_socket
from tests.key_samples import bearer, entry, guarded, in_process
from tests.server_harness import Harness, serving, test_config

OPERATORS = ("/metrics", "/live", "/live/events", "/admin/config", "/admin/keys")


def with_admin_port() -> Config:
    config = test_config()
    config.server.admin.port = 9001
    return config


def admin_of(server: Harness) -> Starlette:
    return build_admin_app(server.services, operator_routes())


async def test_with_a_port_of_its_own_nothing_is_left_on_the_other() -> None:
    async with serving(config=with_admin_port()) as server:
        for path in OPERATORS:
            assert (await server.http.get(path)).status_code == 404, path
        assert (await server.http.post("/admin/drain")).status_code == 404
        async with in_process(admin_of(server)) as admin:
            for path in set(OPERATORS) - {"/live/events"} | HEALTH_PATHS | {"/page/live.js"}:
                assert (await admin.get(path)).status_code == 200, path
            for path in ("/v1/models", "/v1/completions", "/"):
                assert (await admin.get(path)).status_code == 404, path


async def test_without_a_port_there_is_no_admin_anywhere() -> None:
    async with serving() as server:
        for path in ("/admin/config", "/admin/keys"):
            assert (await server.http.get(path)).status_code == 404
        assert (await server.http.get("/metrics")).status_code == 200
    paths = {route.path for route in public_routes(test_config()) if isinstance(route, Route)}
    assert not any(path.startswith("/admin") for path in paths)


async def test_every_path_needs_the_scope(tmp_path: Path) -> None:
    keys = [entry("chat"), entry("watch", scopes=["metrics"]), entry("ops", scopes=["admin"])]
    async with guarded(tmp_path, *keys, config=with_admin_port()) as server:
        app = admin_of(server)
        async with in_process(app) as admin:
            for route in app.routes:
                assert isinstance(route, Route)
                if route.path in HEALTH_PATHS or route.path == "/live/events":
                    continue
                for method in route.methods or ():
                    is_file = route.path.startswith("/page/")
                    wanted = {"": 401, "bad": 401, "chat": 200 if is_file else 403}
                    if route.path.startswith("/admin"):
                        wanted["watch"] = 403
                    for token, status in wanted.items():
                        headers = bearer(token) if token else {}
                        response = await admin.request(method, route.path, headers=headers)
                        assert response.status_code == status, (method, route.path, token)
            assert (await admin.get("/metrics", headers=bearer("watch"))).status_code == 200
            assert (await admin.get("/admin/keys", headers=bearer("ops"))).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.1:9001", "[::1]:9001"])
async def test_without_keys_only_this_machine_is_served(host: str) -> None:
    async with serving(config=with_admin_port()) as server, in_process(admin_of(server)) as admin:
        assert (await admin.get("/admin/keys", headers={"host": host})).status_code == 200
        for other in ("evil.example", "evil.example:9001", "localhost.evil.example", ""):
            refused = await admin.get("/admin/keys", headers={"host": other})
            assert refused.status_code == 403, other
        cross = {"host": host, "sec-fetch-site": "cross-site", "origin": "https://evil.example"}
        assert (await admin.post("/admin/drain", headers=cross)).status_code == 403


async def test_draining_can_be_begun_and_ended() -> None:
    async with serving(config=with_admin_port()) as server, in_process(admin_of(server)) as admin:
        assert (await admin.post("/admin/drain")).json() == {"draining": True, "open": 0}
        assert (await server.http.get("/health/ready")).json()["status"] == "draining"
        assert (await server.http.get("/health/live")).status_code == 200
        assert (await server.chat()).status_code == 503
        assert (await admin.delete("/admin/drain")).json() == {"draining": False, "open": 0}
        assert (await server.chat()).status_code == 200


async def test_the_prefix_cache_is_reset() -> None:
    async with serving(config=with_admin_port()) as server, in_process(admin_of(server)) as admin:
        assert server.core is not None

        async def cached() -> int:
            usage = (await server.complete(prompt="the fox " * 20, max_tokens=1)).json()["usage"]
            found: int = usage["prompt_tokens_details"]["cached_tokens"]
            return found

        assert await cached() == 0
        assert await cached() > 0
        assert (await admin.post("/admin/prefix-cache/reset")).json() == {"status": "reset"}
        assert await cached() == 0
        server.core.ledger.check()


async def test_the_log_level_of_both_processes() -> None:
    log = logging.getLogger("prelude")
    before = log.level
    try:
        async with serving() as server, in_process(admin_of(server)) as admin:
            done = await admin.put("/admin/log-level", json={"level": "ERROR"})
            assert done.json() == {"level": "ERROR"}
            assert log.level == logging.ERROR
            for body in ({"level": "LOUD"}, {}, {"level": "INFO", "for": "me"}):
                refused = await admin.put("/admin/log-level", json=body)
                assert refused.status_code == 400
            assert log.level == logging.ERROR
    finally:
        log.setLevel(before)


async def test_the_configuration_without_secrets(tmp_path: Path) -> None:
    async with guarded(tmp_path, entry("ops", scopes=["admin"])) as server:
        async with in_process(admin_of(server)) as admin:
            shown = (await admin.get("/admin/config", headers=bearer("ops"))).json()
        assert shown["server"]["auth"]["keys"] == str(tmp_path / "keys.yaml")
        assert shown["log"]["level"] == "INFO"
        assert shown["server"]["limits"]["tokens_per_min"] is None
    secret = {"password": "p", "otlp_headers": {"x": "y"}, "api_key": None, "max_tokens": 3}
    assert redacted({"a": [secret], "url": "http://me:word@host/x"}) == {
        "a": [{"password": "***", "otlp_headers": {"x": "y"}, "api_key": None, "max_tokens": 3}],
        "url": "http://***@host/x",
    }


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("http://host:4318/v1/traces", "http://host:4318/v1/traces"),
        ("https://host/v1/traces?api-key=hush#hush", "https://host/v1/traces?***"),
        ("https://host?api-key=hush", "https://host?***"),
        ("https://me:hush@host:1/x?y=hush", "https://***@host:1/x?***"),
        ("https://me:hu/s?h@host/x", "https://***@host/x"),
        ("https://me:hush@hush@host", "https://***@host"),
        ("HTTPS://me:hush@host and ftp://me:hush@other/", "HTTPS://***@host and ftp://***@other/"),
        ("me@host", "me@host"),
    ],
)
def test_urls_without_credentials(said: str, shown: str) -> None:
    assert redacted({"endpoint": said}) == {"endpoint": shown}


async def test_what_keys_have_used(tmp_path: Path) -> None:
    keys = [entry("a", requests_per_min=60), entry("b"), entry("ops", scopes=["admin"])]
    async with guarded(tmp_path, *keys) as server:
        hi = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
        for _ in range(2):
            await server.http.post("/v1/chat/completions", json=hi, headers=bearer("a"))
        async with in_process(admin_of(server)) as admin:
            rows = (await admin.get("/admin/keys", headers=bearer("ops"))).json()["keys"]
        assert [row["name"] for row in rows] == ["a", "b", "ops"]
        assert (rows[0]["requests"], rows[0]["output_tokens"], rows[0]["open"]) == (2, 6, 0)
        assert rows[0]["prompt_tokens"] > 0
        assert rows[0]["x-ratelimit-limit-requests"] == "60"
        assert rows[1]["requests"] == 0
    async with serving() as server:
        await server.chat()
        async with in_process(admin_of(server)) as admin:
            rows = (await admin.get("/admin/keys")).json()["keys"]
        assert [(row["name"], row["requests"]) for row in rows] == [("", 1)]


async def test_the_port_answers_until_the_other_has_drained() -> None:
    config = with_admin_port()
    async with serving(config=config) as server:
        opened = open_socket("127.0.0.1", 0)
        url = f"http://127.0.0.1:{opened.getsockname()[1]}"
        beside = make_server(server.app, config, opened)
        ending = asyncio.create_task(beside._serve([open_socket("127.0.0.1", 0)]))
        async with httpx.AsyncClient(base_url=url, trust_env=False) as admin:
            await server.until(lambda: beside._beside is not None and beside._beside[0].started)
            assert (await admin.get("/health/ready")).status_code == 200
            async with admin.stream("GET", "/live/events") as events:
                server.services.lifecycle.hurry()
                beside.should_exit = True
                async for _ in events.aiter_bytes():
                    pass
            await ending
            with pytest.raises(httpx.ConnectError):
                await admin.get("/health/ready")
