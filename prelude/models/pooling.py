"""How a checkpoint makes embeddings, as sentence-transformers' files say it."""

from pathlib import Path

import msgspec

from prelude.text.files import read_json

_MODE = "pooling_mode_"
_KNOWN = ("Transformer", "Pooling", "Normalize")


class _Module(msgspec.Struct):
    type: str
    path: str = ""


def check_pooling(folder: Path) -> None:
    """Embeddings here are the last token's hidden state behind the final norm. Raises
    ``ValueError`` naming what a checkpoint does instead; one that says nothing is not refused."""
    for module in _modules(folder / "modules.json"):
        name = module.type.rpartition(".")[2]
        if name not in _KNOWN:
            raise ValueError(f"embeddings of this checkpoint need {name}, which is not supported")
        if name == "Pooling":
            _check(folder / module.path / "config.json")


def _modules(path: Path) -> list[_Module]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[_Module])
    except FileNotFoundError:
        return []
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: {error}") from error


def _check(path: Path) -> None:
    config = read_json(path)
    modes = [name.removeprefix(_MODE) for name in config if name.startswith(_MODE)]
    wanted = [mode for mode in modes if config[_MODE + mode] is True]
    if isinstance(said := config.get("pooling_mode"), str):
        wanted.append(said)
    if any(mode != "lasttoken" for mode in wanted):
        raise ValueError(
            f"this checkpoint pools embeddings by {' and '.join(wanted)}, which is not supported; "
            "lasttoken is"
        )
    if config.get("include_prompt") is False:
        raise ValueError("this checkpoint pools without the prompt, which is not supported")
