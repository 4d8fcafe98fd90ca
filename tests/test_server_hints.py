"""What requests say of themselves reaches the engine, and nothing that could be read back does."""

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.batcher.sequence import Sequence
from prelude.conf.schema import Policy
from prelude.server.errors import ApiError
from prelude.server.hints import hints_of
from prelude.server.protocol import ChatRequest, CompletionRequest
from prelude.types.request import Request
from prelude.types.service import SERVICE_CLASSES, Hints
from prelude.types.wire import Ready
from tests.fakes import scripted_client, some_info
from tests.server_harness import listening, serving, test_config
from tests.text_samples import byte_level

SYSTEM = {"role": "system", "content": "Be brief."}
HI = {"role": "user", "content": "Hi"}


def chat(
    messages: list[dict[str, Any]] | None = None,
    headers: dict[str, str] | None = None,
    policy: Policy = Policy.class_aware,
    **fields: Any,
) -> Hints:
    body = msgspec.json.encode({"messages": messages or [HI], **fields})
    return hints_of(msgspec.json.decode(body, type=ChatRequest), headers or {}, policy)


def refusal(headers: dict[str, str] | None = None, **fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        chat(headers=headers, **fields)
    assert caught.value.status == 400
    return caught.value


def test_a_request_that_says_nothing_has_no_hints() -> None:
    assert chat() == Hints()


@pytest.mark.parametrize("name", SERVICE_CLASSES)
def test_a_class_can_be_asked_for_by_field_or_header(name: str) -> None:
    assert chat(service_class=name).service_class == name
    assert chat(headers={"x-prelude-class": name}).service_class == name
    assert chat(headers={"x-prelude-class": name}, service_class="doc").service_class == "doc"


@pytest.mark.parametrize(
    ("tier", "name", "priority"),
    [
        ("auto", None, 0),
        ("default", None, 0),
        ("somebody's own", None, 0),
        ("flex", "batch", 0),
        ("batch", "batch", 0),
        ("priority", None, -1),
    ],
)
def test_openais_tiers(tier: str, name: str | None, priority: int) -> None:
    hints = chat(service_tier=tier)
    assert (hints.service_class, hints.priority) == (name, priority)


def test_fields_of_our_own_come_before_the_tier() -> None:
    assert chat(service_tier="flex", service_class="deep").service_class == "deep"
    hints = chat(service_tier="priority", priority=5, policy=Policy.priority)
    assert hints.priority == 5


@pytest.mark.parametrize("policy", [Policy.fcfs, Policy.class_aware, Policy.srpt_oracle])
def test_a_priority_that_would_not_count_is_refused(policy: Policy) -> None:
    with pytest.raises(ApiError) as caught:
        chat(priority=3, policy=policy)
    assert (caught.value.param, caught.value.code) == ("priority", "unsupported_parameter")
    assert chat(priority=0, policy=policy).priority == 0


@pytest.mark.parametrize(
    ("fields", "reasoning"),
    [
        ({"reasoning_effort": "none"}, "none"),
        ({"reasoning_effort": "minimal"}, "low"),
        ({"reasoning_effort": "high"}, "high"),
        ({"reasoning_effort": "xhigh"}, "high"),
        ({"reasoning_effort": "unheard of"}, ""),
        ({"reasoning": {"effort": "medium"}}, "medium"),
        ({"reasoning": {}}, ""),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "low"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "none"),
        ({"chat_template_kwargs": {"thinking": True}}, "medium"),
        ({"chat_template_kwargs": {"thinking": "odd"}}, ""),
        ({"chat_template_kwargs": {"thinking": True}, "reasoning_effort": "high"}, "high"),
        ({"chat_template_kwargs": {"thinking": False}, "reasoning_effort": "high"}, "none"),
    ],
)
def test_how_much_it_will_reason(fields: dict[str, Any], reasoning: str) -> None:
    assert chat(**fields).reasoning == reasoning


def test_clients_are_told_apart_by_key_and_user_and_not_by_name() -> None:
    key = {"authorization": "Bearer sk-secret"}
    found = {
        chat().client,
        chat(user="ada").client,
        chat(user="bob").client,
        chat(safety_identifier="bob's digest").client,
        chat(headers=key).client,
        chat(headers=key, user="ada").client,
    }
    assert len(found) == 6
    assert all(len(client) in (0, 16) for client in found)
    assert not any(word in client for client in found for word in ("ada", "bob", "secret"))
    assert chat(user="ada").client == chat(user="ada").client
    assert chat(user="ada", safety_identifier="x").client == chat(safety_identifier="x").client


def test_templates_are_what_conversations_have_in_common() -> None:
    other = {"role": "user", "content": "Something else"}
    template = chat([SYSTEM, HI]).template
    assert len(template) == 16
    assert chat([SYSTEM, other, HI]).template == template
    assert chat([{**SYSTEM, "content": "Be long."}, HI]).template != template
    assert chat([HI]).template == ""
    parts = {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}
    assert len(chat([parts, HI]).template) == 16


def test_deadlines() -> None:
    hints = chat(ttft_deadline_ms=250, deadline_ms=4000.5)
    assert (hints.ttft_deadline_ms, hints.deadline_ms) == (250.0, 4000.5)
    header = {"x-request-deadline-ms": "1500"}
    assert chat(headers=header).deadline_ms == 1500.0
    assert chat(headers=header, deadline_ms=7).deadline_ms == 7.0


@pytest.mark.parametrize(
    ("fields", "headers", "param"),
    [
        ({"ttft_deadline_ms": 0}, {}, "ttft_deadline_ms"),
        ({"deadline_ms": -1}, {}, "deadline_ms"),
        ({}, {"x-request-deadline-ms": "soon"}, "x-request-deadline-ms"),
        ({}, {"x-request-deadline-ms": "nan"}, "x-request-deadline-ms"),
        ({"deadline_ms": 5}, {"x-request-deadline-ms": "-1"}, "x-request-deadline-ms"),
        ({"service_class": "doc"}, {"x-prelude-class": "royal"}, "x-prelude-class"),
        ({}, {"x-prelude-class": "first"}, "x-prelude-class"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    fields: dict[str, Any], headers: dict[str, str], param: str
) -> None:
    assert refusal(headers, **fields).param == param


def test_completions_have_hints_too() -> None:
    body = CompletionRequest(prompt="x", user="ada", service_tier="flex", deadline_ms=5)
    hints = hints_of(body, {}, Policy.fcfs)
    assert (hints.service_class, hints.deadline_ms, hints.template) == ("batch", 5.0, "")
    assert hints.client == chat(user="ada").client


@given(
    user=st.text(max_size=20),
    key=st.text(max_size=20),
    contents=st.lists(st.text(max_size=20) | st.none(), max_size=3),
    deadline=st.floats() | st.none(),
)
def test_any_words_make_hints_or_an_error(
    user: str, key: str, contents: list[str | None], deadline: float | None
) -> None:
    messages = [{"role": "system", "content": content} for content in contents]
    body = ChatRequest(messages=messages, user=user, deadline_ms=deadline)
    try:
        hints = hints_of(body, {"authorization": key}, Policy.fcfs)
    except ApiError as error:
        assert (error.status, error.param) == (400, "deadline_ms")
    else:
        assert len(hints.client) <= 16
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(hints), type=Hints) == hints


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_hints_reach_the_engine(path: str) -> None:
    client, transport = scripted_client()
    fields = {"messages": [SYSTEM, HI]} if "chat" in path else {"prompt": "Hi"}
    body = {**fields, "service_class": "batch", "ttft_deadline_ms": 900, "user": "ada"}
    try:
        async with listening(client, byte_level(), test_config()) as server:
            transport.say(Ready(some_info()))
            await client.wait_ready()
            headers = {"X-Request-Deadline-Ms": "5000", "Authorization": "Bearer key"}
            task = asyncio.create_task(server.http.post(path, json=body, headers=headers))
            hints = (await transport.submitted()).hints
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    finally:
        await client.close()
    assert (hints.service_class, hints.ttft_deadline_ms, hints.deadline_ms) == ("batch", 900, 5000)
    assert len(hints.client) == 16
    assert len(hints.template) == (16 if "chat" in path else 0)


async def test_bad_hints_are_400_before_the_engine_is_asked() -> None:
    async with serving() as server:
        for fields, param in (
            ({"service_class": "first"}, "service_class"),
            ({"deadline_ms": "soon"}, "deadline_ms"),
            ({"ttft_deadline_ms": -5}, "ttft_deadline_ms"),
            ({"priority": 2}, "priority"),
            ({"user": {"name": "ada"}}, "user"),
        ):
            response = await server.chat(**fields)
            assert response.status_code == 400
            assert response.json()["error"]["param"] == param
        assert server.client.num_streams == 0


async def test_the_engine_knows_the_class_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Request] = []
    async with serving() as server:
        assert server.core is not None
        make = server.core.ledger.make

        def watched(request: Request) -> list[Sequence]:
            seen.append(request)
            return make(request)

        monkeypatch.setattr(server.core.ledger, "make", watched)
        assert (await server.chat(service_tier="flex", user="ada")).status_code == 200
    assert [request.hints.service_class for request in seen] == ["batch"]
