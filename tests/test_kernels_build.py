"""Compiling and loading C++ at first use."""

import ctypes
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from prelude.kernels import build
from prelude.kernels.build import CompileError, compile_library, load_library

SOURCE = """
#include <atomic>
extern "C" int team(int threads) {
    std::atomic<int> members{0};
#pragma omp parallel num_threads(threads)
    members++;
    return members;
}
"""

# Prints the OpenMP runtimes mapped, the size of a team of two, and a product that is a denormal.
PROBE = """
import ctypes, sys
from pathlib import Path
import torch
from prelude.kernels import build
library = build.load_library(Path(sys.argv[1]))
print(len(build.openmp_runtimes()), library.team(2), float(torch.tensor(1e-30) * 1e-12) > 0)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "team.cpp"
    path.write_text(SOURCE)
    return path


def test_compiles_once_and_keeps_the_result(source: Path, tmp_path: Path) -> None:
    first = compile_library(source, tmp_path / "cache")
    written = first.stat().st_mtime_ns
    assert compile_library(source, tmp_path / "cache") == first
    assert first.stat().st_mtime_ns == written
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [first.name]


def test_another_source_is_another_file(source: Path, tmp_path: Path) -> None:
    first = compile_library(source, tmp_path)
    source.write_text(SOURCE + "\n// changed\n")
    second = compile_library(source, tmp_path)
    assert first != second
    assert first.exists()


def test_another_cpu_is_another_file(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compile_library(source, tmp_path)
    monkeypatch.setattr(build, "cpu_flags", lambda: "flags : z80")
    assert compile_library(source, tmp_path) != first


def test_loads_beside_torch_with_its_openmp_and_its_denormals(source: Path, tmp_path: Path) -> None:
    library = compile_library(source, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(library)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "2", "True"]


def test_processes_may_compile_the_same_at_once(source: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        paths = pool.starmap(compile_library, [(source, tmp_path / "cache")] * 2)
    assert paths[0] == paths[1]
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [paths[0].name]
    assert isinstance(load_library(paths[0]), ctypes.CDLL)


def test_a_broken_source_shows_the_compilers_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken.cpp"
    broken.write_text("int f( {")
    with pytest.raises(CompileError, match="error"):
        compile_library(broken, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_several_are_compiled_together_and_what_is_broken_says_so_when_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "__file__", str(tmp_path / "build.py"))
    (tmp_path / "cpu").mkdir()
    for name in ("one", "other"):
        (tmp_path / "cpu" / f"{name}.cpp").write_text(SOURCE)
    (tmp_path / "cpu" / "broken.cpp").write_text("int team( {")
    build.compile_together(["one", "broken", "other"], tmp_path / "cache")
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert sorted(path.name.split("-")[0] for path in there) == ["one", "other"]
    assert build.compiled("one", tmp_path / "cache").team(1) == 1
    assert {path: path.stat().st_mtime_ns for path in there} == there
    with pytest.raises(CompileError, match="error"):
        build.compiled("broken", tmp_path / "cache")


def test_no_compiler_says_what_to_install(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompileError, match="install g\\+\\+"):
        compile_library(source, tmp_path)


def test_a_file_that_does_not_load_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.so"
    path.write_bytes(b"not a library")
    with pytest.raises(CompileError, match=r"empty\.so: compiled, but does not load"):
        load_library(path)


def test_default_cache_dir_follows_the_platform(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.default_cache_dir() == tmp_path / "prelude"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build.default_cache_dir() == tmp_path / ".cache" / "prelude"
