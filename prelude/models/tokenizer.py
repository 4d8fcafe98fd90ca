"""The tokenizer of a model as configured. No torch: the server process loads it too."""

from pathlib import Path

from prelude.conf.schema import ModelConfig
from prelude.models.paths import tokenizer_folder
from prelude.text.tokenizer import Tokenizer


def load_tokenizer(model: ModelConfig) -> Tokenizer:
    """The tokenizer that ``model`` names, by default the checkpoint's own, with its chat template
    replaced if one is configured. Raises ``ValueError`` that says what is missing."""
    template = Path(model.chat_template).expanduser() if model.chat_template else None
    return Tokenizer.load(tokenizer_folder(model), chat_template=template)
