"""Which class a sequence is in: what earns it, what changes it, and what lying about it wins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.batcher.classes import Classifier, prompt_ms
from prelude.batcher.rules import Rules
from prelude.batcher.sequence import Sequence
from prelude.conf.schema import BatcherConfig, CacheConfig, ClassConfig
from prelude.engine.core import EngineCore
from prelude.runner.fake import FakeRunner
from prelude.types.prices import Curve, PriceTable, flat_prices
from prelude.types.request import Request, SamplingParams
from prelude.types.service import Hints, Prediction, ServiceClass
from tests.engines import EOS, VOCAB, Clock, make_core, request, run
from tests.policies import rules

_ANSWER = 7  # the token that ends reasoning
_SURE = Prediction(100.0, 300.0, 0.95)


def sequence(
    *, max_tokens: int = 500, prediction: Prediction | None = None, **hints: object
) -> Sequence:
    made = Request(
        uid=0,
        prompt_ids=[1, 2],
        params=SamplingParams(temperature=0.0),
        hints=Hints(**hints),  # type: ignore[arg-type]
    )
    seq = Sequence(0, made, 0, seed=0, max_tokens=max_tokens, eos_ids=())
    seq.prediction = prediction
    return seq


def arrived(seq: Sequence, uncached_ms: float = 1.0, made: Rules | None = None) -> ServiceClass:
    Classifier(made or rules()).arrived(seq, uncached_ms)
    return seq.service_class


def lives(seq: Sequence, tokens: list[int], made: Rules | None = None) -> list[ServiceClass]:
    """The class after each token."""
    classifier = Classifier(made or rules(), _ANSWER)
    classifier.arrived(seq, 1.0)
    classes: list[ServiceClass] = []
    for token in tokens:
        seq.token_ids.append(token)
        classifier.appended(seq, token)
        classes.append(seq.service_class)
    return classes


# At arrival.


def test_everybody_begins_as_fast() -> None:
    assert arrived(sequence()) == "fast"


@pytest.mark.parametrize(("uncached_ms", "name"), [(50.0, "fast"), (50.1, "doc")])
def test_a_long_prompt_makes_a_document(uncached_ms: float, name: ServiceClass) -> None:
    assert arrived(sequence(), uncached_ms) == name


def test_high_effort_makes_a_deep_one_and_other_efforts_do_not() -> None:
    efforts = {effort: arrived(sequence(reasoning=effort)) for effort in ("none", "low", "medium")}
    assert set(efforts.values()) == {"fast"}
    assert arrived(sequence(reasoning="high")) == "deep"


@pytest.mark.parametrize("contract", [{"is_bounded": True}, {"max_tokens": 8}])
def test_a_bounded_answer_is_fast_whatever_else_is_said(contract: dict[str, int]) -> None:
    for other in ({"reasoning": "high"}, {"service_class": "deep"}, {"prediction": _SURE}):
        assert arrived(sequence(**other, **contract)) == "fast"  # type: ignore[arg-type]
    deep = {"service_class": "deep", **contract}
    assert arrived(sequence(**deep), made=rules(off="contract")) == "deep"  # type: ignore[arg-type]


def test_a_limit_above_the_quantum_is_no_contract() -> None:
    assert arrived(sequence(max_tokens=9, prediction=_SURE)) == "deep"


@pytest.mark.parametrize(("p_deep", "name"), [(0.89, "fast"), (0.9, "deep")])
def test_who_is_surely_deep_skips_the_probation(p_deep: float, name: ServiceClass) -> None:
    seq = sequence(prediction=Prediction(100.0, 300.0, p_deep))
    assert arrived(seq) == name


def test_contract_and_prediction_can_be_switched_off() -> None:
    assert arrived(sequence(prediction=_SURE), made=rules(off="prediction")) == "fast"
    assert arrived(sequence(reasoning="high"), made=rules(off="contract")) == "fast"


@pytest.mark.parametrize(
    ("wish", "uncached_ms", "name"),
    [
        ("fast", 60.0, "doc"),
        ("batch", 1.0, "batch"),
        ("batch", 60.0, "batch"),
        ("doc", 1.0, "doc"),
        ("deep", 1.0, "deep"),
        ("deep", 60.0, "doc"),
    ],
)
def test_wishes_to_wait_are_granted(
    wish: ServiceClass, uncached_ms: float, name: ServiceClass
) -> None:
    assert arrived(sequence(service_class=wish), uncached_ms) == name


@pytest.mark.parametrize("wish", ["deep", "doc"])
def test_a_wish_to_wait_is_heard_until_answers_can_be_foreseen(wish: ServiceClass) -> None:
    guess = Prediction(5.0, 9.0, 0.6)
    assert arrived(sequence(service_class=wish)) == wish
    assert arrived(sequence(service_class=wish, prediction=guess)) == "fast"
    assert arrived(sequence(service_class=wish, prediction=_SURE)) == "deep"
    assert arrived(sequence(service_class=wish, prediction=guess), 60.0) == "doc", "as it is one"
    assert arrived(sequence(service_class=wish, prediction=guess, is_assigned=True)) == wish
    made = rules(off="prediction")
    assert arrived(sequence(service_class=wish, prediction=guess), made=made) == wish
    assert lives(sequence(service_class=wish, prediction=guess), [1] * 8)[-1] == "deep"


def test_a_wish_to_be_fast_is_heard_by_nobody() -> None:
    assert arrived(sequence(service_class="fast", prediction=_SURE)) == "deep"
    assert arrived(sequence(service_class="fast", reasoning="high")) == "deep"


def test_patience_is_that_of_the_class() -> None:
    classes: dict[ServiceClass, ClassConfig] = {"doc": ClassConfig(patience=3.0)}
    for off, patience in (("", (1.0, 3.0)), ("cost_order", (0.0, 0.0))):
        made = rules(classes=classes, off=off)
        fast, doc = sequence(), sequence()
        arrived(fast, 1.0, made)
        arrived(doc, 60.0, made)
        assert (fast.patience, doc.patience) == patience
        assert (fast.cost_ms, doc.cost_ms) == (1.0, 60.0)


# While it runs.


def test_a_quantum_used_up_makes_a_deep_one() -> None:
    assert lives(sequence(), [1] * 9) == ["fast"] * 7 + ["deep"] * 2


def test_a_contract_does_not_protect_from_probation() -> None:
    assert lives(sequence(is_bounded=True), [1] * 9)[-1] == "deep"


def test_without_probation_nobody_leaves_the_fast_class() -> None:
    assert set(lives(sequence(), [1] * 40, rules(off="probation"))) == {"fast"}


def test_an_answer_begins_as_fast_with_a_quantum_of_its_own() -> None:
    tokens = [1] * 10 + [_ANSWER] + [1] * 8
    classes = lives(sequence(reasoning="high"), tokens)
    assert classes == ["deep"] * 10 + ["fast"] * 8 + ["deep"]


def test_the_end_of_reasoning_means_nothing_where_there_is_none() -> None:
    tokens = [1] * 10 + [_ANSWER]
    assert lives(sequence(reasoning="none"), tokens)[-1] == "deep"


def test_batch_stays_batch() -> None:
    assert set(lives(sequence(service_class="batch"), [1] * 9 + [_ANSWER])) == {"batch"}


def test_a_document_is_one_until_its_prompt_is_computed() -> None:
    for hints, name in (({}, "fast"), ({"reasoning": "high"}, "deep")):
        seq = sequence(**hints)  # type: ignore[arg-type]
        classifier = Classifier(rules())
        classifier.arrived(seq, 60.0)
        seq.token_ids.append(1)
        assert seq.service_class == "doc"
        classifier.appended(seq, 1)
        assert seq.service_class == name


@given(
    wish=st.sampled_from([None, "fast", "doc"]),
    is_bounded=st.booleans(),
    max_tokens=st.integers(1, 60),
    p_deep=st.floats(0.0, 1.0),
    num=st.integers(0, 40),
)
def test_lying_wins_a_quantum_at_most(
    wish: ServiceClass | None, is_bounded: bool, max_tokens: int, p_deep: float, num: int
) -> None:
    seq = sequence(
        service_class=wish,
        is_bounded=is_bounded,
        max_tokens=max_tokens,
        prediction=Prediction(10.0, 20.0, p_deep),
    )
    classes = lives(seq, [1] * num)
    assert classes.count("fast") < 8
    assert sorted(classes, key=["fast", "deep"].index) == classes, "and there is no way back"


# Prices.


def test_the_price_of_a_prompt_is_that_of_its_launches() -> None:
    prices = PriceTable(Curve((1, 100), (2.0, 101.0)), ms_per_pair=0.01, scale=2.0)
    pairs = 150 * 50 + 150 * 151 / 2
    assert prompt_ms(prices, 50, 200, 100) == pytest.approx(2 * (101.0 + 51.0 + 0.01 * pairs))
    assert prompt_ms(prices, 50, 250, 100) == pytest.approx(
        2 * (202.0 + 0.01 * (200 * 50 + 200 * 201 / 2))
    )
    assert prompt_ms(prices, 50, 50, 100) == 0.0


def test_what_is_cached_costs_nothing() -> None:
    prices = flat_prices(10.0, 1.0)
    runner = FakeRunner(num_blocks=600, block_size=4, max_len=300, vocab_size=VOCAB, prices=prices)
    core = make_core(runner=runner, doc_ms=60.0, max_step_tokens=512)
    long = [1 + i % 500 for i in range(100)]
    seen = []
    for uid in range(2):
        core.add(request(long, uid=uid, max_tokens=2))
        seen.append(core.ledger.all_unfinished()[0].service_class)
        run(core)
    assert seen == ["doc", "fast"]


# In an engine.


def test_events_tell_the_class_when_it_changes() -> None:
    clock = Clock()
    core = make_core(clock=clock, policy="class_aware", probation_ms=4.04, num_blocks=200)
    core.add(request([5, 6], uid=1, max_tokens=10))
    events = run(core)
    told = [(i, e.timings.service_class) for i, e in enumerate(events) if e.timings]
    assert told == [(0, "fast"), (3, "deep"), (9, "deep")]


def test_an_engine_knows_the_token_that_ends_reasoning() -> None:
    runner = FakeRunner(
        block_size=4, max_len=128, vocab_size=VOCAB, model=lambda ctx: len(ctx) % 9 + 1
    )
    core = EngineCore(
        runner,
        batcher=BatcherConfig(probation_ms=4.04),
        cache=CacheConfig(),
        max_seqs=4,
        eos_ids=(EOS,),
        answer_id=_ANSWER,
    )
    core.add(request([1, 1], uid=1, max_tokens=9))
    (seq,) = core.ledger.all_unfinished()
    classes = []
    while core.has_work:
        core.step()
        classes.append(seq.service_class)
    assert seq.token_ids[2:] == [3, 4, 5, 6, 7, 8, 9, 1, 2]
    assert classes == ["fast"] * 3 + ["deep"] + ["fast"] * 4 + ["deep"]
