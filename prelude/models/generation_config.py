"""What a checkpoint's authors recommend for sampling, and where its generations end."""

from pathlib import Path

from prelude.models.spec import read_config, token_ids
from prelude.text.files import read_json

_FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty")


def read_generation_defaults(folder: Path) -> dict[str, float | int]:
    """The sampling fields that generation_config.json sets: temperature, top_p, min_p,
    repetition_penalty, top_k. ``do_sample: false`` means temperature 0. Empty without the file.
    Raises ``ValueError`` naming a bad field."""
    config = read_json(folder / "generation_config.json")
    defaults: dict[str, float | int] = {}
    for name in (*_FLOATS, "top_k"):
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{folder}/generation_config.json: {name} must be a number")
        # -1 is how some authors write "off", which is 0 here.
        defaults[name] = max(int(value), 0) if name == "top_k" else float(value)
    if config.get("do_sample") is False:
        defaults["temperature"] = 0.0
    return defaults


def read_eos_ids(folder: Path) -> tuple[int, ...]:
    """Tokens that end a generation: those of generation_config.json, then those of config.json,
    each once. Raises ``ValueError`` if either is malformed."""
    generation = token_ids(read_json(folder / "generation_config.json"), "eos_token_id")
    return tuple(dict.fromkeys(generation + token_ids(read_config(folder), "eos_token_id")))
