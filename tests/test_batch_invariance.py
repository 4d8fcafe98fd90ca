"""``runner.batch_invariant``: the same greedy request gives the same bits whatever it shares a step
with, however its prompt is cut, and whether its beginning was cached or computed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prelude.engine.core import EngineCore
from prelude.kernels import build
from prelude.kernels.attention import select_backend
from prelude.kernels.linear import select_linear
from prelude.models.loading import random_decoder
from prelude.models.spec import read_spec
from prelude.types.request import Request, SamplingParams
from tests.model_samples import CPU, SHAPE, Paged, save_checkpoint
from tests.parity import mixed_prompts, open_engine

INVARIANT: dict[str, Any] = {
    "runner.batch_invariant": True,
    "graphs.capture": "eager",
    "cache.block_size": 8,
    "cache.num_blocks": 200,
    "model.max_len": 112,
}
# Token, its log probability and those of its rivals: a different bit in a logit shows in these.
Step = tuple[int, float, tuple[float, ...]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("invariant")
    save_checkpoint(path, "qwen3")
    return path


@pytest.fixture(autouse=True, scope="module")
def kernels() -> Iterator[None]:
    yield
    select_backend("torch")
    select_linear("torch")


def answers(core: EngineCore, prompts: list[list[int]], together: bool) -> list[list[Step]]:
    params = SamplingParams(temperature=0.0, max_tokens=9, ignore_eos=True, logprobs=20)
    found: list[list[Step]] = [[] for _ in prompts]
    for uid, prompt in enumerate(prompts):
        assert core.add(Request(uid=uid, prompt_ids=prompt, params=params)) == []
        while core.has_work and (not together or uid == len(prompts) - 1):
            for event in core.step():
                for token, logprob in zip(event.token_ids, event.logprobs or (), strict=True):
                    found[event.uid].append((token, logprob.logprob, tuple(logprob.top_logprobs)))
    return found


@pytest.mark.parametrize("weights", ["auto", "int8"])
def test_alone_batched_chunked_and_cached_give_the_same_bits(folder: Path, weights: str) -> None:
    overrides = INVARIANT | {"model.weights": weights}
    alone = open_engine(folder, overrides | {"cache.prefix": False})
    prompts = mixed_prompts(17, 60, alone.runner.vocab_size)
    wanted = answers(alone, prompts, together=False)
    assert {len(steps) for steps in wanted} == {9}
    chunked = open_engine(
        folder, overrides | {"batcher.max_step_tokens": 20, "batcher.min_chunk": 3}
    )
    threaded = open_engine(folder, overrides | {"runner.threads": 2})
    for core in (alone, chunked, threaded):
        assert answers(core, prompts, together=True) == wanted
    assert answers(chunked, prompts, together=False) == wanted  # prompts are cached by now
    for core in (alone, chunked, threaded):
        core.close()


def test_logits_of_a_real_width_are_the_same_bits(tmp_path: Path) -> None:
    select_backend("cpu", tmp_path, invariant=True)
    select_linear("cpu", tmp_path)
    shape = {
        "architectures": ["Qwen3ForCausalLM"],
        "rms_norm_eps": 1e-6,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 1,
    }
    decoder = random_decoder(read_spec(dict(SHAPE) | shape), torch.float32, CPU, seed=0)
    ids = [[(7 * i + j) % 97 for j in range(31)] for i in range(3)]
    whole = Paged(decoder, ids).step([(0, 31)])[0][2]
    mixed = Paged(decoder, ids)
    steps = [mixed.step(rows) for rows in ([(1, 31), (0, 7), (2, 3)], [(0, 1)], [(2, 9), (0, 23)])]
    parts = [logits for step in steps for index, _, logits in step if index == 0]
    assert torch.equal(torch.cat(parts), whole)


def test_it_needs_the_kernels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"batch_invariant=true: .* linear torch; install g\+\+"):
        open_engine(folder, INVARIANT | {"runner.linear": "torch"})
    monkeypatch.setattr(build, "_COMPILERS", ("no-such-compiler",))
    with pytest.raises(ValueError, match="found attention torch"):
        open_engine(folder, INVARIANT)
