"""Random weights of a named shape, written once by transformers, so that every engine reads the
same file. Run as ``python -m benchmarks.peers.checkpoint SHAPE FOLDER``."""

import argparse
import json
import shutil
from hashlib import blake2b
from pathlib import Path
from typing import Any

from prelude.conf.load import load_config

# Wide enough that the best and the second best token differ clearly.
INITIALIZER_RANGE = 0.3


def shape_of(name: str) -> dict[str, Any]:
    """The Hugging Face configuration of ``model=NAME``. Raises ``ValueError``."""
    shape = dict(load_config([f"model={name}"]).model.hf_config)
    if not shape:
        raise ValueError(f"--shape {name}: has no random shape; try qwen3_0_6b or tiny")
    return shape | {"initializer_range": INITIALIZER_RANGE, "eos_token_id": None}


def checkpoint(name: str, cache: Path, seed: int = 0) -> Path:
    """The folder of the shape's checkpoint below ``cache``; written if it is not there."""
    shape = shape_of(name)
    digest = blake2b(json.dumps([shape, seed], sort_keys=True).encode(), digest_size=6).hexdigest()
    folder = cache / f"{name}-{digest}"
    if (folder / "config.json").exists():
        return folder
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    _write(shape, seed, unfinished)
    unfinished.rename(folder)
    return folder


def _write(shape: dict[str, Any], seed: int, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(**{k: v for k, v in shape.items() if k != "architectures"})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape")
    parser.add_argument("cache", type=Path)
    args = parser.parse_args()
    print(checkpoint(args.shape, args.cache))


if __name__ == "__main__":
    main()
