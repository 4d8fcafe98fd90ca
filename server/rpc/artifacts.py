"""The tokenizer's files in one piece, for routers that tokenize themselves."""

import io
import zipfile

from prelude.conf.schema import ModelConfig
from prelude.models.paths import tokenizer_folder

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip knows: the same files are the same bytes


def zipped_tokenizer(model: ModelConfig) -> bytes:
    """A zip of those files that are there. Raises ``ValueError`` if there is no tokenizer."""
    folder = tokenizer_folder(model)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _FILES:
            if (folder / name).is_file():
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), (folder / name).read_bytes())
    return buffer.getvalue()
