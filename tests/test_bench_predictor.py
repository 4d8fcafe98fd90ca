"""The predictor's benchmark: replay in the right order, scores that are what they are called."""

import json
import random
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks import predictor, predictor_replay, predictor_traffic
from benchmarks.predictor_replay import Quantiles, kendall, ranks, replay, score, spearman
from benchmarks.predictor_traffic import HABITS, Traffic, digest, read_traffic, requests
from prelude.types.prices import PriceTable, flat_prices
from prelude.types.request import Request, SamplingParams
from prelude.types.service import Hints, Prediction

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "cpu"


def ask(uid: int, client: str = "") -> Request:
    hints = Hints(client=client)
    return Request(uid=uid, prompt_ids=[1], params=SamplingParams(), hints=hints)


class Diary:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int, int]] = []

    def predict(self, request: Request) -> Prediction | None:
        self.lines.append(("predict", request.uid, 0))
        return None

    def survived(self, request: Request, num_tokens: int) -> None:
        self.lines.append(("survived", request.uid, num_tokens))

    def observe(self, request: Request, num_tokens: int, *, censored: bool) -> None:
        self.lines.append(("cut" if censored else "end", request.uid, num_tokens))


def test_answers_end_in_the_order_of_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_replay, "WIDTH", 2)
    diary = Diary()
    found = replay(diary, [ask(uid) for uid in range(4)], [5, 1, 2, 3])
    assert found == [None] * 4
    asked = [line for line in diary.lines if line[0] in ("predict", "end")]
    assert asked == [
        ("predict", 0, 0), ("predict", 1, 0), ("end", 1, 1), ("predict", 2, 0), ("end", 2, 2),
        ("predict", 3, 0),
    ]  # fmt: skip
    assert ("survived", 0, 1) in diary.lines and ("survived", 0, 2) in diary.lines


def test_who_leaves_early_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_replay, "WIDTH", 1)
    diary = Diary()
    replay(diary, [ask(uid) for uid in range(3)], [5, 3, 9], cuts=[2, 7, 1])
    assert [line for line in diary.lines if line[0] in ("cut", "end")] == [
        ("cut", 0, 2),
        ("end", 1, 3),
    ]


def test_the_baselines_are_quantiles_of_what_was_seen() -> None:
    baseline = Quantiles(lambda request: request.hints.client)
    assert baseline.predict(ask(0)) is None
    for num_tokens in range(1, 11):
        baseline.observe(ask(0, "ada"), num_tokens, censored=False)
    baseline.observe(ask(0, "bob"), 100, censored=False)
    assert baseline.predict(ask(1, "ada")) == (6.0, 10.0, 0.0)
    assert baseline.predict(ask(1, "bob")) == (6.0, 10.0, 0.0), "one answer is no history"


def test_rank_correlations_are_those_of_the_definitions() -> None:
    rng = random.Random(0)
    a, b = ([rng.randrange(6) for _ in range(40)] for _ in range(2))
    pairs = [(i, j) for i in range(40) for j in range(i)]
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in pairs]
    agreed = sum(x * y for x, y in signs)
    untied = [sum(sign[k] != 0 for sign in signs) for k in (0, 1)]
    values = np.array(a, np.float64), np.array(b, np.float64)
    assert kendall(*values) == pytest.approx(agreed / np.sqrt(untied[0] * untied[1]))
    assert ranks(np.array([3.0, 1.0, 3.0])).tolist() == [2.5, 1.0, 2.5]
    assert spearman(values[0], -values[0]) == pytest.approx(-1.0)
    assert spearman(values[0], np.ones(40)) == kendall(values[0], np.ones(40)) == 0.0


def test_a_perfect_prediction_loses_nothing() -> None:
    lengths = np.arange(1.0, 50.0)
    table = np.stack((lengths, lengths, lengths), axis=1)
    result = score(table, lengths)
    assert result["q50"]["pinball_tokens"] == result["q90"]["pinball_log"] == 0.0
    assert result["kendall"] == result["spearman"] == 1.0
    high = score(table + 10, lengths)
    assert high["q50"]["pinball_tokens"] == 5.0 and high["q90"]["pinball_tokens"] == 1.0


def test_prompts_are_a_function_of_the_seed() -> None:
    made = list(requests(60, seed=3))
    assert digest(made) == digest(list(requests(60, seed=3)))
    assert digest(made) != digest(list(requests(60, seed=4)))
    assert len({request.hints.client for request in made} & set(HABITS)) > 5


def test_the_committed_traffic_can_be_replayed(tmp_path: Path) -> None:
    path = RESULTS / "predictor_traffic.jsonl"
    head, *lines = path.read_text().splitlines()
    assert len(lines) == json.loads(head)["count"] == predictor_traffic.COUNT
    assert path.stat().st_size < 300_000
    traffic = read_traffic(path)
    assert len(traffic.lengths) == len(traffic.requests)
    clients = [json.loads(line)[0] for line in lines]
    assert clients == [request.hints.client for request in traffic.requests]
    changed = tmp_path / "changed.jsonl"
    changed.write_text("\n".join([json.dumps(json.loads(head) | {"digest": "0"}), *lines]))
    with pytest.raises(ValueError, match="the prompts have changed"):
        read_traffic(changed)


def test_the_whole_benchmark_runs_on_a_little_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "RESAMPLES", 20)
    made, rng = list(requests(500, seed=5)), random.Random(6)
    traffic = Traffic(made, [rng.choice((4, 9, 90)) for _ in made], flat_prices())
    quality = predictor.quality(traffic)
    assert set(quality["methods"]) == set(predictor.learners())
    assert 0.5 < quality["times_better"]["than_constant"]["q50"][0] < 2.0
    assert sum(row["num"] for row in quality["by_client"].values()) == 500 - predictor.FIRST
    assert 0.2 < predictor.censoring(traffic)["cut_share"] < 0.8
    assert predictor.restart(traffic)["file_bytes"] < 3_000_000
    assert set(predictor.cost(traffic)) == {"predict_us", "observe_us", "token_us", "survived_us"}
    start = predictor.synthetic(True, True, 0)["start"]
    assert start["coverage_90"] > 0.8


def test_the_committed_result_is_of_the_committed_traffic() -> None:
    result = json.loads((RESULTS / "predictor.json").read_text())
    assert result["num_requests"] == predictor_traffic.COUNT
    assert result["first_judged"] == predictor.FIRST
    assert set(result["methods"]) == set(predictor.learners())


def test_prices_survive_the_file() -> None:
    prices = replace(flat_prices(), ms_per_pair=0.5)
    assert msgspec.convert(msgspec.to_builtins(prices), PriceTable) == prices
