"""Builds the planning half of FlashInfer's own modules, and a CUDA runtime for it to believe in.

A module takes minutes to compile because of its kernels; its planner takes 20 seconds. The kernels'
launchers are replaced by functions that return at once.

    python -m tests.flashinfer_planners FOLDER [MODULE ...]
"""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import torch

from benchmarks.flashinfer_wheel import spec_of

HEAD_DIM, DTYPE = 64, torch.float16
MODULES = ("fa2", "fa2_window", "fa3", "decode", "decode_window")
_RUNTIME = "libcudart.so.13"


def build_runtime(folder: Path) -> Path:
    """The fake CUDA runtime; loaded into the process before any module."""
    target, versions = folder / _RUNTIME, folder / "versions.map"
    versions.write_text(f"{_RUNTIME} {{ global: *; }};\n")
    source = Path(__file__).with_name("fake_cudart.c")
    options = f"-shared -fPIC -O1 -w -Wl,-soname,{_RUNTIME} -Wl,--version-script={versions}"
    subprocess.run(["gcc", *options.split(), str(source), "-o", str(target)], check=True)
    return target


def build_planner(module: str, folder: Path) -> Path:
    """The library of ``module`` where FlashInfer looks for prebuilt ones in ``folder``."""
    spec = spec_of(module, DTYPE, HEAD_DIM)
    target: Path = folder / spec.name / f"{spec.name}.so"
    if target.exists():
        return target
    target.parent.mkdir(exist_ok=True)
    spec.jit_library_path.parent.mkdir(parents=True, exist_ok=True)
    objects = [_compile(command, target.parent) for command in _host_sources(spec, module)]
    _link(objects, folder / _RUNTIME, target)
    return target


def _host_sources(spec: Any, module: str) -> list[dict[str, str]]:
    commands: list[dict[str, str]] = spec.get_compile_commands()
    return [c for c in commands if module.startswith("decode") or "kernel" not in _name(c)]


def _name(command: dict[str, str]) -> str:
    return Path(command["file"]).name


def _compile(command: dict[str, str], folder: Path) -> str:
    target = folder / f"{_name(command)}.o"
    headers = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "include")
    line = re.sub(r" -o \S+", f" -I{headers} -o {target}", command["command"])
    subprocess.run(line, shell=True, check=True, cwd=folder, capture_output=True)
    return str(target)


def _link(objects: list[str], runtime: Path, target: Path) -> None:
    listing = subprocess.run(["nm", "-u", *objects], capture_output=True, text=True, check=True)
    launchers = sorted({n for n in listing.stdout.split() if "Dispatched" in n})
    code = "".join(f".globl {name}\n{name}:\n xorl %eax, %eax\n ret\n" for name in launchers)
    stubs = target.with_suffix(".s")
    stubs.write_text(f'.text\n{code}.section .note.GNU-stack,"",@progbits\n')
    command = ["g++", "-shared", "-fPIC", *objects, str(stubs), str(runtime), "-o", str(target)]
    subprocess.run(command, check=True)


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["FLASHINFER_WORKSPACE_BASE"] = str(folder)
    os.environ["FLASHINFER_CUDA_ARCH_LIST"] = "9.0a"
    build_runtime(folder)
    for module in sys.argv[2:] or MODULES:
        print(build_planner(module, folder), flush=True)


if __name__ == "__main__":
    main()
