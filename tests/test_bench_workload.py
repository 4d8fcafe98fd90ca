"""The requests of a run: drawn before it, by seed, in the form the server understands."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prelude.bench.connection import HttpClient
from prelude.bench.prompts import Prompt
from prelude.bench.workload import Draft, Workload, render, request_body
from prelude.conf.bench import (
    Arrival,
    Endpoint,
    LengthKind,
    Lengths,
    PromptSource,
    ServeBenchConfig,
    TrafficClass,
)


def config(**changes: Any) -> ServeBenchConfig:
    classes = {
        "chat": TrafficClass(weight=3.0, output=Lengths(LengthKind.uniform, low=2, high=9)),
        "doc": TrafficClass(weight=1.0, prompt=Lengths(value=20), output=Lengths(value=5)),
    }
    return ServeBenchConfig(**{"classes": classes, "num_requests": 400, **changes})


def trace(tmp_path: Path, *lines: dict[str, Any], **changes: Any) -> list[Draft]:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Workload(config(arrival=Arrival.trace, trace=str(path), **changes)).drafts()


def test_the_mix_has_the_asked_weights() -> None:
    counts = Counter(draft.kind for draft in Workload(config()).drafts())
    assert counts["chat"] / 400 == pytest.approx(0.75, abs=0.06)


def test_a_class_without_weight_is_never_drawn() -> None:
    classes = {"chat": TrafficClass(), "never": TrafficClass(weight=0.0)}
    drafts = Workload(config(classes=classes)).drafts()
    assert {draft.kind for draft in drafts} == {"chat"}


def test_the_seed_repeats_everything() -> None:
    first, again = Workload(config()).drafts(), Workload(config()).drafts()
    assert first == again != Workload(config(seed=1)).drafts()


def test_another_class_leaves_the_arrivals_as_they_were() -> None:
    one = Workload(config(classes={"chat": TrafficClass()})).drafts()
    both = Workload(config()).drafts()
    assert [draft.arrival_s for draft in one] == [draft.arrival_s for draft in both]


def test_output_lengths_are_drawn() -> None:
    lengths = {draft.max_tokens for draft in Workload(config()).drafts() if draft.kind == "chat"}
    assert lengths == set(range(2, 10))


def test_a_closed_loop_has_no_arrivals() -> None:
    drafts = Workload(config(arrival=Arrival.closed)).drafts()
    assert {draft.arrival_s for draft in drafts} == {None}
    assert len(drafts) == 400


def test_warm_up_prompts_are_others() -> None:
    workload = Workload(config(warmup=5))
    counted = {str(draft.prompt.content) for draft in workload.drafts()}
    warm = [str(draft.prompt.content) for draft in workload.warmup()]
    assert len(warm) == 5
    assert not counted & set(warm)


def test_a_trace_is_replayed_in_order_and_in_its_own_time(tmp_path: Path) -> None:
    drafts = trace(
        tmp_path,
        {"arrival": 3.0, "prompt": "late", "max_tokens": 7, "class": "doc"},
        {"arrival": 1.0, "prompt_len": 4, "class": "chat"},
        trace_speed=2.0,
    )
    assert [draft.arrival_s for draft in drafts] == [0.5, 1.5]
    assert [draft.kind for draft in drafts] == ["chat", "doc"]
    assert (drafts[1].prompt.content, drafts[1].max_tokens) == ("late", 7)
    assert str(drafts[0].prompt.content).count(" ") == 4
    assert 2 <= drafts[0].max_tokens <= 9


def test_a_trace_stops_at_the_bound(tmp_path: Path) -> None:
    lines = [{"arrival": float(i), "prompt": "a", "class": "doc"} for i in range(5)]
    assert len(trace(tmp_path, *lines, num_requests=2)) == 2


def test_one_class_needs_no_name_in_the_trace(tmp_path: Path) -> None:
    line = {"arrival": 0.0, "prompt": "a"}
    (draft,) = trace(tmp_path, line, classes={"chat": TrafficClass()})
    assert draft.kind == "chat"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"arrival": 0.0, "prompt": "a"}, "class out of"),
        ({"arrival": 0.0, "prompt": "a", "class": "other"}, "class out of"),
        ({"arrival": 0.0, "class": "doc"}, "prompt_len"),
        ({"arrival": 0.0, "prompt_len": 0, "class": "doc"}, "prompt_len"),
        ({"arrival": -1.0, "prompt": "a", "class": "doc"}, "negative"),
    ],
)
def test_bad_trace_lines(tmp_path: Path, line: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace(tmp_path, line)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": {}}, "choose a workload"),
        ({"classes": {"a": TrafficClass(weight=-1.0)}}, "negative"),
        ({"classes": {"a": TrafficClass(weight=0.0)}}, "positive"),
        ({"arrival": Arrival.trace}, "trace=FILE"),
        ({"rate": 0.0}, "rate"),
    ],
)
def test_senseless_workloads(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Workload(config(**changes)).drafts()


def body(prompt: Prompt, **changes: Any) -> dict[str, Any]:
    return request_body(Draft("doc", None, prompt, 5), config(**changes), "tiny")


def test_a_completions_body() -> None:
    assert body(Prompt("a b")) == {
        "model": "tiny",
        "prompt": "a b",
        "max_tokens": 5,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }


def test_a_plain_body_has_no_extensions() -> None:
    sent = body(Prompt("a"), stream=False, ignore_eos=False)
    assert set(sent) == {"model", "prompt", "max_tokens", "temperature", "stream"}


def test_a_prefix_leads_a_completion() -> None:
    assert body(Prompt("b", prefix="a"))["prompt"] == "ab"
    assert body(Prompt([2], prefix=[1]))["prompt"] == [1, 2]


def test_a_prefix_is_the_system_message_of_a_chat() -> None:
    sent = body(Prompt("b", prefix="a"), endpoint=Endpoint.chat)
    roles = [(message["role"], message["content"]) for message in sent["messages"]]
    assert roles == [("system", "a"), ("user", "b")]


def test_messages_pass_as_they_are() -> None:
    messages = [{"role": "user", "content": "a"}]
    assert body(Prompt(messages), endpoint=Endpoint.chat)["messages"] == messages


@pytest.mark.parametrize(
    ("prompt", "endpoint"),
    [
        (Prompt([{"role": "user", "content": "a"}]), Endpoint.completions),
        (Prompt([1, 2]), Endpoint.chat),
    ],
)
def test_prompts_that_do_not_fit_the_endpoint(prompt: Prompt, endpoint: Endpoint) -> None:
    with pytest.raises(ValueError, match="cannot send"):
        body(prompt, endpoint=endpoint)


def test_extra_fields_and_who_wins() -> None:
    classes = {"doc": TrafficClass(body={"top_k": 2, "priority": 1})}
    sent = body(Prompt("a"), classes=classes, body={"top_k": 1, "temperature": 0.5})
    assert (sent["top_k"], sent["priority"], sent["temperature"]) == (2, 1, 0.5)


def test_rendered_jobs_carry_their_bytes() -> None:
    client = HttpClient("http://localhost:1/v1", api_key=None, keepalive=True, clock=float)
    traffic = TrafficClass(source=PromptSource.ids, vocab_size=9, prompt=Lengths(value=3))
    settings = config(num_requests=3, classes={"doc": traffic})
    jobs = render(Workload(settings).drafts(), settings, "tiny", client)
    assert [job.index for job in jobs] == [0, 1, 2]
    head, _, payload = jobs[0].request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/completions HTTP/1.1\r\n")
    assert len(json.loads(payload)["prompt"]) == 3
