"""What an engine has learned is found by the next one, unless it does not fit."""

import logging
from pathlib import Path

import pytest

from prelude.engine import profile as profiles
from prelude.engine.profile import PROFILE_VERSION, Profile, ProfileRecord, read_profile
from prelude.types.plan import BucketKey, Launch, Row
from prelude.types.prices import Curve, PriceTable, flat_prices

PRICES = PriceTable(Curve((1, 8), (1.0, 2.0)), 0.1, 0.01, (Curve((1,), (3.0,)), Curve(), Curve()))


def decode(rows: int) -> Launch:
    key = BucketKey("decode", rows, rows)
    return Launch(key, tuple(Row(i, i, 9, 1) for i in range(rows)), 5.0)


def prefill(tokens: int) -> Launch:
    return Launch(BucketKey("prefill", tokens, 1), (Row(0, 0, 0, tokens),), 5.0)


def test_prices_and_sizes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "profiles" / "model.json"
    first = Profile(PRICES, path=path)
    for launch in (decode(3), decode(3), decode(1), prefill(474)):
        first.observe(launch, 6.0)
    first.save(compiled=True)
    record = read_profile(path)
    assert record.decode == {1: 1, 3: 2}
    assert record.prefill == {474: 1}
    assert record.prices is not None
    assert record.prices.body.counts == PRICES.body.counts
    assert record.prices.scale == 1.0, "how busy the machine was is no property of the model"
    assert record.prices != PRICES
    assert list(path.parent.iterdir()) == [path]


def test_sizes_add_up_over_starts_and_prices_of_eager_steps_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    for compiled in (True, False):
        one = Profile(PRICES, path=path)
        one.observe(decode(2), 100.0)
        one.save(compiled=compiled)
        if compiled:
            kept = read_profile(path).prices
    assert read_profile(path).decode == {2: 2}
    assert read_profile(path).prices == kept


def test_other_programs_start_from_their_own_list() -> None:
    profile = Profile(PRICES)
    profile.observe(decode(1), 50.0)
    learned = profile.prices.table
    profile.follow(PRICES)
    assert profile.prices.table is learned
    other = flat_prices()
    profile.follow(other)
    assert profile.prices.table == other


def test_old_traffic_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "_MAX_COUNTED", 10)
    profile = Profile(PRICES, path=tmp_path / "model.json")
    for _ in range(16):
        profile.observe(decode(4), 1.0)
    profile.observe(decode(1), 1.0)
    profile.save(compiled=False)
    assert read_profile(tmp_path / "model.json").decode == {4: 8}


@pytest.mark.parametrize("text", [b"", b"[1]", b'{"decode": {"a": 1}}'])
def test_a_file_that_cannot_be_read_is_ignored_and_named(
    tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(text)
    with caplog.at_level(logging.WARNING):
        assert read_profile(path) == ProfileRecord()
    assert "model.json is ignored" in caplog.text


def test_another_version_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(f'{{"version": {PROFILE_VERSION + 1}, "decode": {{"1": 1}}}}')
    assert read_profile(path) == ProfileRecord()


def test_a_folder_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        Profile(PRICES, path=tmp_path / "file" / "model.json").save(compiled=True)
    assert "cannot be written" in caplog.text
