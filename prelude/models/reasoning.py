"""Where a model's reasoning ends: the token that its tokenizer has for it, if it has one."""

from pathlib import Path

import msgspec

_END = "</think>"


class _Token(msgspec.Struct):
    id: int
    content: str


class _Tokenizer(msgspec.Struct):
    """What is read of tokenizer.json; the vocabulary is skipped, which takes no time."""

    added_tokens: list[_Token] = []


def read_answer_id(folder: Path) -> int | None:
    """The id of the token after which the answer begins; None where the model has no such token,
    or no tokenizer.json. Raises ``ValueError`` if that is malformed."""
    path = folder / "tokenizer.json"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Tokenizer)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: {error}") from error
    return next((token.id for token in found.added_tokens if token.content == _END), None)
