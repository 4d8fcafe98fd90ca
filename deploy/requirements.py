"""Print what a build of Prelude with the extras named as arguments requires, apart from PyTorch;
run beside ``pyproject.toml``."""

import sys
import tomllib
from pathlib import Path


def requirements(project: Path, extras: list[str]) -> list[str]:
    table = tomllib.loads(project.read_text())["project"]
    named = [line for extra in extras for line in table["optional-dependencies"][extra]]
    return [line for line in table["dependencies"] + named if not line.startswith("torch")]


if __name__ == "__main__":
    print(*requirements(Path("pyproject.toml"), sys.argv[1:]), sep="\n")
