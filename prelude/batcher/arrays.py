"""Named arrays in a file that appears whole or not at all, and is read with suspicion."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

_VERSION = "version"
_SLACK_BYTES = 4096  # of the container, on top of the arrays


def write_arrays(path: Path, version: int, arrays: Arrays) -> None:
    """Raises ``OSError``; what was there before is then untouched."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with unfinished.open("wb") as file:
            np.savez(file, allow_pickle=False, **{_VERSION: np.array(version)}, **arrays)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_arrays(path: Path, version: int, like: Arrays) -> dict[str, NDArray[Any]]:
    """Arrays of the names, shapes and types of ``like``, all of them finite. Raises ``ValueError``
    for anything else, and ``OSError``."""
    if path.stat().st_size > sum(array.nbytes for array in like.values()) + _SLACK_BYTES:
        raise ValueError("it is too large")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            if kept[_VERSION].tolist() != version:
                raise ValueError(f"it has another version than {version}")
            found = {name: kept[name] for name in like}
    except (BadZipFile, EOFError, KeyError, TypeError) as error:
        raise ValueError(f"it is damaged ({error})") from None
    for name, array in found.items():
        _check(name, array, like[name])
    return found


def _check(name: str, found: NDArray[Any], like: NDArray[Any]) -> None:
    if found.shape != like.shape or found.dtype != like.dtype:
        raise ValueError(f"{name} has another shape or type")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} is not finite")
