"""Threads that wait give up their core soon, unless the user has decided otherwise."""

import os
import subprocess
import sys

import pytest

from prelude.openmp import SPIN_COUNT

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def spin_count(code: str, **environment: str) -> str:
    """What ``code`` leaves in the environment of a fresh interpreter."""
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    code += "; import os; print(os.environ.get('GOMP_SPINCOUNT'))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=clean | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "code",
    [
        "from prelude.openmp import share_cores; share_cores()",
        "from prelude.cli import main; main(['version'])",
        "from prelude import LLM",
    ],
    ids=["function", "command", "library"],
)
def test_it_is_set_before_torch(code: str) -> None:
    assert spin_count(code) == SPIN_COUNT


def test_the_users_word_stands() -> None:
    code = "from prelude.openmp import share_cores; share_cores()"
    assert spin_count(code, GOMP_SPINCOUNT="7") == "7"
    assert spin_count(code, OMP_WAIT_POLICY="ACTIVE") == "None"


def test_a_loaded_torch_is_left_alone() -> None:
    code = "import torch; from prelude.openmp import share_cores; share_cores()"
    assert spin_count(code) == "None"
