"""What constrained answers cost: a grammar to compile, a mask for each token, a step of eight rows
of which none, one or all are constrained. On one engine in this process, steps interleaved.

    python -m benchmarks.structured [--model demo] [--steps 400] [--output FILE]

The roof of a mask is reading it once: a bit for each token of the vocabulary.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from prelude.bench.observer import Observer
from prelude.conf.load import load_config
from prelude.engine.build import build_engine
from prelude.engine.core import EngineCore
from prelude.models.paths import resolve_model_path
from prelude.runner.masks import num_words
from prelude.text.grammar import GrammarCompiler
from prelude.text.tokenizer import Tokenizer
from prelude.types.constraint import Constraint
from prelude.types.request import Request, SamplingParams

ROWS = 8
ROUNDS = 8
WARM = 20
SPARE = 800  # steps that others take while a grammar is compiled
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "price": {"type": "number"}},
                "required": ["name", "price"],
                "additionalProperties": False,
            },
            "minItems": 100,
        },
    },
    "required": ["title", "items"],
    "additionalProperties": False,
}
CONSTRAINT = Constraint("json_schema", json.dumps(SCHEMA))
TEXT = json.dumps({"title": "A list", "items": [{"name": "thing", "price": 1.5}] * 100})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    observer = Observer(None)
    result = _measure(args.model, args.steps)
    environment = msgspec.to_builtins(observer.finish())
    text = json.dumps({"environment": environment, **result}, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


def _measure(model: str, num_steps: int) -> dict[str, object]:
    folder = resolve_model_path(model)
    tokenizer = Tokenizer.load(folder)
    core, info = build_engine(load_config({"model.path": model, "runner.max_seqs": ROWS}))
    masks = _masks(folder, tokenizer, info.vocab_size)
    times: dict[int, list[float]] = {0: [], 1: [], ROWS: []}
    for _ in range(ROUNDS):
        for num, taken in times.items():
            taken += _steps_ms(core, tokenizer, num, num_steps // ROUNDS)
    steps = {f"{num} of {ROWS}": round(statistics.median(t), 3) for num, t in times.items()}
    core.close()
    return {
        "model": info.model_name,
        "vocab_size": info.vocab_size,
        "masks": masks,
        "step_ms": steps,
        "roof": f"{4 * num_words(info.vocab_size)} bytes read per mask",
    }


def _masks(folder: Path, tokenizer: Tokenizer, vocab_size: int) -> dict[str, float]:
    """Milliseconds of compiling, the first time (with all that is made once) and for another
    schema; microseconds of masks and of following tokens, along an answer."""
    compiler = GrammarCompiler(folder / "tokenizer.json", vocab_size, tokenizer.eos_ids)
    first_ms = _ms(lambda: compiler.compile(CONSTRAINT))
    other = Constraint("json_schema", json.dumps({**SCHEMA, "title": "another"}))
    next_ms = _ms(lambda: compiler.compile(other))
    matcher = compiler.compile(CONSTRAINT).matcher(CONSTRAINT)
    mask = np.zeros(num_words(vocab_size), dtype=np.int32)
    fills, accepts = [], []
    for token in tokenizer.encode(TEXT, add_special_tokens=False):
        fills.append(1e3 * _ms(lambda: matcher.fill(mask)))
        accepts.append(1e3 * _ms(lambda token=token: matcher.accept(token)))  # type: ignore[misc]
    assert matcher.error == "", matcher.error
    compiler.close()
    return {
        "compile_first_ms": round(first_ms, 1),
        "compile_next_ms": round(next_ms, 2),
        "fill_p50_us": round(statistics.median(fills), 1),
        "fill_mean_us": round(statistics.fmean(fills), 1),
        "fill_max_us": round(max(fills), 1),
        "accept_p50_us": round(statistics.median(accepts), 1),
    }


def _steps_ms(
    core: EngineCore, tokenizer: Tokenizer, constrained: int, num_steps: int
) -> list[float]:
    """Decode steps with all rows running."""
    prompt = tokenizer.encode("Write a long list of things and what they cost.")
    for uid in range(ROWS):
        params = SamplingParams(
            temperature=0.8,
            seed=uid,
            max_tokens=num_steps + SPARE,
            ignore_eos=True,
            constraint=CONSTRAINT if uid < constrained else None,
        )
        core.add(Request(uid=uid, prompt_ids=prompt, params=params))
    while core.ledger.num_running < ROWS:
        core.step()
    for _ in range(WARM):
        core.step()
    times, ends = [], []
    for _ in range(num_steps):
        start = time.perf_counter()
        events = core.step()
        times.append((time.perf_counter() - start) * 1e3)
        ends += [event for event in events if event.finish_reason]
    assert not ends, ends
    core.abort_all()
    while core.has_work:
        core.step()
    return times


def _ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()
