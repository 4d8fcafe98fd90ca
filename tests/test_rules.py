"""What the batcher's configuration comes to: thresholds from prices, and targets out of reach."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelude.batcher.rules import Rules, rules_of, unmet_targets
from prelude.conf.schema import BatcherConfig, ClassConfig, ClassesConfig
from prelude.types.prices import Curve, PriceTable
from tests.engines import make_core, request

PRICES = PriceTable(Curve.of({1: 10.0, 64: 10.0, 128: 20.0, 512: 60.0}))  # a decode takes 10 ms


def rules(**batcher: object) -> Rules:
    return rules_of(BatcherConfig(**batcher), PRICES, 50.0)  # type: ignore[arg-type]


def only(key: str, target_ms: float) -> ClassConfig:
    return ClassConfig(**{key: target_ms})  # type: ignore[arg-type]


def test_the_probation_is_device_time_of_decoding_alone() -> None:
    assert rules().quantum == 192
    assert rules(probation_ms=250.0).quantum == 25
    assert rules(probation_ms=1e-9).quantum == 1
    assert rules(probation_ms=250.0).deep_tokens == 100


def test_what_is_not_configured_follows_from_the_step() -> None:
    assert (rules().doc_ms, rules().fair_ms) == (800.0, 20_000.0)
    assert (rules(doc_ms=7.0).doc_ms, rules(fair_ms=8.0).fair_ms) == (7.0, 8.0)
    assert set(rules().itl_ms.values()) == {50.0}
    tight = ClassesConfig(fast=ClassConfig(itl_ms=20.0))
    assert rules(classes=tight).itl_ms["fast"] == 20.0


def test_idle_steps_are_as_long_as_prompts_need_to_be_computed_well() -> None:
    assert rules(max_step_tokens=512).idle_ms == 60.0, "six times the weights"
    assert rules(max_step_tokens=448).idle_ms == pytest.approx(53.33, abs=0.01), "what is most"
    quick = rules_of(BatcherConfig(), PriceTable(Curve.of({1: 1.0, 512: 2.0})), 50.0)
    assert quick.idle_ms == 50.0, "never shorter than a step while streams run"


def test_idle_steps_are_as_long_as_they_are_configured() -> None:
    assert rules(idle_step_ms=30.0).idle_ms == 30.0
    assert rules(idle_step_ms=900.0, max_step_tokens=64).idle_ms == 900.0


@settings(max_examples=50, deadline=None)
@given(noise=st.lists(st.floats(0.5, 2.0), min_size=9, max_size=9))
def test_noise_in_the_prices_of_chunks_does_not_move_idle_steps(noise: list[float]) -> None:
    """Sizes that were hardly ever seen may be priced at half or twice what they cost."""
    ms = [60.0 + 6.0 * 2**i for i in range(10)]
    noisy = Curve.of({2**i: ms[i] * by for i, by in enumerate([1.0, *noise])})
    idle_ms = rules_of(BatcherConfig(max_step_tokens=512), PriceTable(noisy), 50.0).idle_ms
    assert idle_ms == 6.0 * 66.0


@pytest.mark.parametrize("key", ["itl_ms", "ttft_ms"])
def test_targets_that_cannot_be_met_are_named(key: str) -> None:
    classes = ClassesConfig(doc=only(key, 9.0), deep=only(key, 10.0))
    (line,) = unmet_targets(rules(classes=classes), PRICES)
    assert line.startswith(f"batcher.classes.doc.{key}=9: cannot be met here")
    assert "10 ms" in line
    assert unmet_targets(rules(), PRICES) == []


def test_a_prompt_is_not_overtaken_past_its_target() -> None:
    due = {}
    for ttft_ms in (None, 0.5, 1e6):
        core = make_core(classes=ClassesConfig(fast=ClassConfig(ttft_ms=ttft_ms, patience=4.0)))
        core.add(request([5] * 30, uid=1))
        (seq,) = core.ledger.group(1)
        due[ttft_ms] = 1e3 * (seq.due_s - seq.queued_s)
        assert seq.cost_ms > 0.5
    assert due[None] == due[1e6] == pytest.approx(4.0 * seq.cost_ms)
    assert due[0.5] == pytest.approx(0.5)
