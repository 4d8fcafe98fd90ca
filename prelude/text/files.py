"""What a Hugging Face folder says about its text side, read without transformers."""

import json
from pathlib import Path
from typing import Any

SPECIAL_TOKEN_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``, empty if there is no such file. Raises ``ValueError`` if broken."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return value


def special_tokens(config: dict[str, Any], fallback: dict[str, Any]) -> dict[str, str]:
    """Named special tokens, from tokenizer_config.json or else special_tokens_map.json."""
    found = {}
    for name in SPECIAL_TOKEN_NAMES:
        value = config[name] if config.get(name) is not None else fallback.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[name] = text
    return found


def chat_templates(
    folder: Path, config: dict[str, Any], override: Path | None = None
) -> dict[str, str]:
    """Template sources by name ("default", "tool_use", ...): the ``override`` file alone, or
    chat_template.jinja and additional_chat_templates/, or the key in tokenizer_config.json."""
    if override is not None:
        if not override.is_file():
            raise ValueError(f"the chat template {override} does not exist")
        return {"default": override.read_text(encoding="utf-8")}
    files = {"default": folder / "chat_template.jinja"}
    files |= {p.stem: p for p in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    found = {name: p.read_text(encoding="utf-8") for name, p in files.items() if p.is_file()}
    if found:
        return found
    value = read_json(folder / "chat_template.json").get("chat_template")
    value = value if value is not None else config.get("chat_template")
    if isinstance(value, list):
        return {entry["name"]: entry["template"] for entry in value}
    if isinstance(value, dict):
        return dict(value)
    return {"default": value} if isinstance(value, str) else {}


def eos_token_ids(folder: Path) -> list[int]:
    """End-of-text ids that generation_config.json and config.json name; either may give several."""
    ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder / name).get("eos_token_id")
        ids += [value] if isinstance(value, int) else value or []
    return ids
