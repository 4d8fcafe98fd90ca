"""The Triton kernels, on a GPU where there is one and else in Triton's interpreter.

The interpreter must be chosen before Triton is imported, so ``tests/triton`` runs in a process of
its own; run ``TRITON_INTERPRET=1 pytest tests/triton`` to see one of its tests alone.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests/triton runs on the GPU itself")
def test_kernels_in_the_interpreter() -> None:
    """Half of the files in each of two processes: the interpreter has one thread."""
    files = sorted(str(path) for path in (ROOT / "tests/triton").glob("test_*.py"))
    middle, environment = len(files) // 2, os.environ | {"TRITON_INTERPRET": "1"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-x", *part],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for part in (files[:middle], files[middle:])
    ]
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(outputs)


def test_the_benchmark_checks_every_kernel_first() -> None:
    command = [sys.executable, "-m", "benchmarks.kernels_triton", "--check"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    kernels = {line.split()[0] for line in run.stdout.splitlines()}
    named = {"decode", "prefill", "linear", "rms_norm", "silu_mul", "rope_append", "sampling"}
    assert kernels == named


def test_who_has_no_gpu_needs_no_triton() -> None:
    """Nothing outside the folder imports it at module level."""
    code = "import sys, prelude.llm, prelude.runner.model; print('triton' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "False", run.stderr
