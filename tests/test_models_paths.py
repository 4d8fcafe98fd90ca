"""From a name to a folder, or an error that lists what there is."""

import os
from pathlib import Path

import pytest

from prelude.models.paths import BUNDLED, resolve_model_path


def checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(path: str) -> str:
    with pytest.raises(ValueError) as caught:
        resolve_model_path(path)
    text = str(caught.value)
    assert text.startswith(f"model.path={path}: ") and "\n" not in text
    return text


@pytest.mark.parametrize("name", sorted(BUNDLED))
def test_bundled_models_are_in_the_package(name: str) -> None:
    folder = resolve_model_path(name)
    assert folder.parent.name == "prelude"
    assert (folder / "config.json").is_file()


def test_a_folder(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "some model")
    assert resolve_model_path(str(folder)) == folder


def test_a_relative_folder(inside: Path) -> None:
    checkpoint(inside / "mine")
    assert resolve_model_path("mine") == Path("mine")
    assert resolve_model_path("./mine/") == Path("mine")


def test_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HOME", str(tmp_path))
    folder = checkpoint(tmp_path / "m")
    assert resolve_model_path("~/m") == folder


def test_a_bundled_name_wins_over_a_folder_of_that_name(inside: Path) -> None:
    checkpoint(inside / "demo")
    assert resolve_model_path("demo").parent.name == "prelude"
    assert resolve_model_path("./demo") == Path("demo")


def test_nothing_there_names_the_bundled_models(inside: Path) -> None:
    assert "no such folder, and the bundled models are: demo" in refusal("missing")


def test_a_hub_name_says_how_to_fetch_it(inside: Path) -> None:
    text = refusal("Qwen/Qwen3-0.6B")
    assert "hf download Qwen/Qwen3-0.6B --local-dir Qwen/Qwen3-0.6B" in text


def test_a_local_path_is_not_taken_for_a_hub_name(inside: Path) -> None:
    assert "hf download" not in refusal("./Qwen3")
    assert "hf download" not in refusal("/a/b")
    assert "hf download" not in refusal("a/b/c")


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    assert "this is a file; pass the folder" in refusal(str(path))


def test_a_folder_without_config_lists_the_checkpoints_inside(tmp_path: Path) -> None:
    for name in ("b", "a"):
        checkpoint(tmp_path / name)
    text = refusal(str(tmp_path))
    assert "has no config.json" in text
    assert f"There are: {tmp_path / 'a'}, {tmp_path / 'b'}" in text


def test_a_mistyped_folder_lists_its_neighbours(tmp_path: Path) -> None:
    checkpoint(tmp_path / "qwen3")
    assert f"There are: {tmp_path / 'qwen3'}" in refusal(str(tmp_path / "qwem3"))
