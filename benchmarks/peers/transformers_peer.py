"""``generate`` of transformers on the same checkpoint, fp32, the same number of threads."""

from pathlib import Path

from benchmarks.peers.task import Ids, Task


class TransformersEngine:
    """Prompts that are generated together must have equal lengths: nothing is padded."""

    name = "transformers"

    def __init__(self, folder: Path, task: Task, overrides: list[str]) -> None:
        import torch
        import transformers

        if overrides:
            raise ValueError(f"transformers takes no overrides: {overrides}")
        torch.set_num_threads(task.threads)
        self._torch = torch
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._model.eval()
        self.version = str(transformers.__version__)
        self.vocab_size = int(self._model.config.vocab_size)

    def generate(self, prompts: list[Ids], num_tokens: int) -> list[Ids]:
        ids = self._torch.tensor(prompts)
        with self._torch.inference_mode():
            output = self._model.generate(
                ids,
                attention_mask=self._torch.ones_like(ids),
                max_new_tokens=num_tokens,
                min_new_tokens=num_tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        return [[int(token) for token in row] for row in output[:, ids.shape[1] :]]

    def close(self) -> None:
        """Nothing outlives the process."""
