"""Models, tokenizing, health, version, metrics, unknown paths, large bodies."""

import re
from typing import Any

import pytest

import prelude
from tests.server_harness import ANSWER, serving, test_config
from tests.text_samples import byte_level


async def test_models() -> None:
    async with serving() as server:
        listed = (await server.http.get("/v1/models")).json()
        assert listed["object"] == "list"
        (model,) = listed["data"]
        assert (model["id"], model["object"], model["max_model_len"]) == (
            "test-model",
            "model",
            256,
        )
        assert (await server.http.get("/v1/models/test-model")).json() == model
        missing = await server.http.get("/v1/models/org/other")
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "model_not_found"


async def test_the_served_name_is_the_folders_unless_given() -> None:
    config = test_config()
    config.model.name = None
    config.model.path = "/models/Some-Model/"
    async with serving(config=config) as server:
        assert (await server.http.get("/v1/models")).json()["data"][0]["id"] == "Some-Model"


async def test_tokenize_and_back() -> None:
    async with serving() as server:
        text = "Hello 🦉<|im_end|>"
        body = (await server.http.post("/tokenize", json={"prompt": text})).json()
        assert body["tokens"] == byte_level().encode(text)
        assert (body["count"], body["max_model_len"]) == (len(body["tokens"]), 256)
        back = await server.http.post("/detokenize", json={"tokens": body["tokens"]})
        assert back.json() == {"prompt": text}
        bare = {"tokens": body["tokens"], "skip_special_tokens": True}
        assert (await server.http.post("/detokenize", json=bare)).json() == {"prompt": "Hello 🦉"}


async def test_tokenize_a_conversation() -> None:
    async with serving() as server:
        messages = [{"role": "user", "content": "Hi"}]
        body = (await server.http.post("/tokenize", json={"messages": messages})).json()
        assert body["tokens"] == byte_level().encode_chat(messages)
        usage = (await server.chat(messages=messages)).json()["usage"]
        assert usage["prompt_tokens"] == body["count"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": []}, "prompt"),
        ("/tokenize", {"prompt": 3}, "prompt"),
        ("/tokenize", {"model": "other", "prompt": "x"}, "model"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [10**9]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
    ],
)
async def test_bad_tokenize_requests(path: str, body: dict[str, Any], param: str) -> None:
    async with serving() as server:
        response = await server.http.post(path, json=body)
        assert response.status_code in (400, 404)
        assert response.json()["error"]["param"] == param


async def test_health_and_version() -> None:
    async with serving() as server:
        assert (await server.http.get("/health/live")).json() == {"status": "live"}
        for path in ("/health", "/health/ready"):
            ready = await server.http.get(path)
            assert ready.status_code == 200
            assert ready.json()["status"] == "ready"
        assert (await server.http.get("/version")).json() == {"version": prelude.__version__}


async def test_unknown_paths_and_methods_are_shaped_like_other_errors() -> None:
    async with serving() as server:
        missing = await server.http.get("/v1/nothing")
        assert missing.status_code == 404
        assert missing.json()["error"]["message"] == "there is nothing at /v1/nothing"
        for path in ("/chat/completions", "/v1/v1/chat/completions", "/api/v1/chat/completions"):
            message = (await server.http.post(path)).json()["error"]["message"]
            assert message == f"there is nothing at {path}; did you mean /v1/chat/completions?"
        wrong = await server.http.get("/v1/completions")
        assert wrong.status_code == 405
        assert wrong.json()["error"]["type"] == "invalid_request_error"
        assert wrong.headers["allow"] == "POST"


async def test_large_bodies_are_refused_before_they_are_read() -> None:
    async with serving(config=test_config(max_body_mib=0.01)) as server:
        response = await server.complete(prompt="x" * 20_000)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"

        async def endless() -> Any:
            for _ in range(64):
                yield b" " * 1024

        chunked = await server.http.post("/v1/completions", content=endless())
        assert chunked.status_code == 413
        assert (await server.complete()).status_code == 200


async def test_compressed_bodies_are_refused() -> None:
    async with serving() as server:
        for path in ("/v1/chat/completions", "/v1/messages", "/tokenize"):
            packed = {"content-encoding": "gzip"}
            response = await server.http.post(path, content=b"\x1f\x8b", headers=packed)
            assert response.status_code == 415
            assert "send the body as it is" in response.json()["error"]["message"]


async def samples(server: Any) -> dict[str, float]:
    text = (await server.http.get("/metrics")).text
    found = re.findall(r"^(prelude_\S+) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


async def test_metrics() -> None:
    label = '{model_name="test-model"}'
    fast = '{model_name="test-model",service_class="fast"}'
    async with serving() as server:
        before = await samples(server)
        assert before[f"prelude_engine_up{label}"] == 1
        assert before[f"prelude_generation_tokens_total{label}"] == 0
        await server.chat(mystery=1)
        await server.chat_events(max_tokens=2)
        await server.chat(model="other")
        await server.until(lambda: server.client.stats.num_running == 0)
        after = await samples(server)
        num = len(byte_level().encode(ANSWER)) + 1
        assert after[f"prelude_generation_tokens_total{label}"] == num + 2
        assert after[f"prelude_prompt_tokens_total{label}"] > 0
        assert after[f"prelude_prefix_cache_hits_total{label}"] > 0
        for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time"):
            assert after[f"prelude_{name}_seconds_count{fast}"] == 2
        assert after[f"prelude_inter_token_latency_seconds_count{fast}"] == num
        steps = after[f"prelude_steps_total{label}"]
        assert after[f"prelude_step_duration_seconds_count{label}"] == steps
        assert after[f"prelude_num_requests_running{label}"] == 0
        assert after[f"prelude_kv_cache_usage_perc{label}"] == 0
        model = 'model_name="test-model"'
        ended = f'finished_reason="stop",{model},service_class="fast"'
        assert after[f"prelude_request_success_total{{{ended}}}"] == 1
        ended = f'finished_reason="length",{model},service_class="fast"'
        assert after[f"prelude_request_success_total{{{ended}}}"] == 1
        route = 'route="/v1/chat/completions"'
        assert after[f'prelude_http_requests_total{{{model},{route},status="200"}}'] == 2
        assert after[f'prelude_http_requests_total{{{model},{route},status="404"}}'] == 1
        assert after[f'prelude_unknown_fields_total{{field="mystery",{model}}}'] == 1
        assert after[f'prelude_frontend_seconds_total{{{model},phase="prepare"}}'] > 0
