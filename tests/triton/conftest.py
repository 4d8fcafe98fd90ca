"""These tests run a kernel on a GPU, or else in Triton's interpreter, which must be chosen before
Triton is imported: ``tests/test_triton.py`` starts them in a process of their own."""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
torch.set_num_threads(1)  # tiny tensors: waking threads costs more than they save
collect_ignore_glob = [] if INTERPRETED or torch.cuda.is_available() else ["test_*.py"]


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs one program after another; small tiles show what large ones do."""
    if INTERPRETED:
        monkeypatch.setattr("prelude.kernels.triton.decode._PROGRAMS", 12)
        monkeypatch.setattr("prelude.kernels.triton.sampling._LANES", 256)
