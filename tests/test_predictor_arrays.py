"""Arrays in a file: whole, checked, or not there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from prelude.batcher.arrays import read_arrays, write_arrays

ARRAYS: dict[str, NDArray[Any]] = {
    "a": np.arange(6.0, dtype=np.float32).reshape(2, 3),
    "b": np.array([7], np.int64),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "arrays.npz"
    write_arrays(path, 3, ARRAYS)
    return path


def test_what_is_written_is_read(path: Path) -> None:
    found = read_arrays(path, 3, ARRAYS)
    assert found.keys() == ARRAYS.keys()
    assert all((found[name] == ARRAYS[name]).all() for name in ARRAYS)
    assert all(found[name].dtype == ARRAYS[name].dtype for name in ARRAYS)


def test_a_new_file_takes_the_old_ones_place_and_nothing_is_left_over(path: Path) -> None:
    write_arrays(path, 4, ARRAYS | {"b": np.array([8], np.int64)})
    assert read_arrays(path, 4, ARRAYS)["b"].tolist() == [8]
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space left"):
        write_arrays(path, 4, ARRAYS)
    assert read_arrays(path, 3, ARRAYS)["b"].tolist() == [7]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"a": np.zeros((3, 2), np.float32)}, "a has another shape or type"),
        ({"a": np.zeros((2, 3), np.float64)}, "a has another shape or type"),
        ({"a": np.full((2, 3), np.nan, np.float32)}, "a is not finite"),
        ({"b": np.array(["x"], object)}, "damaged|another shape|pickle"),
        ({"c": np.zeros(100_000)}, "too large"),
    ],
)
def test_other_arrays_are_refused(
    path: Path, changed: dict[str, NDArray[Any]], message: str
) -> None:
    if changed.get("b", ARRAYS["b"]).dtype == object:
        np.savez(path, version=np.array(3), a=ARRAYS["a"], b=changed["b"])
    else:
        write_arrays(path, 3, ARRAYS | changed)
    with pytest.raises(ValueError, match=message):
        read_arrays(path, 3, ARRAYS)


def test_a_missing_array_and_another_version_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="another version than 4"):
        read_arrays(path, 4, ARRAYS)
    with pytest.raises(ValueError, match="damaged"):
        read_arrays(path, 3, ARRAYS | {"z": np.zeros(1)})


@pytest.mark.parametrize("length", [0, 1, 30, 300])
def test_a_file_cut_short_is_refused(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError):
        read_arrays(path, 3, ARRAYS)


def test_no_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "none.npz", 3, ARRAYS)
