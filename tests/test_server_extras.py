"""What vLLM's clients ask for beside the answer."""

from typing import Any

import msgspec
import pytest

from prelude.types.request import TokenEvent
from tests.scripted_server import CHAT, HI, ids, scripted
from tests.server_harness import ANSWER, Harness, parse_events, serving
from tests.text_samples import byte_level

PATH = "/v1/completions"


def ids_of(text: str) -> list[int]:
    return byte_level().encode(text, add_special_tokens=False)


async def refused(server: Harness, **fields: Any) -> dict[str, Any]:
    response = await server.complete(**fields)
    assert response.status_code == 400
    found: dict[str, Any] = response.json()["error"]
    return found


async def test_token_ids_of_prompt_and_answer() -> None:
    async with serving() as server:
        body = (await server.complete(return_token_ids=True, n=2)).json()
        for choice in body["choices"]:
            assert choice["prompt_token_ids"] == ids_of("the fox")
            assert choice["token_ids"] == [*ids_of(ANSWER), byte_level().eos_ids[0]]
        chat = (await server.chat(return_token_ids=True)).json()
        assert byte_level().decode(chat["prompt_token_ids"]).endswith("assistant\n")
        assert chat["choices"][0]["token_ids"] == body["choices"][0]["token_ids"]
        assert "token_ids" not in (await server.complete()).json()["choices"][0]


async def test_token_ids_in_streams() -> None:
    async with serving() as server:
        events = await server.events(PATH, {"prompt": "the fox", "return_token_ids": True})
        choices = [choice for event in events[:-1] for choice in event["choices"]]
        wanted = [*ids_of(ANSWER), byte_level().eos_ids[0]]
        assert choices[0]["prompt_token_ids"] == ids_of("the fox")
        assert [t for choice in choices for t in choice.get("token_ids", [])] == wanted
        assert sum("prompt_token_ids" in choice for choice in choices) == 1
        events = await server.chat_events(return_token_ids=True)
        assert byte_level().decode(events[0]["prompt_token_ids"]).endswith("assistant\n")
        choices = [choice for event in events[:-1] for choice in event["choices"]]
        assert [t for choice in choices for t in choice.get("token_ids", [])] == wanted


async def test_tokens_as_ids() -> None:
    async with serving() as server:
        fields: dict[str, Any] = {"return_tokens_as_token_ids": True, "max_tokens": 3}
        choice = (await server.complete(**fields, logprobs=1, echo=True)).json()["choices"][0]
        ids = [*ids_of("the fox"), *ids_of(ANSWER)[:3]]
        assert choice["logprobs"]["tokens"] == [f"token_id:{i}" for i in ids]
        assert list(choice["logprobs"]["top_logprobs"][-1]) == [f"token_id:{ids[-1]}"]
        choice = (await server.chat(**fields, logprobs=True)).json()["choices"][0]
        tokens = [entry["token"] for entry in choice["logprobs"]["content"]]
        assert tokens == [f"token_id:{i}" for i in ids_of(ANSWER)[:3]]


async def test_prompt_logprobs() -> None:
    async with serving() as server:
        choice = (await server.complete(prompt_logprobs=1, max_tokens=2)).json()["choices"][0]
        ids = ids_of("the fox")
        first, *rest = choice["prompt_logprobs"]
        assert first is None
        for position, (token_id, row) in enumerate(zip(ids[1:], rest, strict=True), 1):
            token = byte_level().decode([token_id])
            # the fake model's logprob of a prompt token is minus its position
            assert row == {
                str(token_id): {"logprob": -position, "rank": None, "decoded_token": token}
            }
        assert choice["logprobs"] is None
        chat = (await server.chat(prompt_logprobs=0, max_tokens=2)).json()
        assert len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"]
        error = await refused(server, prompt_logprobs=1, stream=True)
        assert error["param"] == "prompt_logprobs"
        assert (await refused(server, prompt_logprobs=-2))["param"] == "prompt_logprobs"


async def test_truncated_prompts() -> None:
    async with serving() as server:
        fields: dict[str, Any] = {"max_tokens": 2, "return_token_ids": True, "echo": True}
        body = (await server.complete(**fields, truncate_prompt_tokens=3)).json()
        assert body["choices"][0]["prompt_token_ids"] == ids_of("the fox")[-3:]
        assert body["choices"][0]["text"].startswith(byte_level().decode(ids_of("the fox")[-3:]))
        assert body["usage"]["prompt_tokens"] == 3
        long = "fox " * 400
        body = (await server.complete(prompt=long, truncate_prompt_tokens=-1, max_tokens=6)).json()
        assert body["usage"] | {"prompt_tokens_details": None} == body["usage"] | {
            "prompt_tokens": 250,
            "completion_tokens": 6,
            "prompt_tokens_details": None,
        }
        chat = await server.chat(truncate_prompt_tokens=4, max_completion_tokens=2)
        assert chat.json()["usage"]["prompt_tokens"] == 4
        error = await refused(server, truncate_prompt_tokens=0)
        assert error["param"] == "truncate_prompt_tokens"


@pytest.mark.parametrize(
    ("path", "asked"), [(CHAT, HI), (PATH, {"prompt": "the fox"})], ids=["chat", "text"]
)
async def test_usage_in_every_chunk(path: str, asked: dict[str, Any]) -> None:
    options = {"stream": True, "stream_options": {"continuous_usage_stats": True}}
    async with scripted() as (server, transport):
        request = server.http.build_request("POST", path, json=asked | options)
        response = await server.http.send(request, stream=True)
        uid = (await transport.submitted()).uid
        counts = []
        lines = response.aiter_lines()
        for reason in (None, None, "length"):
            transport.events(TokenEvent(uid, 0, ids("Hello"), reason))
            while True:
                line = await anext(lines)
                event = msgspec.json.decode(line[6:]) if line.startswith("data: {") else {}
                if (choices := event.get("choices")) and _text_of(choices[0]):
                    break
            assert event["usage"]["prompt_tokens"]
            counts.append(event["usage"]["completion_tokens"])
        num = len(ids("Hello"))
        assert counts == [num, 2 * num, 3 * num]
        assert [line async for line in lines][-2] == "data: [DONE]"


def _text_of(choice: dict[str, Any]) -> str | None:
    text: str | None = choice["text"] if "text" in choice else choice["delta"].get("content")
    return text


async def test_an_id_of_the_clients() -> None:
    async with serving() as server:
        response = await server.chat(request_id="mine-7")
        assert response.json()["id"] == "chatcmpl-mine-7"
        assert response.headers["x-request-id"] == "mine-7"
        response = await server.complete(request_id="mine-8")
        assert response.json()["id"] == "cmpl-mine-8"
        assert (await refused(server, request_id="no\nid"))["param"] == "request_id"


async def test_only_allowed_tokens() -> None:
    async with serving() as server:
        assert (await server.complete(allowed_token_ids=[5, 6], max_tokens=2)).status_code == 200
        error = await refused(server, allowed_token_ids=[10**6])
        assert error["param"] == "allowed_token_ids"


@pytest.mark.parametrize(
    ("asked", "told"),
    [(None, "default"), ("auto", "default"), ("flex", "flex"), ("priority", "default")],
)
async def test_service_tier(asked: str | None, told: str) -> None:
    async with serving() as server:
        assert (await server.chat(service_tier=asked)).json()["service_tier"] == told
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        response = await server.http.post(
            "/v1/chat/completions", json=body | {"service_tier": asked}
        )
        events = parse_events(response.content)
        assert {event["service_tier"] for event in events[:-1]} == {told}
