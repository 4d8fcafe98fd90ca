"""POST /v1/chat/completions over a real socket, before the real engine loop."""

import asyncio
from typing import Any

import pytest

from tests.server_harness import ANSWER, Engine, Gate, Harness, says, serving, test_config
from tests.text_samples import byte_level

HI = [{"role": "user", "content": "Hi"}]


def text_of(events: list[Any], index: int = 0) -> str:
    return "".join(
        choice["delta"].get("content", "")
        for event in events
        if event != "[DONE]"
        for choice in event["choices"]
        if choice["index"] == index
    )


def reasons_of(events: list[Any]) -> dict[int, str]:
    """finish_reason by choice; each must come exactly once."""
    found: dict[int, str] = {}
    for event in events:
        for choice in [] if event == "[DONE]" else event["choices"]:
            if choice["finish_reason"] is not None:
                assert choice["index"] not in found
                found[choice["index"]] = choice["finish_reason"]
    return found


async def test_whole_answer() -> None:
    async with serving() as server:
        response = await server.chat(model="test-model")
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        body = response.json()
        assert body["object"] == "chat.completion"
        assert body["id"].startswith("chatcmpl-")
        assert body["model"] == "test-model"
        (choice,) = body["choices"]
        assert choice == {
            "index": 0,
            "message": {"role": "assistant", "content": ANSWER},
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
        }
        num = len(byte_level().encode(ANSWER)) + 1  # and the end-of-text token
        assert body["usage"]["completion_tokens"] == num
        assert body["usage"]["total_tokens"] == num + body["usage"]["prompt_tokens"]
        assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
        assert {"queue_ms", "ttft_ms", "total_ms"} <= set(body["timings"])
        again = (await server.chat()).json()
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


async def test_stream_of_chunks() -> None:
    async with serving() as server:
        events = await server.chat_events()
        assert events[-1] == "[DONE]"
        assert events.count("[DONE]") == 1
        chunks = events[:-1]
        assert chunks[0]["choices"] == [
            {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        ]
        assert text_of(events) == ANSWER
        assert reasons_of(events) == {0: "stop"}
        assert chunks[-1]["choices"][0]["delta"] == {}
        assert chunks[-1]["timings"]["ttft_ms"] > 0
        whole = (await server.chat()).json()
        assert chunks[-1]["system_fingerprint"] == whole["system_fingerprint"]
        assert all("system_fingerprint" not in chunk for chunk in chunks[:-1])
        same = [
            {key: chunk[key] for key in ("id", "object", "created", "model")} for chunk in chunks
        ]
        assert all(head == same[0] for head in same)
        assert same[0]["object"] == "chat.completion.chunk"
        assert all("usage" not in chunk for chunk in chunks)


async def test_usage_comes_last_and_only_when_asked_for() -> None:
    async with serving() as server:
        events = await server.chat_events(stream_options={"include_usage": True})
        assert [event["usage"] for event in events[:-2]] == [None] * (len(events) - 2)
        last = events[-2]
        assert last["choices"] == []
        assert last["usage"] == (await server.chat()).json()["usage"] | {
            "prompt_tokens_details": {"cached_tokens": 0}
        }
        assert last["timings"]["total_ms"] > 0
        assert last["system_fingerprint"].startswith("fp_")
        assert "system_fingerprint" not in events[-3]
        plain = await server.chat_events(stream_options={"include_usage": False})
        assert all("usage" not in event for event in plain[:-1])


async def test_the_fingerprint_says_whether_answers_repeat_to_the_bit() -> None:
    async def fingerprint(is_invariant: bool) -> str:
        config = test_config()
        config.runner.batch_invariant = is_invariant
        async with serving(config=config) as server:
            return str((await server.complete()).json()["system_fingerprint"])

    assert (await fingerprint(True)).endswith("-invariant")
    assert not (await fingerprint(False)).endswith("-invariant")


async def test_several_choices() -> None:
    async with serving() as server:
        body = (await server.chat(n=3)).json()
        assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
        assert {choice["message"]["content"] for choice in body["choices"]} == {ANSWER}
        events = await server.chat_events(n=3)
        assert reasons_of(events) == {0: "stop", 1: "stop", 2: "stop"}
        assert [text_of(events, index) for index in range(3)] == [ANSWER] * 3
        roles = [
            choice["index"]
            for event in events[:-1]
            for choice in event["choices"]
            if "role" in choice["delta"]
        ]
        assert roles == [0, 1, 2]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "text", "reason"),
    [
        ({"stop": "fox"}, "The quick brown ", "stop"),
        ({"stop": ["nope", "own f"]}, "The quick br", "stop"),
        ({"stop": "fox", "include_stop_str_in_output": True}, "The quick brown fox", "stop"),
        ({"max_tokens": 1}, "The", "length"),
        ({"max_completion_tokens": 1, "max_tokens": 9}, "The", "length"),
    ],
)
async def test_ends(stream: bool, fields: dict[str, Any], text: str, reason: str) -> None:
    async with serving() as server:
        if stream:
            events = await server.chat_events(**fields)
            assert (text_of(events), reasons_of(events)) == (text, {0: reason})
        else:
            (choice,) = (await server.chat(**fields)).json()["choices"]
            assert (choice["message"]["content"], choice["finish_reason"]) == (text, reason)


async def test_a_stop_string_ends_the_sequence_in_the_engine() -> None:
    gate = Gate()
    engine = Engine(says(byte_level(), ANSWER, forever=True), gate)
    async with serving(engine) as server:
        task = asyncio.create_task(server.chat(stop="fox"))
        num = len(byte_level().encode("The quick brown fox"))
        gate.allow(num)
        body = (await task).json()
        assert body["choices"][0]["stop_reason"] == "fox"
        assert body["usage"]["completion_tokens"] <= num
        gate.open()
        await server.until(lambda: server.client.stats.num_running == 0)
        assert server.client.stats.num_blocks_referenced == 0


async def test_stop_token_ids_are_reported() -> None:
    dog = byte_level().encode(ANSWER)[-1]
    async with serving() as server:
        (choice,) = (await server.chat(stop_token_ids=[dog])).json()["choices"]
        assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", dog)
        assert ANSWER.startswith(choice["message"]["content"])
        events = await server.chat_events(stop_token_ids=[dog])
        assert events[-2]["choices"][0]["stop_reason"] == dog


async def test_logprobs() -> None:
    async with serving() as server:
        (choice,) = (await server.chat(logprobs=True, top_logprobs=1)).json()["choices"]
        content = choice["logprobs"]["content"]
        assert b"".join(bytes(entry["bytes"]) for entry in content[:-1]).decode() == ANSWER
        assert content[0]["logprob"] == -1.0
        assert content[0]["top_logprobs"][0]["token"] == "The"
        events = await server.chat_events(logprobs=True)
        streamed = [
            entry
            for event in events[:-1]
            for choice in event["choices"]
            for entry in choice.get("logprobs", {"content": []})["content"]
        ]
        assert [entry["token"] for entry in streamed] == [entry["token"] for entry in content]
        assert all(entry["top_logprobs"] == [] for entry in streamed)


async def test_multibyte_text_is_never_split() -> None:
    text = "naïve 日本語 🦉 👩‍👩‍👧!"
    async with serving(Engine(says(byte_level(), text))) as server:
        events = await server.chat_events()
        assert text_of(events) == text
        assert all("\ufffd" not in text_of([event]) for event in events[:-1])
        assert (await server.chat()).json()["choices"][0]["message"]["content"] == text


async def test_ignore_eos_runs_to_the_limit() -> None:
    async with serving() as server:
        body = (await server.chat(ignore_eos=True, max_tokens=60)).json()
        assert body["usage"]["completion_tokens"] == 60
        assert body["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"model": "other"}, 404, "model", "model_not_found"),
        ({"messages": []}, 400, "messages", "invalid_value"),
        ({"messages": "x"}, 400, "messages", "invalid_type"),
        ({"messages": [{"role": "bad", "content": ""}]}, 400, None, "invalid_value"),
        ({"temperature": 101}, 400, "temperature", "invalid_value"),
        ({"logit_bias": {"100000": 1}}, 400, "logit_bias", "invalid_value"),
        ({"tools": [{"type": "custom"}]}, 400, "tools.0.type", "unsupported_parameter"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", "invalid_value"),
        ({"max_tokens": 10_000}, 400, "max_tokens", "context_length_exceeded"),
        (
            {"messages": [{"role": "user", "content": "word " * 999}]},
            400,
            "messages",
            "context_length_exceeded",
        ),
    ],
)
async def test_refusals(fields: dict[str, Any], status: int, param: str | None, code: str) -> None:
    async with serving() as server:
        response = await server.chat(**fields)
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["code"]) == (status, param, code)
        if status == 400 and "stream" not in fields:
            streamed = await server.chat(**fields, stream=True)
            assert streamed.status_code == (200 if "stream_options" in fields else 400)


async def test_strict_servers_refuse_unknown_fields() -> None:
    async with serving(config=test_config(strict=True)) as server:
        assert (await server.chat(mystery=1)).json()["error"]["param"] == "mystery"
        assert (await server.chat(user="me")).status_code == 200


async def test_request_id_is_taken_or_made() -> None:
    async with serving() as server:

        async def ask(headers: dict[str, str]) -> tuple[str, str]:
            body = {"messages": HI, "max_tokens": 1}
            response = await server.http.post("/v1/chat/completions", json=body, headers=headers)
            return response.headers["x-request-id"], response.json()["id"]

        assert await ask({"x-request-id": "mine-7"}) == ("mine-7", "chatcmpl-mine-7")
        made, _ = await ask({"x-request-id": 'bad"id'})
        assert len(made) == 32
        assert (await ask({}))[0] != (await ask({}))[0]


async def test_many_at_once_get_their_own_answers() -> None:
    async with serving(Engine(max_seqs=8)) as server:

        async def one(n: int) -> None:
            stop = ANSWER[n : n + 4]
            if n % 2:
                text = text_of(await server.chat_events(stop=stop))
            else:
                text = (await server.chat(stop=stop)).json()["choices"][0]["message"]["content"]
            assert text == ANSWER[: ANSWER.index(stop)]

        await asyncio.gather(*(one(n) for n in range(32)))
        await idle(server)


async def idle(server: Harness) -> None:
    await server.until(lambda: server.services.lifecycle.num_open == 0)
    await server.until(lambda: server.client.stats.num_running == 0)
    assert server.client.num_streams == 0
    assert server.client.stats.num_blocks_referenced == 0
