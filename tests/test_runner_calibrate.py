"""First prices are measured on the model itself, few and rising."""

from pathlib import Path

import pytest

from prelude.runner import calibrate
from prelude.runner.calibrate import _rising, measure_prices
from prelude.types.prices import Sums
from tests.model_samples import BLOCK, kv_pool, load, save_checkpoint


def test_a_model_is_priced_from_one_token_to_many(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "qwen3")
    decoder = load(tmp_path)
    kv = kv_pool(decoder.spec, 4)
    before = [layer[1:].clone() for layer in kv]
    prices = measure_prices(decoder, kv, BLOCK)
    assert prices.body.counts[0] == 1
    assert {1, 4, 16, 64, 256} <= set(prices.body.counts)
    assert prices.step_ms(Sums(64, 1)) >= prices.step_ms(Sums(1, 1)) > 0
    for sums in (Sums(4, 4, sampled=4), Sums(4, 4, sampled=4, drawn=1)):
        assert prices.step_ms(sums) > prices.step_ms(Sums(4, 4))
    assert prices.ms_per_pair > 0
    assert prices.ms_per_ctx_token > 0
    # Measuring writes to the dummy block and to no other.
    assert all((now[1:] == then).all() for now, then in zip(kv, before, strict=True))


def test_noise_never_makes_more_tokens_cheaper() -> None:
    assert _rising({1: 2.0, 64: 5.0, 16: 1.0, 4: 3.0}) == {1: 2.0, 4: 3.0, 16: 3.0, 64: 5.0}


def test_a_few_layers_stand_for_all_where_their_weights_fill_every_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, "qwen3")
    decoder = load(tmp_path)
    assert calibrate._num_streamed(decoder) == len(decoder.layers) > 1
    monkeypatch.setattr(calibrate, "_STREAMED_BYTES", 1)
    assert calibrate._num_streamed(decoder) == 1
    prices = measure_prices(decoder, kv_pool(decoder.spec, 4), BLOCK)
    assert prices.step_ms(Sums(1, 1)) > 0
