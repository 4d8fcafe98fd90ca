"""``prelude bench prices`` on a tiny real model: every launch has a price and a real time."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from prelude.bench import prices
from prelude.bench.prices import run, validate
from prelude.bench.result import PricesResult, decode
from prelude.conf.bench import PricesBenchConfig, PricesWorkload
from prelude.conf.command import BENCH_PRICES
from prelude.conf.load import load
from tests.bench_results import PROBE


def config(cache: Path, *overrides: str) -> PricesBenchConfig:
    plain = ["graphs.capture=eager", "attention.backend=torch", "runner.linear=torch"]
    base = ["model=tiny", "runner.threads=1", f"graphs.cache_dir={cache}", *plain]
    small = ["bench.seconds=1.0", "bench.hold_s=0.1", "bench.streams=[1,3]", "bench.long.high=900"]
    return load(BENCH_PRICES, PricesBenchConfig, [*base, *small, *overrides])


def test_a_run_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prices, "probe_apart", lambda *args: PROBE)
    torch.set_num_threads(1)
    path = tmp_path / "prices.json"
    document = run(config(tmp_path, f"bench.result={path}"))
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1]) == json.loads(path.read_text()) == document
    assert "in the median" in captured.err
    result = decode(path.read_bytes())
    assert isinstance(result, PricesResult)
    assert len(result.samples) == result.error.num == sum(key.num for key in result.keys)
    assert result.num_warmup > 0
    assert Counter(key for key, _, _ in result.samples) == {k.key: k.num for k in result.keys}
    assert set(result.errors) <= {"decode", "prefill"}
    assert result.error.median < 1.0, "a price is about right even on a busy machine"
    assert all(key.floor_share is not None and key.floor_share > 0 for key in result.keys)
    kept = {path.suffix for path in (tmp_path / "profiles").iterdir()}
    assert kept == {".json", ".npz"}, "what was learned is kept: prices, and lengths of answers"


def test_without_a_probe_there_is_no_floor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = decode(json.dumps(run(config(tmp_path, "bench.probe=false", "bench.seconds=0.3"))))
    assert isinstance(result, PricesResult)
    assert {key.floor_share for key in result.keys} == {None}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"streams": []}, "streams"),
        ({"streams": [0]}, "streams"),
        ({"seconds": 0.0}, "seconds"),
        ({"hold_s": 0.0}, "hold_s"),
        ({"warmup_share": 1.0}, "warmup_share"),
    ],
)
def test_bounds(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        validate(PricesWorkload(**changes))
