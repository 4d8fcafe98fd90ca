"""Prelude itself, with its defaults, in process."""

from collections import defaultdict
from itertools import count
from pathlib import Path

from benchmarks.peers.task import Ids, Task
from prelude.bench.machine import versions
from prelude.conf.load import load_config
from prelude.engine.build import build_engine
from prelude.types.request import Request, SamplingParams


class PreludeEngine:
    """Runs on compiled programs from the first measured step on."""

    name = "prelude"

    def __init__(self, folder: Path, task: Task, overrides: list[str]) -> None:
        needed = [
            f"model.path='{folder}'",
            f"runner.threads={task.threads}",
            "graphs.background=false",
            f"model.max_len={task.prefill_len + task.decode_len + 1}",
        ]
        self._core, info = build_engine(load_config([*needed, *overrides]))
        self.version = versions().get("prelude-llm", "source")
        self.vocab_size = info.vocab_size
        self._uids = count(1)

    def generate(self, prompts: list[Ids], num_tokens: int) -> list[Ids]:
        params = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
        uids = [next(self._uids) for _ in prompts]
        for uid, prompt in zip(uids, prompts, strict=True):
            for event in self._core.add(Request(uid=uid, prompt_ids=prompt, params=params)):
                raise RuntimeError(event.error)
        outputs: dict[int, Ids] = defaultdict(list)
        while self._core.has_work:
            for event in self._core.step():
                outputs[event.uid] += event.token_ids
        return [outputs[uid] for uid in uids]

    def close(self) -> None:
        self._core.close()
