"""Compiling in a niced child process, so that a serving engine never waits for a compiler."""

import logging
import multiprocessing as mp
import os
import shutil
import threading
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from prelude.models.spec import ModelSpec

logger = logging.getLogger(__name__)

_NICE = 15


def has_cpp_compiler() -> bool:
    """True if Inductor would find a C++ compiler: $CXX, g++ or clang++."""
    return any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++"))))


class CompileJob:
    """One package being compiled by a child process. It appears at ``path`` whole or not at all."""

    def __init__(
        self,
        spec: ModelSpec,
        window: int,
        dtype: torch.dtype,
        block_size: int,
        threads: int,
        path: Path,
    ) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._process: BaseProcess = mp.get_context("spawn").Process(
            target=_compile, args=(spec, window, dtype, block_size, threads, path), daemon=True
        )
        self._process.start()

    @property
    def is_done(self) -> bool:
        return not self._process.is_alive()

    @property
    def failed(self) -> bool:
        return self.is_done and not self.path.exists()

    def join(self) -> None:
        self._process.join()

    def cancel(self) -> None:
        if self._process.is_alive():
            self._process.kill()
        self._process.join()


def _compile(
    spec: ModelSpec, window: int, dtype: torch.dtype, block_size: int, threads: int, path: Path
) -> None:
    os.nice(_NICE)
    _die_with_parent()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(path.parent / "inductor")
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    from prelude.graphs.layer_program import compile_layer

    torch.set_num_threads(threads)  # Inductor bakes the number into its loops
    unfinished = path.with_suffix(f".{os.getpid()}.pt2")
    try:
        compile_layer(spec, window, dtype, block_size, unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _die_with_parent() -> None:
    parent = mp.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
