"""Composition from anywhere: other applications, threads, any text; and what it leaves alone."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from prelude.conf.command import (
    BENCH_ENGINE,
    BENCH_PRICES,
    BENCH_SERVE,
    ENGINE,
    SIMULATE,
    SWEEP,
    SWEEP_SERVE,
)
from prelude.conf.compose import ConfigError, parse_overrides
from prelude.conf.keys import list_keys, show
from prelude.conf.load import config_digest, load_config
from prelude.conf.schema import Config

ROOT = Path(__file__).resolve().parent.parent


def test_digest_is_stable_and_tells_configurations_apart() -> None:
    digests = {
        config_digest(load_config(o))
        for o in ([], ["model=tiny"], ["server.port=1"], ["cache.prefix=false"])
    }
    assert len(digests) == 4
    assert config_digest(Config()) == config_digest(load_config([]))
    code = "from prelude.conf.load import *; print(config_digest(load_config(['model=tiny'])))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == config_digest(load_config(["model=tiny"]))


def test_config_can_be_pickled() -> None:
    config = load_config(["model=tiny"])
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.filterwarnings("ignore::hydra.errors.Hydra14MigrationWarning")
@pytest.mark.parametrize("version_base", ["1.1", "1.2", "1.3", None])
def test_inside_another_hydra_application(tmp_path: Path, version_base: str | None) -> None:
    (tmp_path / "app.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path), version_base=version_base):
        before = GlobalHydra.instance().hydra
        assert load_config(["preset=latency"]).runner.max_seqs == 16
        assert GlobalHydra.instance().hydra is before
        assert hydra_compose("app").a == 1


def test_hydra_is_left_uninitialised() -> None:
    load_config()
    assert not GlobalHydra.instance().is_initialized()


def test_many_threads_from_a_cold_start() -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
from prelude.conf.load import load_config
with ThreadPoolExecutor(8) as pool:
    ports = list(pool.map(lambda n: load_config([f"server.port={n}"]).server.port, range(1, 17)))
assert ports == list(range(1, 17))
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)


def test_threads_of_a_warm_process() -> None:
    with ThreadPoolExecutor(4) as pool:
        configs = list(pool.map(load_config, [["model=tiny"]] * 8))
    assert all(config == configs[0] for config in configs)


def test_no_file_is_written(tmp_path: Path) -> None:
    code = "from prelude.conf.load import load_config; load_config(['model=tiny'])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def yaml_words() -> Iterator[tuple[Path, str]]:
    for path in (ROOT / "conf").rglob("*.yaml"):
        for line in path.read_text().splitlines():
            yield path, line.partition("#")[0].partition(":")[2].strip()


def test_yaml_never_says_yes_or_no() -> None:
    traps = {"on", "off", "yes", "no", "y", "n"}
    assert not [(path, word) for path, word in yaml_words() if word.lower() in traps]


def test_every_yaml_file_is_reachable() -> None:
    commands = (ENGINE, BENCH_SERVE, BENCH_ENGINE, BENCH_PRICES, SIMULATE, SWEEP, SWEEP_SERVE)
    folders = {g.partition("@")[0] for c in commands for g in c.groups.values()}
    primaries = {c.primary for c in commands}
    for path in (ROOT / "conf").rglob("*.yaml"):
        name = path.relative_to(ROOT / "conf").with_suffix("")
        assert str(name) in primaries or str(name.parent) in folders, name
        assert isinstance(OmegaConf.load(path), DictConfig), name


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=40)

TRICKY = st.text("aeflnu01.-+/~@%:_ '\"\\\\$", max_size=6)


@given(TEXTS | TRICKY)
def test_shown_text_reads_back_as_an_override(text: str) -> None:
    (override,) = parse_overrides([f"model.path={show(text)}"])
    assert override.value() == text


@settings(max_examples=40)
@given(st.lists(st.text(max_size=20), max_size=4))
def test_any_override_is_accepted_or_refused_with_one_line(lines: list[str]) -> None:
    try:
        load_config(lines)
    except ConfigError as error:
        assert str(error)


@settings(max_examples=40)
@given(st.sampled_from([key.name for key in list_keys(Config)]), st.text(max_size=12))
def test_any_value_is_accepted_or_refused_by_key(name: str, value: str) -> None:
    try:
        load_config({name: value})
    except ConfigError as error:
        assert name in str(error)
