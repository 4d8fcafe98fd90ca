"""vLLM's offline interface on the same checkpoint; on CPU see ``install_vllm_cpu.sh``."""

import importlib
import json
from pathlib import Path

from benchmarks.peers.task import Ids, Task


class VllmEngine:
    """Its own defaults but for what the comparison fixes: dtype, lengths and token ids only.

    Overrides are ``LLM(...)`` arguments as ``name=json``. The environment (KV space, threads to
    bind) is the comparison's to set before the process starts.
    """

    name = "vllm"

    def __init__(self, folder: Path, task: Task, overrides: list[str]) -> None:
        vllm = importlib.import_module("vllm")
        pairs = [override.split("=", 1) for override in overrides]
        options = {name: json.loads(value) for name, value in pairs}
        self._vllm = vllm
        self._llm = vllm.LLM(
            model=str(folder),
            skip_tokenizer_init=True,
            **{"dtype": "float32", "max_model_len": 2048, **options},
        )
        self.version = str(vllm.__version__)
        self.vocab_size = int(json.loads((folder / "config.json").read_text())["vocab_size"])

    def generate(self, prompts: list[Ids], num_tokens: int) -> list[Ids]:
        params = self._vllm.SamplingParams(
            temperature=0.0, max_tokens=num_tokens, ignore_eos=True, detokenize=False
        )
        outputs = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False
        )
        return [list(output.outputs[0].token_ids) for output in outputs]

    def close(self) -> None:
        """Its engine process ends with this one."""
