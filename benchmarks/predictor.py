"""How well output lengths are foreseen on real answers, and what that costs:

    python -m benchmarks.predictor --output benchmarks/results/cpu/predictor.json

The bundled model's answers (``benchmarks.predictor_traffic``) are replayed, 32 at a time: predict,
then observe. Beside the predictor stand a constant (quantiles of all lengths so far) and a
per-client baseline (of the client's), then the predictor without one of its inputs or mechanisms,
with clients that leave early, and after a restart. Last, microseconds of CPU per call.
"""

import argparse
import json
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.predictor_replay import (
    WIDTH,
    Blinkered,
    Floats,
    Learner,
    Quantiles,
    columns,
    kendall,
    patience,
    pinball,
    replay,
    score,
    spearman,
)
from benchmarks.predictor_traffic import HABITS, Traffic, read_traffic
from prelude.batcher import predictor as predictors
from prelude.batcher.calibration import Calibration
from prelude.batcher.density import work_of
from prelude.batcher.lengths import remaining
from prelude.batcher.predictor import MIN_OBSERVED, Predictor
from prelude.bench import machine
from prelude.types.request import Request, SamplingParams
from prelude.types.service import Hints, Prediction

QUANTUM = 64  # tokens of probation: a fifth of the answers are longer
FIRST = 2 * WIDTH + MIN_OBSERVED  # requests before that are not judged: nothing is known
RESAMPLES = 1000

_Pair = tuple[Request, int]


class Uncalibrated(Calibration):
    def learn(self, cdf: Sequence[float], num_tokens: int, *, censored: bool) -> None:
        """What the model says is taken for true."""


def no_words(request: Request) -> Request:
    return msgspec.structs.replace(request, prompt_ids=[0] * len(request.prompt_ids))


def no_client(request: Request) -> Request:
    return msgspec.structs.replace(request, hints=msgspec.structs.replace(request.hints, client=""))


def learners() -> dict[str, Learner]:
    uncalibrated = Predictor(QUANTUM)
    uncalibrated._calibration = Uncalibrated(QUANTUM)
    return {
        "constant": Quantiles(lambda request: ""),
        "per_client": Quantiles(lambda request: request.hints.client),
        "predictor": Predictor(QUANTUM),
        "without_words": Blinkered(Predictor(QUANTUM), no_words),
        "without_client": Blinkered(Predictor(QUANTUM), no_client),
        "without_partial": Blinkered(Predictor(QUANTUM), lambda request: request, partial=False),
        "without_calibration": uncalibrated,
        "without_contract": Predictor(QUANTUM, contract=False),
    }


def quality(traffic: Traffic) -> dict[str, Any]:
    lengths = np.array(traffic.lengths[FIRST:], np.float64)
    tables = {
        name: columns(replay(learner, traffic.requests, traffic.lengths), FIRST)
        for name, learner in learners().items()
    }
    ours = tables["predictor"]
    return {
        "methods": {name: score(table, lengths) for name, table in tables.items()},
        "times_better": {
            f"than_{name}": better(tables[name], ours, lengths)
            for name in ("constant", "per_client")
        },
        "by_client": by_client(traffic, tables, lengths),
        "over_time": over_time(tables, lengths),
        "deep": {
            name: deep(tables[name][:, 2], lengths) for name in ("predictor", "without_calibration")
        },
        "remaining": left(ours, lengths),
        "density": density(traffic, tables, lengths),
    }


def better(theirs: Floats, ours: Floats, lengths: Floats) -> dict[str, list[float]]:
    """Ratio of mean pinball losses, and its 95 % bootstrap interval over requests."""
    rng, result = np.random.default_rng(0), {}
    for column, target in enumerate((0.5, 0.9)):
        a, b = (pinball(table[:, column], lengths, target) for table in (theirs, ours))
        draws = (rng.integers(len(a), size=len(a)) for _ in range(RESAMPLES))
        ratios = [a[draw].mean() / b[draw].mean() for draw in draws]
        bounds = np.quantile(ratios, [0.025, 0.975]).tolist()
        values = [a.mean() / b.mean(), *bounds]
        result[f"q{round(100 * target)}"] = [round(float(value), 2) for value in values]
    return result


def by_client(traffic: Traffic, tables: dict[str, Floats], lengths: Floats) -> dict[str, Any]:
    names = [request.hints.client for request in traffic.requests[FIRST:]]
    habits = np.array([name if name in HABITS else "visitor" for name in names])
    return {
        habit or "anonymous": {
            "num": int((habits == habit).sum()),
            "median_tokens": float(np.median(lengths[habits == habit])),
            **{name: _losses(tables[name], lengths, habits == habit) for name in _SHOWN},
        }
        for habit in HABITS
    }


def over_time(tables: dict[str, Floats], lengths: Floats) -> list[dict[str, Any]]:
    edges = [0, 100, 300, 1000, 2000, 3000, 4000, len(lengths)]
    result = []
    for low, high in pairwise(edges):
        rows = np.arange(low, min(high, len(lengths)))
        if len(rows):
            losses = {name: _losses(tables[name], lengths, rows) for name in _SHOWN}
            result.append({"from": low + FIRST, "to": high + FIRST, **losses})
    return result


_SHOWN = ("constant", "per_client", "predictor")


def _losses(table: Floats, lengths: Floats, rows: Any) -> dict[str, float]:
    table, lengths = table[rows], lengths[rows]
    q50, q90 = (pinball(table[:, i], lengths, t).mean() for i, t in enumerate((0.5, 0.9)))
    coverage = (lengths <= table[:, 1]).mean()
    return {
        "q50": round(float(q50), 3),
        "q90": round(float(q90), 3),
        "coverage_90": round(float(coverage), 3),
    }


def deep(chances: Floats, lengths: Floats) -> dict[str, Any]:
    """How often answers were deep by the chance that was given them; what skips the probation."""
    is_deep = lengths > QUANTUM
    skips = chances >= 0.9
    bins = np.minimum((chances * 10).astype(int), 9)
    return {
        "quantum": QUANTUM,
        "share": round(float(is_deep.mean()), 3),
        "brier": round(float(((chances - is_deep) ** 2).mean()), 4),
        "skip_share": round(float(skips.mean()), 3),
        "skip_precision": round(float(is_deep[skips].mean()), 3) if skips.any() else None,
        "skip_recall": round(float(skips[is_deep].mean()), 3) if is_deep.any() else None,
        "reliability": [
            [round(float(v), 3) for v in (chances[bins == i].mean(), is_deep[bins == i].mean())]
            for i in range(10)
            if (bins == i).any()
        ],
    }


def left(table: Floats, lengths: Floats) -> dict[str, Any]:
    """Quantiles of what is left, after some tokens, of the answers that are longer than those."""
    result = {}
    for generated in (8, 32, 64):
        rows = lengths > generated
        pairs = [remaining(Prediction(*row), generated) for row in table[rows].tolist()]
        guesses, true = np.array(pairs), lengths[rows] - generated
        result[str(generated)] = {
            "num": int(rows.sum()),
            "coverage_50": round(float((true <= guesses[:, 0]).mean()), 3),
            "coverage_90": round(float((true <= guesses[:, 1]).mean()), 3),
            "kendall": round(kendall(guesses[:, 0], true), 3),
        }
    return result


def density(traffic: Traffic, tables: dict[str, Floats], lengths: Floats) -> dict[str, Any]:
    """Rank correlation of device milliseconds, in all and per token, with what they are at the
    true length; prices of a batch of eight."""
    requests, result = traffic.requests[FIRST:], {}
    true = _work(traffic, requests, lengths)
    for name in _SHOWN:
        guess = _work(traffic, requests, tables[name][:, 0])
        result[name] = {
            "total_spearman": round(spearman(guess[:, 0], true[:, 0]), 3),
            "density_spearman": round(spearman(guess[:, 1], true[:, 1]), 3),
        }
    return result


def _work(traffic: Traffic, requests: Sequence[Request], lengths: Floats) -> Floats:
    works = [
        work_of(traffic.prices, len(request.prompt_ids), num_output, num_rows=8)
        for request, num_output in zip(requests, lengths.tolist(), strict=True)
    ]
    return np.array([(work.total_ms, work.density_ms) for work in works])


def censoring(traffic: Traffic) -> dict[str, Any]:
    """Clients leave after 60 tokens on average; judged by what all answers would have been."""
    requests, lengths = traffic.requests, traffic.lengths
    cuts = patience(len(requests), 60.0)
    ends = [min(length, cut) for length, cut in zip(lengths, cuts, strict=True)]
    true = np.array(lengths[FIRST:], np.float64)
    honest = replay(Predictor(QUANTUM), requests, lengths, cuts)
    naive = replay(Predictor(QUANTUM), requests, ends)
    return {
        "cut_share": round(float(np.mean(np.array(ends) < np.array(lengths))), 3),
        "as_censored": score(columns(honest, FIRST), true),
        "as_ends": score(columns(naive, FIRST), true),
    }


def restart(traffic: Traffic) -> dict[str, Any]:
    """The second half after a restart that found the file, and one that did not."""
    half = len(traffic.requests) // 2
    requests, lengths = traffic.requests[half:], traffic.lengths[half:]
    first = Predictor(QUANTUM)
    replay(first, traffic.requests[:half], traffic.lengths[:half])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lengths.npz"
        save_ms = _median_ms(lambda: first.save(path))
        warm, cold = Predictor(QUANTUM), Predictor(QUANTUM)
        load_ms = _median_ms(lambda: warm.load(path))
        num_bytes = path.stat().st_size
    tables = [columns(replay(one, requests, lengths), FIRST)[:300] for one in (warm, cold)]
    true = np.array(lengths[FIRST : FIRST + 300], np.float64)
    return {
        "warm_first_300": score(tables[0], true),
        "cold_first_300": score(tables[1], true),
        "file_bytes": num_bytes,
        "save_ms": save_ms,
        "load_ms": load_ms,
    }


def synthetic(partials: bool, history: bool, seed: int) -> dict[str, Any]:
    """A quarter of the answers long (2500 tokens in the median, the others 60), two clients of
    each kind; after 700 requests the kinds change places."""
    rng, requests, lengths = random.Random(seed), list[Request](), list[int]()
    for uid in range(1400):
        kind = rng.random() < 0.25
        is_long = kind != (uid >= 700)
        median, sigma = (2500, 0.9) if is_long else (60, 0.5)
        lengths.append(max(1, round(rng.lognormvariate(np.log(median), sigma))))
        hints = Hints(client=f"{kind}{rng.randrange(2)}")
        ids = [rng.randrange(600) for _ in range(20)]
        requests.append(Request(uid=uid, prompt_ids=ids, params=SamplingParams(), hints=hints))
    show = (lambda request: request) if history else no_client
    learner = Blinkered(Predictor(QUANTUM), show, partial=partials)
    table, true = columns(replay(learner, requests, lengths), FIRST), np.array(lengths[FIRST:])
    rows = {"start": slice(0, 200), "steady": slice(200, 600), "after_change": slice(700, 1000)}
    return {
        name: {
            "q50_log": round(float(pinball(np.log(table[r, 0]), np.log(true[r]), 0.5).mean()), 3),
            "q90_log": round(float(pinball(np.log(table[r, 1]), np.log(true[r]), 0.9).mean()), 3),
            "coverage_90": round(float((true[r] <= table[r, 1]).mean()), 3),
        }
        for name, r in rows.items()
    }


def cost(traffic: Traffic) -> dict[str, float]:
    """Microseconds of CPU per call: medians over batches of 100, on a predictor that has seen the
    traffic; ``survived_us`` where there is something to learn, and ``token_us`` where not."""
    learner = Predictor(QUANTUM)
    replay(learner, traffic.requests, traffic.lengths)
    pairs = list(zip(traffic.requests[:2000], traffic.lengths, strict=False))
    observe = partial(learner.observe, censored=False)
    result = {
        "predict_us": _median_us(lambda pair: learner.predict(pair[0]), pairs),
        "observe_us": _median_us(lambda pair: observe(*pair), pairs),
    }
    for request, _ in pairs:
        learner.predict(request)
    return result | {
        "token_us": _median_us(lambda pair: learner.survived(pair[0], 65), pairs),
        "survived_us": _median_us(lambda pair: learner.survived(pair[0], 64), pairs),
    }


def _median_us(
    call: Callable[[tuple[Request, int]], object], pairs: list[tuple[Request, int]]
) -> float:
    batches = []
    for first in range(0, len(pairs), 100):
        start = time.thread_time_ns()
        for pair in pairs[first : first + 100]:
            call(pair)
        batches.append((time.thread_time_ns() - start) / 1e5)
    return round(float(np.median(batches)), 1)


def _median_ms(call: Callable[[], object], count: int = 9) -> float:
    samples = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        samples.append((time.perf_counter() - start) * 1e3)
    return round(float(np.median(samples)), 2)


def main() -> None:
    folder = Path(__file__).parent / "results" / "cpu"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traffic", type=Path, default=folder / "predictor_traffic.jsonl")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    before, traffic = machine.quietness(), read_traffic(args.traffic)
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.predictor", *sys.argv[1:]]),
        "versions": machine.versions(),
        "host_cpu": machine.host_cpu(),
        "quiet": msgspec.to_builtins(before),
        "num_requests": len(traffic.requests),
        "first_judged": FIRST,
        "cost": cost(traffic),
        **quality(traffic),
        "censoring": censoring(traffic),
        "restart": restart(traffic),
        "synthetic": {
            name: [synthetic(*options, seed) for seed in range(3)]
            for name, options in {
                "predictor": (True, True),
                "without_partial": (False, True),
                "without_client": (True, False),
            }.items()
        },
        "predictor_version": predictors.PREDICTOR_VERSION,
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["methods"], indent=1))


if __name__ == "__main__":
    main()
