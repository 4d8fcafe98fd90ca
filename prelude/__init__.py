"""Prelude: a compiled-graph LLM inference engine. Importing it loads neither torch nor Hydra."""

from typing import TYPE_CHECKING, Any

from prelude.openmp import share_cores
from prelude.types.request import SamplingParams
from prelude.types.service import Hints

if TYPE_CHECKING:
    from prelude.llm import LLM

__version__ = "0.1.0"
__all__ = ["LLM", "Hints", "SamplingParams", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "LLM":
        share_cores()  # before torch is loaded
        from prelude.llm import LLM

        return LLM
    raise AttributeError(f"module 'prelude' has no attribute {name!r}")
