"""Compiling in a niced child process, so that a serving engine never waits for a compiler.

The child is a plain interpreter, not a multiprocessing one: that would run the user's script again
where the engine lives in it. Its standard input carries the job, and its end tells of our death.
"""

import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import torch

from prelude.graphs.layer_program import compile_driver, compile_layer
from prelude.models.spec import ModelSpec

logger = logging.getLogger(__name__)

_NICE = 15
_CHILD = "from prelude.graphs.compiler import child_main; child_main()"


def has_cpp_compiler() -> bool:
    """True if Inductor would find a C++ compiler: $CXX, g++ or clang++."""
    return any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++"))))


@dataclass(frozen=True, slots=True)
class LayerJob:
    """What to compile (see ``compile_layer``), the package it becomes, and where the library that
    will run it belongs."""

    spec: ModelSpec
    window: int
    dtype: torch.dtype
    weights: torch.dtype
    block_size: int
    threads: int
    path: Path
    kernels: Path


class Compilation:
    """A ``LayerJob`` in a child process. The package appears whole or not at all; what the
    compiler says goes to a log file beside it."""

    def __init__(self, job: LayerJob) -> None:
        self.job = job
        self.log_path = job.path.with_suffix(".log")
        job.path.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TORCHINDUCTOR_CACHE_DIR": str(job.path.parent / "inductor"),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _CHILD],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                process_group=0,  # not a new session: Linux would then give it a share of its own
            )
        assert self._process.stdin is not None
        pickle.dump(job, self._process.stdin)
        self._process.stdin.flush()

    @property
    def is_done(self) -> bool:
        return self._process.poll() is not None

    @property
    def failed(self) -> bool:
        return self.is_done and not self.job.path.exists()

    def wait(self) -> None:
        self._process.wait()

    def cancel(self) -> None:
        if not self.is_done:
            os.killpg(self._process.pid, signal.SIGKILL)  # it, and the compiler it runs
        self.wait()
        if self._process.stdin:
            self._process.stdin.close()


def child_main() -> None:
    """Compile the job on standard input; leave at once when the parent is gone."""
    os.nice(_NICE)
    job: LayerJob = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_die_at_end_of_input, daemon=True).start()
    torch.set_num_threads(job.threads)  # Inductor bakes the number into its loops
    unfinished = job.path.with_suffix(f".{os.getpid()}.pt2")
    try:
        compile_driver(job.kernels)
        compile_layer(job.spec, job.window, job.dtype, job.weights, job.block_size, unfinished)
        os.replace(unfinished, job.path)
    finally:
        unfinished.unlink(missing_ok=True)
    sys.stdout.flush()
    os._exit(0)  # the reading thread would hold up an ordinary exit


def _die_at_end_of_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)
