"""Which checkpoints' embeddings are those of the last token."""

import json
from pathlib import Path
from typing import Any

import pytest

from prelude.models.pooling import check_pooling

ST = "sentence_transformers.models."


def write(folder: Path, pooling: dict[str, Any], *others: str) -> None:
    names = ["Transformer", "Pooling", *others]
    modules = [{"idx": n, "type": ST + name, "path": f"{n}_{name}"} for n, name in enumerate(names)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def test_a_checkpoint_that_says_nothing_is_taken(tmp_path: Path) -> None:
    check_pooling(tmp_path)


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False, "include_prompt": True},
        {"pooling_mode": "lasttoken", "word_embedding_dimension": 64},
    ],
)
def test_last_tokens_are_supported(pooling: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, pooling, "Normalize")
    check_pooling(tmp_path)


@pytest.mark.parametrize(
    ("pooling", "others", "named"),
    [
        ({"pooling_mode_mean_tokens": True}, (), "mean_tokens"),
        ({"pooling_mode": "cls"}, (), "cls"),
        ({"pooling_mode_lasttoken": True, "include_prompt": False}, (), "prompt"),
        ({"pooling_mode_lasttoken": True}, ("Dense",), "Dense"),
    ],
)
def test_anything_else_is_named(
    pooling: dict[str, Any], others: tuple[str, ...], named: str, tmp_path: Path
) -> None:
    write(tmp_path, pooling, *others)
    with pytest.raises(ValueError, match=named):
        check_pooling(tmp_path)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text('{"no": "list"}')
    with pytest.raises(ValueError, match=r"modules\.json"):
        check_pooling(tmp_path)
