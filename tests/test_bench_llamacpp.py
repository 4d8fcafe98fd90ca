"""The llama.cpp peer against a double of the library that checks what a batch says."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.peers.llamacpp_peer import LlamaCppEngine
from benchmarks.peers.task import Task

TASK = Task(prefill_len=12, prompt_len=4, decode_len=6, streams=3, threads=2)
VOCAB = 50


def next_token(tokens: list[int]) -> int:
    return (sum(tokens) * 7 + len(tokens)) % VOCAB


class FakeLlama:
    """Sequences continue by ``next_token`` of all their tokens, in the order of their positions."""

    __version__ = "9.9"

    def __init__(self) -> None:
        self.params = SimpleNamespace(n_threads=0, n_ctx=0, type_k=1)
        self.freed: list[str] = []
        self.decodes: list[int] = []
        self.path = ""
        self._sequences: dict[int, list[int]] = {}
        self._logits: dict[int, Any] = {}

    def llama_log_callback(self, function: Any) -> Any:
        return function

    def llama_log_set(self, *_: Any) -> None: ...
    def llama_backend_init(self) -> None: ...

    def llama_model_default_params(self) -> SimpleNamespace:
        return SimpleNamespace()

    def llama_model_load_from_file(self, path: bytes, _: Any) -> str | None:
        self.path = path.decode()
        return None if "missing" in self.path else "model"

    def llama_context_default_params(self) -> SimpleNamespace:
        return self.params

    def llama_init_from_model(self, *_: Any) -> str:
        return "context"

    def llama_get_memory(self, _: Any) -> str:
        return "memory"

    def llama_memory_clear(self, *_: Any) -> None:
        self._sequences.clear()

    def llama_model_get_vocab(self, _: Any) -> str:
        return "vocab"

    def llama_vocab_n_tokens(self, _: Any) -> int:
        return VOCAB

    def llama_batch_init(self, size: int, *_: int) -> SimpleNamespace:
        names = ("token", "pos", "n_seq_id", "logits")
        lists = {name: [None] * size for name in names}
        return SimpleNamespace(**lists, seq_id=[[None] for _ in range(size)], n_tokens=0)

    def llama_decode(self, _: Any, batch: Any) -> int:
        self._logits.clear()
        self.decodes.append(batch.n_tokens)
        for index in range(batch.n_tokens):
            assert batch.n_seq_id[index] == 1
            sequence = self._sequences.setdefault(batch.seq_id[index][0], [])
            if batch.pos[index] != len(sequence):
                return 1
            sequence.append(batch.token[index])
            if batch.logits[index]:
                logits = np.zeros(VOCAB, dtype=np.float32)
                logits[next_token(sequence)] = 1.0
                self._logits[index] = np.ctypeslib.as_ctypes(logits)
        return 0

    def llama_get_logits_ith(self, _: Any, index: int) -> Any:
        return self._logits[index]

    def llama_batch_free(self, _: Any) -> None:
        self.freed.append("batch")

    def llama_free(self, name: str) -> None:
        self.freed.append(name)

    def llama_model_free(self, name: str) -> None:
        self.freed.append(name)


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch) -> FakeLlama:
    fake = FakeLlama()
    monkeypatch.setitem(sys.modules, "llama_cpp", fake)
    return fake


def expected(prompt: list[int], num_tokens: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


def test_streams_decode_together(llama: FakeLlama) -> None:
    engine = LlamaCppEngine(Path("folder"), TASK, [])
    prompts = [[1, 2, 3, 4], [9, 8, 7, 6], [5, 5, 5, 5]]
    assert engine.generate(prompts, 5) == [expected(prompt, 5) for prompt in prompts]
    assert llama.decodes == [12, 3, 3, 3, 3], "one batch of prompts, then a row a sequence"
    assert engine.generate(prompts[:1], 2) == [expected(prompts[0], 2)], "nothing is left over"


def test_room_for_every_sequence_and_the_long_prompt(llama: FakeLlama) -> None:
    LlamaCppEngine(Path("folder"), TASK, ["weights=q8_0", "type_k=0"])
    assert llama.path == str(Path("folder/model-q8_0.gguf"))
    params = llama.params
    assert (params.n_threads, params.n_threads_batch, params.n_seq_max) == (2, 2, 3)
    assert params.n_batch == 12 and params.n_ubatch == 12
    assert params.n_ctx // params.n_seq_max >= 12 + 6 + 1
    assert params.type_k == 0


def test_facts_and_end(llama: FakeLlama) -> None:
    engine = LlamaCppEngine(Path("folder"), TASK, [])
    assert (engine.name, engine.version, engine.vocab_size) == ("llamacpp", "9.9", VOCAB)
    engine.close()
    assert llama.freed == ["batch", "context", "model"]


def test_a_file_that_is_not_there(llama: FakeLlama) -> None:
    with pytest.raises(RuntimeError, match=r"could not load model-f32\.gguf"):
        LlamaCppEngine(Path("missing"), TASK, [])
