"""What the double of FlashInfer promises, asked of the package itself where it is installed."""

import inspect
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.fake_flashinfer import SIGNATURES

pytestmark = pytest.mark.skipif(find_spec("flashinfer") is None, reason="needs FlashInfer")


@pytest.fixture
def wrappers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import flashinfer
    return {
        "decode": flashinfer.BatchDecodeWithPagedKVCacheWrapper,
        "prefill": flashinfer.BatchPrefillWithPagedKVCacheWrapper,
    }


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_the_package(wrappers: dict[str, Any], name: str) -> None:
    kind, method = name.split(".")
    theirs = inspect.signature(getattr(wrappers[kind], method))
    ours = inspect.signature(eval(f"lambda {SIGNATURES[name]}: None"))
    assert [(p.name, p.kind, p.default) for p in theirs.parameters.values()] == [
        (p.name, p.kind, p.default) for p in ours.parameters.values()
    ]


@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_what_we_reach_into_is_there(wrappers: dict[str, Any], kind: str) -> None:
    source = inspect.getsource(wrappers[kind])
    names = ("_int_workspace_buffer", "_pin_memory_int_workspace_buffer", "_plan_info")
    for use in (*(f"self.{name}" for name in names), "self._cached_module.plan("):
        assert use in source


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_the_packages_own_planners_schedule_every_launch_right(tmp_path: Path) -> None:
    """Builds them first: about half a minute each."""
    for program in ("tests.flashinfer_planners", "tests.flashinfer_native"):
        subprocess.run([sys.executable, "-m", program, str(tmp_path)], check=True, timeout=1200)
