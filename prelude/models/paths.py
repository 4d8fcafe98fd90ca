"""From what a user calls a model to the folder that holds it. No torch, no network."""

from importlib.resources import files
from pathlib import Path

from prelude.conf.schema import ModelConfig

# Name to folder inside the package.
BUNDLED = {"demo": "demo"}


def resolve_model_path(path: str) -> Path:
    """The folder of a checkpoint: a bundled name (``demo``), or a folder with ``config.json``.

    A bundled name wins over a folder of that name; write ``./demo`` for the folder. Raises
    ``ValueError`` that says what exists instead.
    """
    if path in BUNDLED:
        return Path(str(files("prelude"))) / BUNDLED[path]
    folder = Path(path).expanduser()
    if (folder / "config.json").is_file():
        return folder
    raise ValueError(f"model.path={path}: {_reason(folder)}{_neighbours(folder)}")


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


def _reason(folder: Path) -> str:
    bundled = ", ".join(BUNDLED)
    if folder.is_dir():
        return "this folder has no config.json, so it is no Hugging Face checkpoint"
    if folder.exists():
        return "this is a file; pass the folder of a Hugging Face checkpoint"
    hint = f"no such folder, and the bundled models are: {bundled}"
    parts = folder.parts
    if len(parts) == 2 and not folder.is_absolute() and parts[0] not in (".", "..", "~"):
        name = "/".join(parts)
        hint += (
            f". Models are not downloaded; fetch it first: hf download {name} --local-dir {name}"
        )
    return hint


def _neighbours(folder: Path) -> str:
    """The checkpoints inside ``folder`` or beside it, where somebody pointed one level off."""
    base = folder if folder.is_dir() else folder.parent
    if not base.is_dir():
        return ""
    found = sorted(str(path.parent) for path in base.glob("*/config.json"))[:8]
    return f". There are: {', '.join(found)}" if found else ""
