"""The tokenizer of a model as configured. No torch: the server process loads it too."""

from pathlib import Path

from prelude.conf.schema import ModelConfig
from prelude.models.paths import BUNDLED, resolve_model_path
from prelude.text.tokenizer import Tokenizer


def load_tokenizer(model: ModelConfig) -> Tokenizer:
    """The tokenizer that ``model`` names, by default the checkpoint's own, with its chat template
    replaced if one is configured. Raises ``ValueError`` that says what is missing."""
    template = Path(model.chat_template).expanduser() if model.chat_template else None
    return Tokenizer.load(tokenizer_folder(model), chat_template=template)


def tokenizer_folder(model: ModelConfig) -> Path:
    """Where the tokenizer's files are: it needs a tokenizer.json, but no config.json beside it."""
    if model.tokenizer is None:
        folder = Path(model.path).expanduser()
        is_tokenizer = model.path not in BUNDLED and (folder / "tokenizer.json").is_file()
        return folder if is_tokenizer else resolve_model_path(model.path)
    if model.tokenizer in BUNDLED:
        return resolve_model_path(model.tokenizer)
    folder = Path(model.tokenizer).expanduser()
    if (folder / "tokenizer.json").is_file():
        return folder
    raise ValueError(f"model.tokenizer={model.tokenizer}: no such folder with a tokenizer.json")
