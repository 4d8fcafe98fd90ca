#!/bin/sh
# The first run on an H200 machine without network, in one command of less than ten minutes:
#   sh benchmarks/h200.sh --out "$OUT"
# Takes the wheels of benchmarks/h200_wheels.sh from .whl/. FlashInfer compiles its modules below
# .gpu/ on first use (minutes); where benchmarks/flashinfer_wheel.py has put them into .whl/ nothing
# is compiled, and a module that is missing is an error instead of a wait.
set -eu

cd "$(dirname "$0")/.."
mkdir -p .gpu
python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target .gpu/site .whl/*.whl
PYTHONPATH="$PWD/.gpu/site:$PWD"
FLASHINFER_WORKSPACE_BASE="$PWD/.gpu"
export PYTHONPATH FLASHINFER_WORKSPACE_BASE
if ls .whl/flashinfer_jit_cache-* > /dev/null 2>&1; then
    export FLASHINFER_DISABLE_JIT=1
fi
exec python3 -m benchmarks.h200 "$@"
