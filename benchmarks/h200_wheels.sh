#!/bin/sh
# What an H200 machine without network needs besides its PyTorch image, into .whl/ (15 MB):
# sh benchmarks/h200_wheels.sh
# Carry that folder along and run benchmarks/h200.sh there. Wheels are for CPython 3.12 on x86-64.
# `python -m benchmarks.flashinfer_wheel .whl` adds compiled attention kernels.
# Packages the image has (torch, triton, transformers, pytest, httpx, uvloop, ...) are left out, and
# so are FlashInfer's declared dependencies that it never imports.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
pip="${PYTHON:-$here/.venv/bin/python} -m pip --disable-pip-version-check"
mkdir -p "$here/.whl"
$pip wheel --quiet --no-deps -w "$here/.whl" antlr4-python3-runtime==4.9.3
$pip download --quiet --no-deps --only-binary :all: --python-version 3.12 \
    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
    -c "$here/constraints.txt" -d "$here/.whl" \
    hydra-core omegaconf msgspec pyzmq starlette uvicorn httptools pytest-asyncio \
    flashinfer-python==0.6.9 apache-tvm-ffi==0.1.15.post2
ls -l "$here/.whl"
