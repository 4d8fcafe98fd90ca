"""All programs of the captured runner, traced for device "cuda" by torch's fake tensors."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_every_program_traces_on_cuda(tmp_path: Path) -> None:
    torch_dir = Path(torch.__file__).parent
    library = tmp_path / "fake_cuda.so"
    compile_command = [
        *("g++", "-std=c++20", "-O1", "-shared", "-fPIC", str(ROOT / "tests/fake_cuda.cpp")),
        *("-o", str(library), f"-I{torch_dir}/include", f"-L{torch_dir}/lib", "-lc10"),
        f"-Wl,-rpath,{torch_dir}/lib",
    ]
    subprocess.run(compile_command, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fake_cuda", str(library)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["12"]  # 3 forward programs; 3 modes for each of 3 row counts
