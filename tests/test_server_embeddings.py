"""POST /v1/embeddings: inputs of every shape, encodings, and the real client."""

import asyncio
import base64
import json
import math
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI

from prelude.runner.fake import fake_embedding
from prelude.server.embeddings import vector_of
from prelude.server.errors import ApiError
from tests.server_harness import ANSWER, Engine, Gate, Harness, serving
from tests.text_samples import byte_level

PATH = "/v1/embeddings"


def wanted(ids: list[int]) -> list[float]:
    values = array("f", fake_embedding(ids, byte_level().vocab_size))
    return [value / math.hypot(*values) for value in values]


async def embed(server: Harness, **fields: Any) -> dict[str, Any]:
    response = await server.http.post(PATH, json=fields)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


@pytest.mark.parametrize(
    ("given_input", "num"),
    [("fox", 1), (["fox", "dog", "the"], 3), ([5, 6, 7], 1), ([[5], [6, 7]], 2), (["fox"], 1)],
)
async def test_inputs_of_every_shape(given_input: Any, num: int) -> None:
    async with serving() as server:
        body = await embed(server, input=given_input, model="test-model")
        assert body["object"] == "list"
        assert [item["index"] for item in body["data"]] == list(range(num))
        inputs = given_input if num > 1 or given_input == ["fox"] else [given_input]
        prompts = [byte_level().encode(i) if isinstance(i, str) else i for i in inputs]
        for item, ids in zip(body["data"], prompts, strict=True):
            assert item["embedding"] == pytest.approx(wanted(ids), abs=1e-6)
        total = sum(map(len, prompts))
        assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] == total
        assert body["timings"]["total_ms"] > 0
        assert server.core is not None
        assert server.core.ledger.pool.num_referenced == 0


async def test_encodings_and_dimensions() -> None:
    async with serving() as server:
        whole = (await embed(server, input="fox"))["data"][0]["embedding"]
        text = (await embed(server, input="fox", encoding_format="base64"))["data"][0]["embedding"]
        assert list(array("f", base64.b64decode(text))) == pytest.approx(whole, abs=1e-7)
        short = (await embed(server, input="fox", dimensions=2))["data"][0]["embedding"]
        length = math.hypot(*whole[:2])
        assert short == pytest.approx([value / length for value in whole[:2]], abs=1e-6)
        raw = (await embed(server, input="fox", normalize=False))["data"][0]["embedding"]
        tokenizer = byte_level()
        assert raw == list(
            array("f", fake_embedding(tokenizer.encode("fox"), tokenizer.vocab_size))
        )


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=8), st.integers(1, 9))
def test_vectors_have_length_one(values: list[float], dimensions: int) -> None:
    data = array("f", values)
    if dimensions > len(values):
        with pytest.raises(ApiError, match="dimensions"):
            vector_of(data.tobytes(), dimensions, normalize=True)
        return
    found = vector_of(data.tobytes(), dimensions, normalize=True)
    assert len(found) == dimensions
    if math.hypot(*values[:dimensions]) > 1e-30:
        assert math.hypot(*found) == pytest.approx(1.0, abs=1e-5)
    assert list(vector_of(data.tobytes(), None, normalize=False)) == list(data)


async def test_the_real_client() -> None:
    async with (
        serving() as server,
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        made = await client.embeddings.create(model="test-model", input=["fox", "dog"])
        for item, text in zip(made.data, ("fox", "dog"), strict=True):
            assert item.embedding == pytest.approx(wanted(byte_level().encode(text)), abs=1e-6)
        plain = await client.embeddings.create(
            model="test-model", input="fox", encoding_format="float", dimensions=3
        )
        assert len(plain.data[0].embedding) == 3
        assert made.usage.total_tokens == sum(len(byte_level().encode(t)) for t in ("fox", "dog"))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input.0"),
        ({"input": ["fox", 5]}, "input.1"),
        ({"input": ["fox", [10**6]]}, "input"),
        ({"input": {"text": "fox"}}, "input"),
        ({"input": "fox", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "fox", "dimensions": 0}, "dimensions"),
        ({"input": "fox", "dimensions": 5}, "dimensions"),
        ({"input": "fox", "task": "query"}, "task"),
        ({"input": "fox " * 300}, "input"),
        ({"input": [[10**6]]}, "input"),
        ({"input": ["fox"] * 2000}, "input"),
    ],
)
async def test_refusals(fields: dict[str, Any], param: str) -> None:
    async with serving() as server:
        response = await server.http.post(PATH, json=fields)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == param


async def test_long_inputs_are_cut_where_asked() -> None:
    async with serving() as server:
        body = await embed(server, input=["fox " * 300, "fox"], truncate_prompt_tokens=-1)
        num = len(byte_level().encode("fox"))
        assert body["usage"]["prompt_tokens"] == 255 + num


async def test_other_poolings_are_refused(tmp_path: Path) -> None:
    modules = [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    async with serving(folder=tmp_path) as server:
        response = await server.http.post(PATH, json={"input": "fox"})
        assert response.json()["error"]["code"] == "unsupported_model"


async def test_a_client_that_leaves_frees_everything() -> None:
    gate = Gate()
    async with serving(Engine(gate=gate)) as server:
        task = asyncio.create_task(server.http.post(PATH, json={"input": ["fox"] * 20}))
        await server.until(lambda: server.client.num_streams == 20)
        task.cancel()
        await server.until(lambda: server.client.num_streams == 0)
        gate.open()
        assert (await server.complete()).json()["choices"][0]["text"] == ANSWER
        assert server.core is not None
        assert server.core.ledger.pool.num_referenced == 0
        assert server.services.lifecycle.num_open == 0


async def test_beside_chats() -> None:
    async with serving() as server:
        chats = [server.chat() for _ in range(8)]
        vectors = [embed(server, input=[[5, 6, 7 + n]] * 4) for n in range(8)]
        answers, bodies = await asyncio.gather(asyncio.gather(*chats), asyncio.gather(*vectors))
        for chat in answers:
            assert chat.json()["choices"][0]["message"]["content"] == ANSWER
        for n, body in enumerate(bodies):
            for item in body["data"]:
                assert item["embedding"] == pytest.approx(wanted([5, 6, 7 + n]), abs=1e-6)
