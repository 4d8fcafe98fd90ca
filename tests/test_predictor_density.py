"""Device milliseconds of a request, from prices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.batcher.density import work_of
from prelude.types.prices import Curve, PriceTable, Sums

HEAD = Curve((1, 64), (0.5, 4.0))
PRICES = PriceTable(
    Curve((1, 64, 512), (2.0, 4.0, 20.0)), 0.001, 0.0001, (HEAD, HEAD, HEAD), scale=1.5
)


def test_alone_it_is_the_sum_of_its_launches() -> None:
    num_prompt, num_output = 100, 20
    prefill_ms = PRICES.step_ms(Sums().plus(0, num_prompt, "greedy"))
    steps = [Sums().plus(num_prompt + i, 1, "greedy") for i in range(num_output - 1)]
    work = work_of(PRICES, num_prompt, num_output)
    assert work.prefill_ms == pytest.approx(prefill_ms)
    assert work.decode_ms == pytest.approx(sum(map(PRICES.step_ms, steps)))
    assert work.density_ms == pytest.approx((work.prefill_ms + work.decode_ms) / num_output)


def test_company_makes_decoding_cheaper_and_cached_tokens_the_prompt() -> None:
    alone = work_of(PRICES, 1000, 50)
    assert work_of(PRICES, 1000, 50, num_rows=64).decode_ms < 0.4 * alone.decode_ms
    assert work_of(PRICES, 1000, 50, num_cached=960).prefill_ms < 0.3 * alone.prefill_ms


def test_one_token_costs_its_prompt_alone() -> None:
    work = work_of(PRICES, 300, 1)
    assert work.decode_ms == 0.0 and work.density_ms == work.prefill_ms


@given(st.integers(1, 5000), st.floats(0, 1e5), st.floats(0, 1e5), st.sampled_from([1, 7, 64, 200]))
def test_more_tokens_never_cost_less_in_all(
    num_prompt: int, a: float, b: float, num_rows: int
) -> None:
    few = work_of(PRICES, num_prompt, min(a, b), num_rows=num_rows)
    many = work_of(PRICES, num_prompt, max(a, b), num_rows=num_rows)
    assert 0.0 < few.total_ms <= many.total_ms
    assert few.density_ms > 0.0
