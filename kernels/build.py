"""Compiling a C++ kernel at first use, and loading it beside torch.

A few seconds once per source, compiler, CPU and torch; the result is kept in a cache folder that
several processes may share. The library must use the OpenMP runtime torch has loaded: a second one
would keep a second set of threads spinning on the same cores.
"""

import ctypes
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch

_LOG = logging.getLogger(__name__)
_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = ("-std=c++20", "-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC")
_TORCH = Path(torch.__file__).parent


class CompileError(RuntimeError):
    """No compiler, or it refused the source; the message says what to install."""


def default_cache_dir() -> Path:
    """Where what is compiled is kept unless the user names a folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "prelude"


def compiled(name: str, cache_dir: Path | None = None) -> ctypes.CDLL:
    """``cpu/<name>.cpp``, compiled if need be into ``cache_dir``, and loaded. Raises
    ``CompileError``."""
    return load_library(_compile(name, cache_dir))


def compile_together(names: Sequence[str], cache_dir: Path | None = None) -> None:
    """So that ``compiled`` finds them, each by a compiler of its own at the same time. One that
    does not compile is left for ``compiled`` to say so."""

    def compile_one(name: str) -> None:
        with suppress(CompileError):
            _compile(name, cache_dir)

    with ThreadPoolExecutor() as pool:
        list(pool.map(compile_one, names))


def _compile(name: str, cache_dir: Path | None) -> Path:
    source = Path(__file__).parent / "cpu" / f"{name}.cpp"
    return compile_library(source, cache_dir or default_cache_dir() / "kernels")


def compile_library(source: Path, cache_dir: Path) -> Path:
    """Shared library of one C++ file for this very CPU, compiled unless ``cache_dir`` has it.

    Headers are those beside the source.

    Safe against other processes doing the same: the file appears by an atomic rename. Raises
    ``CompileError``.
    """
    compiler = _find_compiler()
    target = cache_dir / f"{source.stem}-{_key(source, compiler)}.so"
    if target.exists():
        return target
    cache_dir.mkdir(parents=True, exist_ok=True)
    _LOG.info("compiling %s with %s", source.name, compiler)
    with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
        object_file, library = Path(folder, "kernel.o"), Path(folder, "kernel.so")
        include = f"-isystem{_TORCH / 'include'}"
        _run([compiler, *_FLAGS, include, "-c", str(source), "-o", str(object_file)])
        # Linked without -fopenmp and -ffast-math: the one would bring a second OpenMP runtime, the
        # other start-up code that makes the whole process flush denormal numbers to zero.
        _run([compiler, "-shared", str(object_file), *_torch_library(), "-o", str(library)])
        library.replace(target)
    return target


def _torch_library() -> list[str]:
    """What makes torch's symbols known. On Linux its library by name, which is already loaded
    where ours will be."""
    if platform.system() == "Darwin":
        return ["-undefined", "dynamic_lookup"]
    return ["-Wl,--as-needed", str(_TORCH / "lib" / "libtorch_cpu.so")]


def load_library(path: Path) -> ctypes.CDLL:
    """Load a compiled kernel; its OpenMP symbols resolve to the runtime that torch loaded."""
    for runtime in openmp_runtimes():
        ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)
    try:
        return ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    except OSError as error:
        raise CompileError(f"{path}: compiled, but does not load: {error}") from error


def openmp_runtimes() -> list[str]:
    """Paths of the OpenMP libraries mapped into this process (none where /proc is missing)."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    files = (line.split(maxsplit=5)[5] for line in lines if line.count("/"))
    return sorted({f for f in files if re.match(r"lib[gi]?omp\d*[-.]", Path(f).name)})


def _find_compiler() -> str:
    for name in _COMPILERS:
        if path := shutil.which(name):
            return path
    raise CompileError(f"no C++ compiler found (looked for {', '.join(_COMPILERS)}); install g++")


def _key(source: Path, compiler: str) -> str:
    version = _run([compiler, "--version"])
    digest = hashlib.sha256(source.read_bytes())
    for header in sorted(source.parent.glob("*.h")):
        digest.update(header.read_bytes())
    known = [version, *_FLAGS, cpu_flags(), torch.__version__]
    digest.update("\n".join(known).encode())
    return digest.hexdigest()[:16]


def cpu_flags() -> str:
    """What this CPU can do, in the system's words: code made for one set runs on the same."""
    cpuinfo = Path("/proc/cpuinfo")
    found = (
        re.search(r"^(flags|Features)\s*:.*$", cpuinfo.read_text(), re.MULTILINE)
        if (cpuinfo.exists())
        else None
    )
    return found.group(0) if found else f"{platform.machine()} {platform.processor()}"


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(f"{' '.join(command)} failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout
