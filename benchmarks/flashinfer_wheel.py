"""Compiles FlashInfer's attention kernels where there is no GPU, into a wheel to carry along.

    python -m benchmarks.flashinfer_wheel .whl                  fa2, bfloat16, head dimension 128
    python -m benchmarks.flashinfer_wheel .whl --module fa3 --module fa2_window --head-dim 64

Needs FlashInfer, ninja, g++ and nvcc (with CUDA_HOME where that is not two folders up from it). On
two cores fa2 takes about ten minutes and fa3 half an hour; a machine with the wheel then starts
without compiling, on any Python. FlashInfer finds the modules through the package
``flashinfer_jit_cache`` that the wheel holds.
"""

import argparse
import os
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGE = "flashinfer_jit_cache"
MODULES = ("fa2", "fa2_window", "fa3", "fa3_window", "decode", "decode_window")
_INIT = """__version__ = "{version}"


def get_jit_cache_dir() -> str:
    from pathlib import Path

    return str(Path(__file__).parent / "modules")
"""
_METADATA = "Metadata-Version: 2.1\nName: flashinfer-jit-cache\nVersion: {version}\n"
_WHEEL = "Wheel-Version: 1.0\nGenerator: prelude\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def spec_of(module: str, dtype: Any, head_dim: int) -> Any:
    """FlashInfer's description of a module: what is compiled, and the name it is looked up by."""
    import torch
    from flashinfer.jit import gen_batch_decode_module, gen_batch_prefill_module

    kind, _, window = module.partition("_")
    types, dims = (dtype, dtype, dtype, torch.int32), (head_dim, head_dim, 0)
    if kind == "decode":
        return gen_batch_decode_module(*types, *dims, bool(window), False)
    return gen_batch_prefill_module(kind, *types, *dims, bool(window), False, False)


def write_wheel(folder: Path, version: str, libraries: Mapping[str, Path]) -> Path:
    """A wheel of ``libraries`` by FlashInfer's names for them."""
    info = f"{PACKAGE}-{version}.dist-info"
    texts = {
        f"{PACKAGE}/__init__.py": _INIT.format(version=version),
        f"{info}/METADATA": _METADATA.format(version=version),
        f"{info}/WHEEL": _WHEEL,
    }
    names = [f"{PACKAGE}/modules/{name}/{name}.so" for name in libraries]
    record = "".join(f"{name},,\n" for name in (*texts, *names, f"{info}/RECORD"))
    target = folder / f"{PACKAGE}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, text in {**texts, f"{info}/RECORD": record}.items():
            wheel.writestr(name, text)
        for name, library in zip(names, libraries.values(), strict=True):
            wheel.write(library, name)
    return target


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="where the wheel goes")
    parser.add_argument("--module", action="append", choices=MODULES, help="default: fa2")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16"))
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--arch", default="9.0a", help="compute capability; default: Hopper's")
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    build = (folder / "build").resolve()
    _prepare(build, options.arch)
    import flashinfer
    import torch

    libraries = {}
    for module in options.module or ["fa2"]:
        spec = spec_of(module, getattr(torch, options.dtype), options.head_dim)
        spec.build(verbose=False)
        libraries[spec.name] = spec.jit_library_path
        print(spec.name, flush=True)
    print(write_wheel(folder, flashinfer.__version__, libraries))


def _prepare(build: Path, arch: str) -> None:
    """Compilation without a driver: modules are linked against an empty libcuda."""
    stubs = build / "stubs"
    stubs.mkdir(parents=True, exist_ok=True)
    options = ["-shared", "-x", "c", "/dev/null", "-Wl,-soname,libcuda.so.1"]
    subprocess.run(["gcc", *options, "-o", str(stubs / "libcuda.so")], check=True)
    os.environ["FLASHINFER_WORKSPACE_BASE"] = str(build)
    os.environ["FLASHINFER_CUDA_ARCH_LIST"] = arch
    os.environ["FLASHINFER_EXTRA_LDFLAGS"] = f"-L{stubs}"


if __name__ == "__main__":
    main()
