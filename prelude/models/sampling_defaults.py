"""What a request gets for sampling fields it leaves out, in the server and in the Python API."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prelude.conf.schema import SamplingConfig
from prelude.models.generation_config import read_generation_defaults
from prelude.types.request import SamplingParams

DEFAULTED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """The configuration's value, else that of the checkpoint's generation_config.json; fields that
    neither sets are absent, and the API's own default counts."""

    values: Mapping[str, float | int]
    max_tokens: int | None

    @classmethod
    def load(cls, config: SamplingConfig, model_folder: Path) -> "SamplingDefaults":
        """Raises ``ValueError`` if generation_config.json is malformed."""
        values = read_generation_defaults(model_folder)
        for name in DEFAULTED:
            stated = getattr(config, name)
            if stated is not None:
                values[name] = stated
        return cls(values, config.max_tokens)

    def params(self) -> SamplingParams:
        """The parameters of a request that says nothing."""
        return SamplingParams(max_tokens=self.max_tokens, **self.values)  # type: ignore[arg-type]
