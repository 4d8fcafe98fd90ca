#!/bin/sh
# llama.cpp in an environment of its own: sh benchmarks/peers/install_llamacpp.sh FOLDER
# Built from the source package for this machine's processor; needs cmake and a C++ compiler and
# takes about six minutes on two cores.
set -eu

folder=${1:?usage: install_llamacpp.sh FOLDER}
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --no-binary llama-cpp-python llama-cpp-python==0.3.36
"$folder/bin/python" -c "import llama_cpp; print('llama-cpp-python', llama_cpp.__version__)"
