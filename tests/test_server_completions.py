"""POST /v1/completions: prompts of every shape, echo, logprobs in the old format."""

import asyncio
from typing import Any

import pytest

from prelude.server.legacy_logprobs import legacy_logprobs, output_row, prompt_rows
from prelude.text.logprobs import logprob_entry
from prelude.types.request import TokenLogprobs
from tests.server_harness import ANSWER, Engine, says, serving
from tests.text_samples import byte_level, metaspace

PATH = "/v1/completions"


def texts_of(events: list[Any]) -> dict[int, str]:
    found: dict[int, str] = {}
    for event in events:
        for choice in [] if event == "[DONE]" else event["choices"]:
            found[choice["index"]] = found.get(choice["index"], "") + choice["text"]
    return found


async def test_whole_answer() -> None:
    async with serving() as server:
        body = (await server.complete()).json()
        assert body["object"] == "text_completion"
        assert body["id"].startswith("cmpl-")
        assert body["choices"] == [
            {
                "index": 0,
                "text": ANSWER,
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ]
        assert body["usage"]["prompt_tokens"] == len(byte_level().encode("the fox"))
        assert body["timings"]["total_ms"] > 0


async def test_stream_of_chunks() -> None:
    async with serving() as server:
        body = {"prompt": "the fox", "stream_options": {"include_usage": True}}
        events = await server.events(PATH, body)
        assert events[-1] == "[DONE]"
        assert texts_of(events) == {0: ANSWER}
        assert events[-2]["choices"] == []
        assert events[-2]["usage"]["completion_tokens"] > 0
        assert events[-3]["choices"] == [{"index": 0, "text": "", "finish_reason": "stop"}]
        assert {event["object"] for event in events[:-1]} == {"text_completion"}
        plain = await server.events(PATH, {"prompt": "the fox"})
        assert plain[-2]["timings"]["ttft_ms"] > 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("prompt", "num"),
    [("fox", 1), (["fox", "dog", "the"], 3), ([5, 6, 7], 1), ([[5], [6, 7]], 2)],
)
async def test_choices_are_numbered_prompt_by_prompt(stream: bool, prompt: Any, num: int) -> None:
    async with serving() as server:
        fields = {"prompt": prompt, "n": 2, "echo": True, "stop": "brown"}
        if stream:
            texts = texts_of(await server.events(PATH, fields))
            numbered = [texts[index] for index in range(len(texts))]
        else:
            choices = (await server.complete(**fields)).json()["choices"]
            assert [choice["index"] for choice in choices] == list(range(2 * num))
            numbered = [choice["text"] for choice in choices]
        one = isinstance(prompt, str) or isinstance(prompt[0], int)
        echoes = [
            p if isinstance(p, str) else byte_level().decode(p)
            for p in ([prompt] if one else prompt)
        ]
        assert numbered == [f"{echo}The quick " for echo in echoes for _ in range(2)]


@pytest.mark.parametrize("stream", [False, True])
async def test_choices_are_those_of_their_prompt(stream: bool) -> None:
    async with serving(Engine(model=lambda context: context[0])) as server:
        body = {"prompt": [[5], [6], [7]], "n": 2, "max_tokens": 2}
        if stream:
            texts = texts_of(await server.events(PATH, body))
        else:
            choices = (await server.complete(**body)).json()["choices"]
            texts = {choice["index"]: choice["text"] for choice in choices}
        said = [byte_level().decode([first, first]) for first in (5, 5, 6, 6, 7, 7)]
        assert texts == dict(enumerate(said))


async def test_usage_sums_over_prompts() -> None:
    async with serving() as server:
        body = (await server.complete(prompt=[[5, 6], [7]], max_tokens=3, n=2)).json()
        assert body["usage"]["prompt_tokens"] == 3
        assert body["usage"]["completion_tokens"] == 12


async def test_logprobs_in_parallel_lists() -> None:
    async with serving() as server:
        (choice,) = (await server.complete(logprobs=1, max_tokens=4)).json()["choices"]
        got = choice["logprobs"]
        assert "".join(got["tokens"]) == choice["text"]
        assert got["token_logprobs"] == [-1.0] * 4
        assert got["top_logprobs"] == [{token: -1.0} for token in got["tokens"]]
        starts = [len("".join(got["tokens"][:n])) for n in range(4)]
        assert got["text_offset"] == starts
        events = await server.events(PATH, {"prompt": "the fox", "logprobs": 1, "max_tokens": 4})
        parts = [c["logprobs"] for e in events[:-1] for c in e["choices"] if "logprobs" in c]
        assert [token for part in parts for token in part["tokens"]] == got["tokens"]
        assert [offset for part in parts for offset in part["text_offset"]] == starts


async def test_no_alternatives_still_gives_the_token() -> None:
    async with serving() as server:
        (choice,) = (await server.complete(logprobs=0, max_tokens=2)).json()["choices"]
        assert [list(top) for top in choice["logprobs"]["top_logprobs"]] == [
            [token] for token in choice["logprobs"]["tokens"]
        ]


async def test_echo_moves_the_offsets() -> None:
    async with serving() as server:
        fields: dict[str, Any] = {"prompt": [5], "echo": True, "logprobs": 1, "max_tokens": 2}
        (choice,) = (await server.complete(**fields)).json()["choices"]
        got = choice["logprobs"]
        assert got["token_logprobs"][0] is None
        assert got["top_logprobs"][0] is None
        assert "".join(got["tokens"]) == choice["text"]
        assert got["text_offset"] == [0, 1, 1 + len(got["tokens"][1])]


@pytest.mark.parametrize("stream", [False, True])
async def test_only_the_prompt(stream: bool) -> None:
    async with serving() as server:
        fields = {"prompt": "fox", "echo": True, "max_tokens": 0}
        if stream:
            fields["stream_options"] = {"include_usage": True}
            events = await server.events(PATH, fields)
            assert texts_of(events) == {0: "fox"}
            assert events[-2]["usage"]["completion_tokens"] == 0
            return
        body = (await server.complete(**fields)).json()
        assert body["choices"][0]["text"] == "fox"
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == 0


async def test_the_first_word_keeps_its_space() -> None:
    tokenizer = metaspace()
    async with serving(Engine(says(tokenizer, "the end")), tokenizer=tokenizer) as server:
        (choice,) = (await server.complete(prompt="the fox")).json()["choices"]
        assert choice["text"] == " the end"


async def test_special_tokens_can_be_shown() -> None:
    text = "a<|im_start|>b"
    async with serving(Engine(says(byte_level(), text))) as server:
        (hidden,) = (await server.complete()).json()["choices"]
        (shown,) = (await server.complete(skip_special_tokens=False)).json()["choices"]
        assert (hidden["text"], shown["text"]) == ("ab", text)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt.0"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
        ({"prompt": ["x", "word " * 999]}, "prompt"),
    ],
)
async def test_refusals(fields: dict[str, Any], param: str) -> None:
    async with serving() as server:
        for stream in (False, True):
            response = await server.complete(**fields, stream=stream)
            assert response.status_code == 400, response.text
            assert response.json()["error"]["param"] == param


async def test_many_prompts_in_one_request_and_many_requests() -> None:
    async with serving(Engine(max_seqs=4)) as server:
        prompts = [[5 + n] for n in range(12)]

        async def one() -> None:
            body = (await server.complete(prompt=prompts, echo=True)).json()
            assert [choice["text"] for choice in body["choices"]] == [
                byte_level().decode(prompt) + ANSWER for prompt in prompts
            ]

        await asyncio.gather(*(one() for _ in range(4)))


def test_rows_of_prompt_and_output() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("né")
    owl = tokenizer.encode("🦉")
    found = [None, *(TokenLogprobs(i, -0.5, [i, owl[0]], [-0.5, -2.0]) for i in ids[1:])]
    rows = prompt_rows(tokenizer, ids, found)
    assert [row.logprob for row in rows] == [None, *[-0.5] * (len(ids) - 1)]
    assert rows[0].top is None
    assert rows[1].top is not None
    assert any(key.startswith("bytes:\\xf0") for key in rows[1].top)
    assert [row.text_offset for row in rows] == [0, *[1] * (len(ids) - 1)]
    marked = prompt_rows(tokenizer, tokenizer.encode("a<|im_end|>!"), [None] * 3)
    assert [row.text_offset for row in marked] == [0, 1, 1]
    entry = logprob_entry(tokenizer, TokenLogprobs(ids[0], -1.0, [], []), 3)
    assert output_row(entry, 10)[:2] == ("n", -1.0)
    assert output_row(entry, 10).text_offset == 13
    assert legacy_logprobs(rows)["tokens"] == [row.token for row in rows]


async def test_a_prompt_that_cannot_be_sent_frees_those_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving() as server:
        submit = server.client.submit

        def refuse_short(prompt_ids: list[int], params: Any, **options: Any) -> Any:
            if len(prompt_ids) == 1:
                raise ValueError("this request cannot be sent to an engine")
            return submit(prompt_ids, params, **options)

        monkeypatch.setattr(server.client, "submit", refuse_short)
        response = await server.complete(prompt=[[1, 2], [3]])
        assert response.status_code == 400
        assert "cannot be sent" in response.json()["error"]["message"]
        assert server.client.num_streams == 0
