"""llama.cpp through its C interface: all prompts in one batch of sequences, then one decode step
for all of them at a time. Its environment is made by ``install_llamacpp.sh``; the GGUF file beside
the checkpoint by ``gguf_file``."""

import ctypes
import importlib
import json
from pathlib import Path
from typing import Any

from benchmarks.peers.task import Ids, Task

UBATCH = 512


class LlamaCppEngine:
    """Its own defaults but for what the comparison fixes: threads and room for the sequences.

    Overrides: ``weights=f32`` or ``weights=q8_0``, and fields of ``llama_context_params`` as
    ``name=json``.
    """

    name = "llamacpp"

    def __init__(self, folder: Path, task: Task, overrides: list[str]) -> None:
        options = dict(override.split("=", 1) for override in overrides)
        weights = options.pop("weights", "f32")
        self._lib: Any = importlib.import_module("llama_cpp")
        self._np: Any = importlib.import_module("numpy")
        self._log = self._lib.llama_log_callback(lambda *_: None)
        self._lib.llama_log_set(self._log, ctypes.c_void_p(0))
        self._lib.llama_backend_init()
        self._model = self._load(folder / f"model-{weights}.gguf")
        self._context = self._open(task, {name: json.loads(text) for name, text in options.items()})
        self._memory = self._lib.llama_get_memory(self._context)
        self._batch = self._lib.llama_batch_init(self._room(task), 0, 1)
        self.version = str(self._lib.__version__)
        vocab = self._lib.llama_model_get_vocab(self._model)
        self.vocab_size = int(self._lib.llama_vocab_n_tokens(vocab))

    def generate(self, prompts: list[Ids], num_tokens: int) -> list[Ids]:
        self._lib.llama_memory_clear(self._memory, True)
        last = self._decode([list(enumerate(prompt)) for prompt in prompts])
        outputs = [[token] for token in last]
        for step in range(num_tokens - 1):
            rows = [
                [(len(prompt) + step, ids[-1])]
                for prompt, ids in zip(prompts, outputs, strict=True)
            ]
            for ids, token in zip(outputs, self._decode(rows), strict=True):
                ids.append(token)
        return outputs

    def close(self) -> None:
        self._lib.llama_batch_free(self._batch)
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)

    def _decode(self, rows: list[list[tuple[int, int]]]) -> Ids:
        """Run (position, token) pairs of each sequence; the likeliest token after each."""
        batch, size, ends = self._batch, 0, []
        for sequence, pairs in enumerate(rows):
            for position, token in pairs:
                batch.token[size], batch.pos[size] = token, position
                batch.n_seq_id[size], batch.seq_id[size][0] = 1, sequence
                batch.logits[size] = False
                size += 1
            batch.logits[size - 1] = True
            ends.append(size - 1)
        batch.n_tokens = size
        if self._lib.llama_decode(self._context, batch):
            raise RuntimeError(f"llama.cpp: could not decode {size} tokens of {len(rows)} rows")
        return [self._argmax(index) for index in ends]

    def _argmax(self, index: int) -> int:
        logits = self._lib.llama_get_logits_ith(self._context, index)
        return int(self._np.ctypeslib.as_array(logits, shape=(self.vocab_size,)).argmax())

    def _load(self, path: Path) -> Any:
        params = self._lib.llama_model_default_params()
        model = self._lib.llama_model_load_from_file(str(path).encode(), params)
        if not model:
            raise RuntimeError(f"llama.cpp: could not load {path.name}")
        return model

    def _open(self, task: Task, options: dict[str, Any]) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_threads = params.n_threads_batch = task.threads
        params.n_seq_max = task.streams
        params.n_batch = self._room(task)
        params.n_ubatch = min(UBATCH, params.n_batch)
        # Every sequence has an equal share of the context, and one must hold the long prompt.
        params.n_ctx = task.streams * (max(task.prefill_len, task.prompt_len) + task.decode_len + 2)
        for name, value in options.items():
            setattr(params, name, value)
        context = self._lib.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError("llama.cpp: could not open a context")
        return context

    @staticmethod
    def _room(task: Task) -> int:
        return max(task.prefill_len, task.streams * task.prompt_len)
