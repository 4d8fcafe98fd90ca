"""The bundled model's own tasks as a prompt file for ``prelude bench serve workload=demo``: real
questions, real ends of sequence. ``python -m benchmarks.demo_prompts > prompts.jsonl``."""

import argparse
import json
from random import Random
from typing import Any

from benchmarks.demo.tasks import MIX, draw


def lines(count: int, seed: int = 0, max_tokens: int = 256) -> list[dict[str, Any]]:
    """``count`` chat prompts from the held-out problems, in the proportions of the training."""
    rng = Random(seed)
    found = []
    for task in rng.choices(list(MIX), list(MIX.values()), k=count):
        turns = draw(rng, task, "test").turns[:-1]
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        found.append({"messages": messages, "max_tokens": max_tokens})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-tokens", type=int, default=256)
    args = parser.parse_args()
    for line in lines(args.count, args.seed, args.max_tokens):
        print(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    main()
