"""Price lists of simulated devices: the roofline they come from, and the files they are read
from."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.conf.command import SIMULATE
from prelude.conf.load import load
from prelude.conf.simulate import SimDevice, SimulateConfig
from prelude.engine.profile import ProfileRecord
from prelude.simulate.prices import analytic, buckets_of, price_list, read_prices
from prelude.types.prices import Sums, flat_prices

H200 = SimDevice()


@given(st.integers(1, 60_000))
def test_the_curve_follows_the_roofline(num_tokens: int) -> None:
    table = analytic(H200)
    linear = (H200.weights_ms**4 + (H200.token_ms * num_tokens) ** 4) ** 0.25
    assert table.body.at(num_tokens) == pytest.approx(H200.floor_ms + linear, rel=5e-3)


def test_a_decode_step_pays_for_rows_and_context() -> None:
    table = analytic(H200)
    sums = Sums().plus_decodes(64 * 1000, ["greedy"] * 64)
    parts = table.body.at(64) + 64_000 * H200.ctx_ms + 64 * H200.row_ms
    assert table.step_ms(sums) == pytest.approx(parts)


def test_sampling_costs_the_same_in_every_mode() -> None:
    table = analytic(H200)
    assert len({table.step_ms(Sums().plus(0, 1, mode)) for mode in ("greedy", "full")}) == 1


@pytest.mark.parametrize("name", ["h200_8b", "h200_32b", "h200_4b", "cpu_0_6b"])
def test_every_device_reads_its_weights_no_faster_than_its_memory(name: str) -> None:
    config = load(SIMULATE, SimulateConfig, [f"device={name}"])
    assert config.device.name == name
    table = price_list(config.device)
    assert table.body.at(1) >= config.device.weights_ms
    assert table.body.at(8192) / table.body.at(4096) == pytest.approx(2.0, rel=0.05)


def test_an_engines_profile_is_a_price_list(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(msgspec.json.encode(ProfileRecord(prices=flat_prices(3.0))))
    assert read_prices(path) == flat_prices(3.0)
    assert price_list(SimDevice(prices=str(path))) == flat_prices(3.0)


def test_so_is_a_list_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_bytes(msgspec.json.encode(flat_prices(2.0)))
    assert read_prices(path) == flat_prices(2.0)


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"prices":null}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"device\.prices"):
        read_prices(path)


def test_a_measured_list_comes_with_prelude() -> None:
    config = load(SIMULATE, SimulateConfig, ["device=cpu_0_6b_measured"])
    table = price_list(config.device)
    measured = {1: (154, 78.9), 4: (144, 84.1), 16: (134, 178.4)}  # rows: context, ms
    for rows, (context, ms) in measured.items():
        sums = Sums().plus_decodes(rows * context, ["greedy"] * rows)
        assert table.step_ms(sums) == pytest.approx(ms, rel=0.06)
    assert table.step_ms(Sums().plus(0, 512, "greedy")) == pytest.approx(2789, rel=0.02)


def test_static_shapes_are_the_devices() -> None:
    assert not buckets_of(H200).is_static
    buckets = buckets_of(SimDevice(decode_buckets=[1, 8], prefill_buckets=[64], max_seqs=8))
    assert buckets.is_static and buckets.key("decode", 3, 3).num_rows == 8
