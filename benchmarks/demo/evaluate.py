"""Exact match, perplexity and output lengths of the demo model on held-out problems.

    python -m benchmarks.demo.evaluate prelude/demo --count 200 --out eval.json
    python -m benchmarks.demo.evaluate prelude/demo --engine prelude --out eval_prelude.json
    python -m benchmarks.demo.evaluate prelude/demo --engine prelude --weights int8 --out ...

The first runs transformers, the second our engine with everything on (compiled programs, prefix
cache, continuous batching), on the same problems. Perplexity is measured by transformers.
"""

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from random import Random
from statistics import median

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from benchmarks.demo import tasks
from benchmarks.demo.problem import Problem
from benchmarks.demo.tokenizer import Encoder, prompt
from prelude import LLM, SamplingParams
from prelude.kernels.int8 import dequantize, int8_shape, quantize

# Prompts and outputs as token ids; an output ends with the end-of-turn token if it was reached.
Generate = Callable[[list[list[int]]], list[list[int]]]
MAX_NEW_TOKENS = 400


@dataclass(frozen=True, slots=True)
class TaskResult:
    """``lengths`` are output tokens including the working and the end-of-turn token."""

    task: str
    count: int
    exact: float
    ended: float
    median_length: float
    lengths: tuple[int, ...]
    failures: tuple[tuple[str, str, str], ...]


def problems(task: str, count: int, seed: int = 7) -> list[Problem]:
    """Held-out problems, all with different keys where the task has that many."""
    rng, found, seen = Random(f"{seed}:{task}"), list[Problem](), set[str]()
    for _ in range(200 * count):
        problem = tasks.draw(rng, task, "test")
        if problem.keys[-1] not in seen:
            seen.add(problem.keys[-1])
            found.append(problem)
        if len(found) == count:
            break
    return found


def prompt_ids(tokenizer: PreTrainedTokenizerFast, problem: Problem) -> list[int]:
    turns = [{"role": turn.role, "content": turn.content} for turn in problem.turns[:-1]]
    return Encoder(tokenizer).encode(prompt(tokenizer, turns, problem.mode))


def final_answer(text: str) -> str:
    """What follows the working, without the end-of-turn token."""
    return text.split("</think>")[-1].replace("<|im_end|>", "").strip("\n")


def measure(
    generate: Generate, tokenizer: PreTrainedTokenizerFast, task: str, count: int
) -> TaskResult:
    """Exact match of the final answer, which must be ended by the model itself."""
    chosen = problems(task, count)
    outputs = generate([prompt_ids(tokenizer, problem) for problem in chosen])
    ended = [output[-1:] == [tokenizer.eos_token_id] for output in outputs]
    texts = [str(tokenizer.decode(output)) for output in outputs]
    right = [
        end and final_answer(text) == problem.answer
        for end, text, problem in zip(ended, texts, chosen, strict=True)
    ]
    failures = [
        (problem.turns[-2].content, problem.answer, text)
        for ok, text, problem in zip(right, texts, chosen, strict=True)
        if not ok
    ]
    lengths = tuple(map(len, outputs))
    return TaskResult(
        task,
        len(chosen),
        sum(right) / len(chosen),
        sum(ended) / len(chosen),
        median(lengths),
        lengths,
        tuple(failures[:5]),
    )


class Transformers:
    """Greedy generation and answer likelihood through transformers, in float32."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast, rows: int) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.eos, self.pad = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
        self.encoder, self.rows = Encoder(tokenizer), rows

    def generate(self, prompts: list[list[int]]) -> list[list[int]]:
        outputs: list[list[int]] = []
        for start in range(0, len(prompts), self.rows):
            outputs += self.generate_rows(prompts[start : start + self.rows])
        return outputs

    @torch.inference_mode()
    def generate_rows(self, prompts: list[list[int]]) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.tensor([[self.pad] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        made = self.model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, do_sample=False
        )
        return [self.trimmed(row) for row in made[:, width:].tolist()]

    @torch.no_grad()
    def round_weights(self) -> None:
        """Give every matrix the values that it has as int8."""
        for parameter in self.model.parameters():
            if parameter.dim() == 2:
                matrix = torch.empty(int8_shape(*parameter.shape), dtype=torch.int8)
                quantize(parameter, matrix)
                parameter.copy_(dequantize(matrix))

    def trimmed(self, output: list[int]) -> list[int]:
        return output[: output.index(self.eos) + 1] if self.eos in output else output

    @torch.inference_mode()
    def answer_loss(self, problem: Problem) -> tuple[float, int]:
        """Summed negative log likelihood and number of the learnt tokens, working included."""
        ids, learnt = self.encoder.dialogue(problem)
        wanted = torch.tensor(learnt[1:]) > 0
        logits = self.model(torch.tensor([ids])).logits[0, :-1][wanted]
        targets = torch.tensor(ids[1:])[wanted]
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        return float(loss), int(wanted.sum())


class Prelude:
    """Greedy generation through our engine, all prompts of a task at once."""

    def __init__(self, folder: Path, weights: str) -> None:
        self.llm = LLM(folder, **{"graphs.background": False, "model.weights": weights})

    def generate(self, prompts: list[list[int]]) -> list[list[int]]:
        params = SamplingParams(
            temperature=0.0, max_tokens=MAX_NEW_TOKENS, skip_special_tokens=False
        )
        return [list(c.token_ids) for c in self.llm.generate(prompts, params)]


def perplexities(model: Transformers, names: list[str], count: int) -> dict[str, float]:
    """Per learnt token, by task, and over all tasks' tokens together as ``all``."""
    result, total, tokens = {}, 0.0, 0
    for task in names:
        pairs = [model.answer_loss(problem) for problem in problems(task, count)]
        loss, size = sum(p[0] for p in pairs), sum(p[1] for p in pairs)
        result[task] = math.exp(loss / size)
        total, tokens = total + loss, tokens + size
    return {**result, "all": math.exp(total / tokens)}


def evaluate(
    folder: Path, names: list[str], count: int, rows: int, engine: str, weights: str = "auto"
) -> dict[str, object]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reference = Transformers(folder, tokenizer, rows)
    model = Prelude(folder, weights) if engine == "prelude" else reference
    package = {"prelude": "prelude-llm"}.get(engine, engine)
    started, results = time.monotonic(), []
    for task in names:
        result = measure(model.generate, tokenizer, task, count)
        print(
            f"{task:16} exact {result.exact:6.1%}  ended {result.ended:6.1%}  "
            f"median length {result.median_length:5.0f}  n {result.count}",
            flush=True,
        )
        results.append(result)
    if weights == "int8":
        reference.round_weights()
    medians = [result.median_length for result in results]
    return {
        "command": shlex.join(["python", "-m", "benchmarks.demo.evaluate", *sys.argv[1:]]),
        "engine": f"{engine} {version(package)}, float32, weights {weights}, greedy",
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - started, 1),
        "length_spread": max(medians) / min(medians),
        "perplexity": perplexities(reference, names, min(count, 100)),
        "tasks": [asdict(result) for result in results],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200, help="held-out problems per task")
    parser.add_argument("--rows", type=int, default=50, help="prompts generated together")
    parser.add_argument("--tasks", nargs="*", default=list(tasks.TASKS))
    parser.add_argument("--engine", choices=("transformers", "prelude"), default="transformers")
    parser.add_argument("--weights", choices=("auto", "int8"), default="auto", help="of prelude")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = evaluate(
        *(options.folder, options.tasks, options.count, options.rows),
        *(options.engine, options.weights),
    )
    print(f"length spread {report['length_spread']:.0f}x, perplexity {report['perplexity']}")
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
