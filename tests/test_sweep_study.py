"""Comparison: paired ratios, intervals, baselines, fronts, and the words for them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.conf.compose import ConfigError
from prelude.conf.sweep import SweepOptions
from prelude.sweep.measures import is_higher_better, metric_of
from prelude.sweep.study import Gain, Study, bootstrap, check_choices, undominated
from prelude.sweep.words import amount, digits, gain_words, interval_words, labels, metric_name
from tests.sweeps import LINES, outcome, outcomes, points, space, study

FCFS, PRIORITY, AWARE = [
    (("batcher.policy", name),) for name in ("fcfs", "priority", "class_aware")
]
LOW, HIGH = [(("traffic.load", load),) for load in ("0.5", "0.9")]
positive = st.floats(0.01, 1e4)


def test_points_fall_apart_into_settings_regimes_and_seeds() -> None:
    made = study()
    assert made.settings == [FCFS, PRIORITY, AWARE]
    assert made.regimes == [LOW, HIGH]
    assert made.seeds == ["0", "1", "2", "3"]
    assert made.baseline(LOW) == FCFS and made.subject == AWARE


def test_ratios_are_paired_over_seeds() -> None:
    gain = study().gain(AWARE, FCFS, HIGH, "chat.ttft_ms.p99")
    assert gain is not None  # seeds differ by 30 %, the ratio of two policies does not
    assert (gain.factor, gain.low, gain.high) == pytest.approx((5.0, 5.0, 5.0))
    loss = study().gain(AWARE, FCFS, HIGH, "doc.ttft_ms.p99")
    assert loss is not None and loss.factor == pytest.approx(0.2**0.3)
    even = study().gain(AWARE, FCFS, HIGH, "total.output_tok_s")
    assert even is not None and even.is_even and even.factor == 1.0


def test_a_higher_rate_is_a_gain() -> None:
    made = study(
        formula=lambda swept: {"total.output_tok_s": 200.0 if "fcfs" in swept.values() else 300.0}
    )
    gain = made.gain(AWARE, FCFS, LOW, "total.output_tok_s")
    assert gain is not None and gain.factor == pytest.approx(1.5)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=5))
def test_exchanging_the_sides_inverts_the_gain(pairs: list[tuple[float, float]]) -> None:
    values = {("fcfs", str(i)): a for i, (a, _) in enumerate(pairs)}
    values |= {("class_aware", str(i)): b for i, (_, b) in enumerate(pairs)}
    lines = ["batcher.policy=fcfs,class_aware", f"traffic.seed=range(0,{len(pairs)})"]
    made = study(
        lines,
        SweepOptions(resamples=20),
        lambda s: {"chat.ttft_ms.p99": values[s["batcher.policy"], s["traffic.seed"]]},
    )
    there = made.gain(AWARE, FCFS, (), "chat.ttft_ms.p99")
    back = made.gain(FCFS, AWARE, (), "chat.ttft_ms.p99")
    assert there is not None and back is not None
    assert there.factor * back.factor == pytest.approx(1.0)


def test_seeds_that_failed_on_one_side_do_not_count_and_zeros_make_no_ratio() -> None:
    of = space()
    chosen = points(of)
    made = outcomes(chosen)
    made[0] = outcome(chosen[0], {}, "ValueError: no")
    with_hole = Study(of, SweepOptions(), chosen, made)
    assert list(with_hole.by_seed(FCFS, LOW, "chat.ttft_ms.p99")) == ["1", "2", "3"]
    gain = with_hole.gain(AWARE, FCFS, LOW, "chat.ttft_ms.p99")
    assert gain is not None and gain.factor == pytest.approx(5.0)
    zero = study(formula=lambda swept: {"chat.ttft_ms.p99": 0.0})
    assert zero.gain(AWARE, FCFS, LOW, "chat.ttft_ms.p99") is None
    assert zero.gain(AWARE, FCFS, LOW, "chat.nothing") is None


def test_of_several_baselines_the_best_of_each_regime_is_compared_with() -> None:
    lines = ("batcher.policy=fcfs,class_aware", "batcher.max_step_tokens=128,2048", LINES[1])
    better = {("0.5", "128"), ("0.9", "2048")}

    def formula(swept: dict[str, str]) -> dict[str, float]:
        place = (swept["traffic.load"], swept["batcher.max_step_tokens"])
        return {"chat.ttft_ms.p99": 10.0 if place in better else 20.0}

    made = study(lines, SweepOptions(baseline=["batcher.policy=fcfs"]), formula)
    chosen = [made.baseline(regime) for regime in (LOW, HIGH)]
    assert [dict(setting or ())["batcher.max_step_tokens"] for setting in chosen] == ["128", "2048"]
    assert all(dict(setting or ())["batcher.policy"] == "fcfs" for setting in chosen)


def test_held_out_seeds_choose_the_baseline_and_nothing_else() -> None:
    lines = ("batcher.policy=fcfs,class_aware", "batcher.max_step_tokens=1,2", LINES[2])

    def formula(swept: dict[str, str]) -> dict[str, float]:
        first = swept["batcher.max_step_tokens"] == "1"
        held_out = swept["traffic.seed"] in ("2", "3")
        return {"chat.ttft_ms.p99": 10.0 if first == held_out else 20.0}

    made = study(lines, SweepOptions(baseline=["batcher.policy=fcfs"], held_out=[2, 3]), formula)
    chosen = made.baseline(())
    assert chosen is not None and dict(chosen)["batcher.max_step_tokens"] == "1"
    assert list(made.by_seed(chosen, (), "chat.ttft_ms.p99").values()) == [20.0, 20.0]
    estimate = made.estimate(chosen, (), "chat.ttft_ms.p99")
    assert estimate is not None and estimate.mean == 20.0


@pytest.mark.parametrize("seeds", [[9], [0, 1, 2, 3]])
def test_held_out_seeds_are_some_of_the_swept(seeds: list[int]) -> None:
    of = space()
    check_choices(of, SweepOptions(held_out=[0]), points(of))
    with pytest.raises(ConfigError, match=r"sweep.held_out: must be some, and not all"):
        check_choices(of, SweepOptions(held_out=seeds), points(of))


def test_what_the_options_name_has_to_exist() -> None:
    with pytest.raises(ConfigError, match=r"sweep.baseline: no swept setting has batcher.policy=x"):
        study(options=SweepOptions(baseline=["batcher.policy=x"]))
    with pytest.raises(ConfigError, match=r"no such metric; there are total.output_tok_s, chat"):
        study(options=SweepOptions(headline=["chat.ttft_ms.p98"]))
    made = study(
        options=SweepOptions(headline=["doc.e2e_ms.mean"], subject=["batcher.policy=priority"])
    )
    assert made.headline == ["doc.e2e_ms.mean"] and made.subject == PRIORITY


def test_headlines_ask_for_the_first_class_the_others_and_the_total() -> None:
    assert study().headline == [
        "chat.ttft_ms.p99", "chat.ttft_ms.p50", "doc.ttft_ms.p99", "doc.e2e_ms.mean",
        "total.output_tok_s",
    ]  # fmt: skip


def test_the_class_with_most_requests_comes_first() -> None:
    num = {"doc.num_sent": 5.0, "chat.num_sent": 80.0, "deep.num_sent": 15.0}
    made = study(formula=lambda swept: {**num, **{f"{k[:-9]}.ttft_ms.p99": 1.0 for k in num}})
    assert made.headline == ["chat.ttft_ms.p99", "deep.ttft_ms.p99", "doc.ttft_ms.p99"]


def test_of_many_settings_the_best_are_shown() -> None:
    lines = ["batcher.max_bypass=range(0,40)", "traffic.load=0.5,0.9"]

    def formula(swept: dict[str, str]) -> dict[str, float]:
        return {"chat.ttft_ms.p99": 100.0 - float(swept["batcher.max_bypass"])}

    made = study(lines, SweepOptions(subject=["batcher.max_bypass=7"]), formula)
    shown = [int(value) for ((_, value),) in made.shown]
    assert shown == [0, 7, *range(30, 40)]
    assert study().shown == study().settings


def test_nothing_succeeded() -> None:
    of = space()
    chosen = points(of)
    made = Study(of, SweepOptions(), chosen, [outcome(p, {}, "no") for p in chosen])
    assert (made.runs, made.headline, made.baseline(LOW)) == ([], [], None)


def test_curves_are_means_over_seeds() -> None:
    made = study()
    curve = made.curve(FCFS, HIGH, "chat", "ttft_ms")
    runs = [
        r.outcome.curves["chat"]["ttft_ms"]
        for r in made.runs
        if (r.setting, r.regime) == (FCFS, HIGH)
    ]
    assert len(runs) == 4 and curve == pytest.approx(np.mean(runs, axis=0).tolist())
    assert made.curve(FCFS, HIGH, "doc", "ttft_ms") is None


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8))
def test_intervals_lie_within_the_values(values: list[float]) -> None:
    low, high = bootstrap(values, 50)
    assert low is not None and high is not None
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert bootstrap(values, 50) == (low, high)


def test_one_value_has_no_interval() -> None:
    assert bootstrap([1.0], 100) == (None, None) == bootstrap([1.0, 2.0], 0)
    alone = study([LINES[0]])
    gain = alone.gain(AWARE, FCFS, (), "chat.ttft_ms.p99")
    assert gain is not None and (gain.low, gain.high) == (None, None) and not gain.is_even


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=12))
def test_nothing_beats_a_point_of_the_front(pairs: list[tuple[float, float]]) -> None:
    front = undominated(pairs)
    assert front
    for index, (x, y) in enumerate(pairs):
        beaten = any(a <= x and b <= y and (a < x or b < y) for a, b in pairs)
        assert beaten == (index not in front)


@pytest.mark.parametrize(
    ("name", "metric", "higher"),
    [
        ("chat.ttft_ms.p99", "ttft_ms", False),
        ("total.output_tok_s", "output_tok_s", True),
        ("total.goodput_req_s", "goodput_req_s", True),
        ("total.attainment", "attainment", True),
        ("run.fairness", "fairness", True),
        ("run.simulated_s", "simulated_s", False),
        ("chat.num_failed", "num_failed", False),
        ("chat.slowdown.mean", "slowdown", False),
        ("decode_b4_c128.tok_s", "tok_s", True),
    ],
)
def test_which_way_is_better(name: str, metric: str, higher: bool) -> None:
    assert (metric_of(name), is_higher_better(name)) == (metric, higher)


@pytest.mark.parametrize(
    ("factor", "name", "words"),
    [
        (6.21, "chat.ttft_ms.p99", "6.2\u00d7 lower"),
        (12.4, "chat.ttft_ms.p99", "12\u00d7 lower"),
        (0.5, "chat.ttft_ms.p99", "2.0\u00d7 higher"),
        (1 / 0.88, "chat.ttft_ms.p99", "12 % lower"),
        (0.97, "total.output_tok_s", "3.0 % lower"),
        (2.0, "total.output_tok_s", "2.0\u00d7 higher"),
        (1.001, "total.output_tok_s", "equal"),
    ],
)
def test_words_say_what_happened_to_the_metric(factor: float, name: str, words: str) -> None:
    assert gain_words(Gain(factor, None, None), name) == words


def test_intervals_in_words() -> None:
    assert interval_words(Gain(2.0, None, None)) == ""
    assert interval_words(Gain(2.0, 1.5, 2.5)) == "1.50 \u2013 2.50\u00d7"
    assert interval_words(Gain(0.98, 0.966, 0.9961)) == "0.966 \u2013 0.996\u00d7"


def test_even_means_that_it_could_be_nothing() -> None:
    assert Gain(1.2, 0.9, 1.5).is_even and Gain(1.001, 1.0005, 1.0015).is_even
    assert not Gain(1.2, 1.1, 1.3).is_even and not Gain(1.2, None, None).is_even


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [
        (87.31, "chat.ttft_ms.p99", "87.3 ms"),
        (1234.0, "chat.ttft_ms.p99", "1.23 s"),
        (0.0, "chat.ttft_ms.p99", "0 ms"),
        (0.9234, "total.attainment", "92.3 %"),
        (12345.6, "total.output_tok_s", "12 346"),
    ],
)
def test_amounts(value: float, name: str, text: str) -> None:
    assert amount(value, name) == text
    assert digits(0.00001) == "1.0e-05"


def test_names_of_metrics_and_settings() -> None:
    assert metric_name("chat.ttft_ms.p99") == "chat TTFT p99"
    assert metric_name("total.output_tok_s") == "output tokens/s"
    assert metric_name("run.num_parks") == "run num parks"
    assert list(labels([FCFS, AWARE]).values()) == ["fcfs", "class_aware"]
    assert list(labels([LOW, HIGH]).values()) == ["load 0.5", "load 0.9"]
    both = [(("a.x", "1"), ("b.x", "2"))]
    assert list(labels(both).values()) == ["a.x 1, b.x 2"]
    mixed = [(("batcher.policy", "fcfs"), ("batcher.step_ms", "null"))]
    assert list(labels(mixed).values()) == ["fcfs, step_ms null"]
    uses = [(("batcher.use", value),) for value in ("{}", "{park: false}")]
    assert list(labels(uses).values()) == ["all on", "park off"]
    assert labels([()], "everything") == {(): "everything"}
