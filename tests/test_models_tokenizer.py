"""Which tokenizer a configuration means."""

from pathlib import Path

import pytest

from prelude.conf.schema import ModelConfig
from prelude.models.paths import tokenizer_folder
from prelude.models.tokenizer import load_tokenizer
from tests.text_samples import byte_level_folder


def test_the_models_own_or_another(tmp_path: Path) -> None:
    folder = str(byte_level_folder())
    assert load_tokenizer(ModelConfig(path=folder)).has_chat_template
    assert load_tokenizer(ModelConfig(path="/nonexistent", tokenizer=folder)).has_chat_template
    template = tmp_path / "own.jinja"
    template.write_text("own")
    own = load_tokenizer(ModelConfig(path=folder, chat_template=str(template)))
    assert own.render_chat([{"role": "user", "content": "x"}]) == "own"


def test_bundled_names_are_known() -> None:
    bundled = tokenizer_folder(ModelConfig(path="demo"))
    assert bundled.parent.name == "prelude"
    assert tokenizer_folder(ModelConfig(path="/nonexistent", tokenizer="demo")) == bundled


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.path=/nonexistent"):
        load_tokenizer(ModelConfig(path="/nonexistent"))
    with pytest.raises(ValueError, match=r"model\.tokenizer=/nonexistent"):
        load_tokenizer(ModelConfig(path="demo", tokenizer="/nonexistent"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        load_tokenizer(ModelConfig(path=str(tmp_path)))
