"""Compiled programs: chosen by config, kept in a cache, swapped in between steps, never fatal."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from prelude.conf.schema import Capture, GraphsConfig
from prelude.graphs import compiler, pool
from prelude.graphs.layer_program import program_digest
from prelude.graphs.pool import LayerPrograms, choose_capture
from prelude.models.spec import ModelSpec, read_config, read_spec
from prelude.types.plan import ProgramCount
from tests.model_samples import save_checkpoint


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    save_checkpoint(tmp_path, "qwen3")
    return read_spec(read_config(tmp_path))


def programs(config: GraphsConfig, spec: ModelSpec) -> LayerPrograms:
    return LayerPrograms(config, spec, dtype=torch.float32, block_size=8, threads=1)


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "has_cpp_compiler", lambda: False)


def test_auto_compiles_where_there_is_a_compiler() -> None:
    assert compiler.has_cpp_compiler()
    assert choose_capture(GraphsConfig()) == Capture.inductor
    assert choose_capture(GraphsConfig(capture=Capture.eager)) == Capture.eager


def test_without_a_compiler_auto_is_eager_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    no_compiler(monkeypatch)
    assert choose_capture(GraphsConfig()) == Capture.eager
    assert [r.message for r in caplog.records if "install g++" in r.message]
    assert len(caplog.records) == 1


def test_asking_for_programs_without_a_compiler_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_compiler(monkeypatch)
    with pytest.raises(ValueError, match=r"install g\+\+, or set graphs\.capture=eager"):
        choose_capture(GraphsConfig(capture=Capture.inductor))


def test_eager_has_no_programs(spec: ModelSpec) -> None:
    eager = programs(GraphsConfig(capture=Capture.eager), spec)
    assert eager.count == ProgramCount(0, 0)
    eager.close()


class _Finished:
    """A compilation that ends at once, with or without a package."""

    made: bool = False

    def __init__(self, job: compiler.LayerJob) -> None:
        self.job = job
        self.log_path = job.path.with_suffix(".log")
        self.is_done = False
        self.cancelled = False
        if self.made:
            job.path.parent.mkdir(parents=True)
            job.path.write_bytes(b"not a package")

    @property
    def failed(self) -> bool:
        return not self.job.path.exists()

    def wait(self) -> None:
        self.is_done = True

    def cancel(self) -> None:
        self.cancelled = True


@pytest.mark.parametrize("made", [False, True], ids=["no package", "a broken package"])
def test_a_failed_compilation_leaves_eager_code_and_a_warning(
    made: bool,
    spec: ModelSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def start(job: compiler.LayerJob) -> Any:
        return _Finished(job)

    monkeypatch.setattr(_Finished, "made", made)
    monkeypatch.setattr(pool, "Compilation", start)
    config = GraphsConfig(background=False, cache_dir=str(tmp_path / "cache"))
    with caplog.at_level(logging.WARNING):
        layers = programs(config, spec)
    assert layers.count == ProgramCount(0, 1)
    assert any("keeps running eager" in r.message for r in caplog.records)
    assert not list((tmp_path / "cache").rglob("*.pt2"))


def test_closing_cancels_what_is_being_compiled(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[_Finished] = []

    def start(job: compiler.LayerJob) -> Any:
        started.append(_Finished(job))
        return started[-1]

    monkeypatch.setattr(pool, "Compilation", start)
    layers = programs(GraphsConfig(cache_dir=str(tmp_path / "cache")), spec)
    layers.upkeep()
    assert layers.count == ProgramCount(0, 1)
    layers.close()
    assert started[0].cancelled


def test_a_real_compilation_can_be_cancelled(spec: ModelSpec, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "layer.pt2"
    job = compiler.LayerJob(spec, 0, torch.float32, torch.float32, 8, 1, path, tmp_path / "kernels")
    compilation = compiler.Compilation(job)
    assert not compilation.is_done
    compilation.cancel()
    assert compilation.is_done
    assert compilation.failed


def test_the_digest_tells_programs_apart(spec: ModelSpec) -> None:
    names = {
        program_digest(spec, window, dtype, weights, block_size, threads)
        for window in (0, 7)
        for dtype in (torch.float32, torch.bfloat16)
        for weights in (dtype, torch.int8)
        for block_size in (8, 16)
        for threads in (1, 2)
    }
    assert len(names) == 32
    assert program_digest(spec, 0, torch.float32, torch.int8, 8, 1) in names
