"""Simulated traffic: paired by seed, of the asked rate and lengths, and honest or not."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelude.conf.command import SIMULATE
from prelude.conf.load import load
from prelude.conf.simulate import Labels, Limit, SimArrival, SimClass, SimulateConfig, Traffic
from prelude.simulate.prompts import EOS_ID, Texts, num_tokens, token_ids
from prelude.simulate.traces import read_trace
from prelude.simulate.traffic import draw
from tests.simulations import fixed, mix


def traffic(**changes: object) -> Traffic:
    return replace(Traffic(classes=mix(), num_requests=400, load=None, rate=1.0), **changes)  # type: ignore[arg-type]


def gaps_of(arrival: SimArrival, **changes: object) -> list[float]:
    drawn = draw(traffic(arrival=arrival, num_requests=4000, **changes), 5.0)
    return [b.arrival_s - a.arrival_s for a, b in pairwise(drawn)]


def test_the_same_seed_gives_the_same_requests() -> None:
    assert draw(traffic(), 2.0) == draw(traffic(), 2.0)
    assert draw(traffic(seed=1), 2.0) != draw(traffic(), 2.0)


def test_what_the_labels_say_changes_nothing_else() -> None:
    honest, lies = draw(traffic(), 2.0), draw(traffic(labels=Labels.lies), 2.0)
    assert [r.prompt for r in honest] == [r.prompt for r in lies]
    assert [r.arrival_s for r in honest] == [r.arrival_s for r in lies]
    own = {name: c.service_class for name, c in mix().items()}
    assert all(r.hints.service_class == own[r.kind] for r in honest)
    assert all(r.hints.service_class != own[r.kind] for r in lies)
    assert all(r.hints.template == r.kind for r in honest)
    assert all(r.hints.template != r.kind for r in lies)


def test_some_labels_may_be_wrong() -> None:
    drawn = draw(traffic(label_error=0.25, num_requests=2000), 2.0)
    own = {name: c.service_class for name, c in mix().items()}
    wrong = mean(r.hints.service_class != own[r.kind] for r in drawn)
    assert 0.2 < wrong < 0.3
    bare = draw(traffic(labels=Labels.none), 2.0)
    assert {(r.hints.service_class, r.hints.priority) for r in bare} == {(None, 0)}


@pytest.mark.parametrize(
    ("arrival", "cv"),
    [(SimArrival.poisson, 1.0), (SimArrival.gamma, 3.0), (SimArrival.constant, 0.0)],
)
def test_gaps_have_the_asked_mean_and_variation(arrival: SimArrival, cv: float) -> None:
    gaps = gaps_of(arrival)
    assert mean(gaps) == pytest.approx(0.2, rel=0.15)
    assert pstdev(gaps) / mean(gaps) == pytest.approx(cv, rel=0.15, abs=1e-9)


def test_bursts_keep_the_mean_rate() -> None:
    gaps = gaps_of(SimArrival.onoff, on_s=2.0, off_s=6.0)
    assert mean(gaps) == pytest.approx(0.2, rel=0.2)
    assert pstdev(gaps) / mean(gaps) > 2.0


def test_kinds_come_as_often_as_they_weigh() -> None:
    kinds = Counter(r.kind for r in draw(traffic(num_requests=5000), 1.0))
    assert {name: count / 5000 for name, count in kinds.items()} == pytest.approx(
        {"chat": 0.7, "deep": 0.2, "doc": 0.1}, abs=0.03
    )


def test_lengths_can_be_scaled() -> None:
    whole, half = draw(traffic(), 1.0), draw(traffic(length_scale=0.5), 1.0)
    for a, b in zip(whole, half, strict=True):
        assert b.num_output == max(round(a.num_output / 2), 1)


@pytest.mark.parametrize("limit", list(Limit))
def test_a_limit_tells_the_length_or_less(limit: Limit) -> None:
    for sim in draw(traffic(limit=limit), 1.0):
        params = sim.request().params
        match limit:
            case Limit.exact:
                assert (params.max_tokens, params.ignore_eos) == (sim.num_output, True)
            case Limit.loose:
                assert params.max_tokens is not None
                assert params.max_tokens > 2 * sim.num_output and not params.ignore_eos
            case Limit.none:
                assert params.max_tokens is None and not params.ignore_eos


def test_turns_begin_with_all_that_was_said() -> None:
    chat = SimClass(prompt=fixed(5), output=fixed(7), prefix_len=11, turns=3, think_s=4.0)
    drawn = draw(traffic(classes={"chat": chat}, num_requests=300), 1.0)
    by_first = {r.prompt[1].text: [] for r in drawn}  # type: ignore[var-annotated]
    for sim in drawn:
        by_first[sim.prompt[1].text].append(sim)
    whole = [turns for turns in by_first.values() if len(turns) == 3]
    assert whole
    for first, second, third in whole:
        assert [r.num_prompt for r in (first, second, third)] == [16, 28, 40]
        assert second.prompt[:2] == first.prompt and third.prompt[:4] == second.prompt
        assert second.prompt[2].text == first.answer
        assert first.arrival_s <= second.arrival_s <= third.arrival_s


def test_prompts_share_tokens_only_where_they_share_text() -> None:
    drawn = draw(traffic(num_requests=50), 1.0)
    ids = [set(sim.request().prompt_ids) for sim in drawn]
    assert sum(len(tokens) for tokens in ids) == len(set().union(*ids))
    assert EOS_ID not in set().union(*ids)


@given(st.lists(st.integers(0, 50), max_size=6))
def test_a_prompt_is_as_long_as_its_parts(lengths: list[int]) -> None:
    texts = Texts()
    parts = tuple(texts.part(length) for length in lengths)
    assert len(token_ids(parts)) == num_tokens(parts) == sum(lengths)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([a for a in SimArrival if a.value != "trace"]))
def test_requests_are_numbered_in_order_of_arrival(seed: int, arrival: SimArrival) -> None:
    drawn = draw(traffic(seed=seed, arrival=arrival, num_requests=60), 3.0)
    assert [r.uid for r in drawn] == list(range(60))
    assert all(a.arrival_s <= b.arrival_s for a, b in pairwise(drawn))
    assert all(r.num_output >= 1 and r.num_prompt >= 1 for r in drawn)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": {}},
        {"classes": {"a": SimClass(weight=0.0)}},
        {"classes": {"a": SimClass(weight=1.0), "b": SimClass(weight=-1.0)}},
        {"cv": 0.0, "arrival": SimArrival.gamma},
        {"on_s": 0.0, "arrival": SimArrival.onoff},
        {"classes": {"a": SimClass(service_class="quick")}, "labels": Labels.honest},
    ],
)
def test_senseless_traffic_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        draw(traffic(**changes), 1.0)[0].request()


def write_trace(path: Path, lines: list[dict[str, object]]) -> Traffic:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return traffic(arrival=SimArrival.trace, trace=str(path), trace_speed=2.0)


def test_a_trace_is_played_as_it_was_written(tmp_path: Path) -> None:
    played = read_trace(
        write_trace(
            tmp_path / "trace.jsonl",
            [
                {"arrival": 4.0, "prompt_len": 30, "max_tokens": 9, "class": "doc"},
                {"arrival": 1.0, "prompt": [1, 2, 3], "class": "chat"},
            ],
        )
    )
    assert [(r.kind, r.arrival_s, r.num_prompt) for r in played] == [
        ("chat", 0.5, 3),
        ("doc", 2.0, 30),
    ]
    assert played[1].num_output == 9 and played[0].num_output >= 1


@pytest.mark.parametrize(
    "line",
    [
        {"arrival": 1.0, "prompt_len": 3},
        {"arrival": 1.0, "prompt_len": 3, "class": "nobody"},
        {"arrival": 1.0, "prompt": "text", "class": "chat"},
        {"arrival": -1.0, "prompt_len": 3, "class": "chat"},
        {"arrival": 1.0, "prompt_len": 3, "class": "chat", "extra": 1},
    ],
)
def test_a_line_that_cannot_be_played_is_refused(tmp_path: Path, line: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        read_trace(write_trace(tmp_path / "trace.jsonl", [line]))


@pytest.mark.parametrize("name", ["m1", "m2", "m3", "m4", "m5", "m6", "m7"])
def test_every_mix_can_be_drawn(name: str) -> None:
    config = load(SIMULATE, SimulateConfig, [f"mix={name}", "traffic.num_requests=200"])
    drawn = draw(config.traffic, 3.0)
    heavy = {kind for kind, c in config.traffic.classes.items() if c.weight > 0}
    assert {r.kind for r in drawn} <= heavy
    assert len(drawn) == 200 and all(r.request().prompt_ids for r in drawn)
