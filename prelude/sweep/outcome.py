"""What is left of a point: its measures, whatever was measured, in one file that a later sweep
can continue from."""

from pathlib import Path
from typing import Any

import msgspec

OUTCOME_VERSION = 1


class Measure(msgspec.Struct, frozen=True, array_like=True):
    """One number. ``stat`` is empty for what is a number by itself; ``low`` and ``high`` are its
    95 % interval over requests, null where none was computed."""

    kind: str
    metric: str
    stat: str
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}.{self.metric}.{self.stat}".rstrip(".")


Curves = dict[str, dict[str, list[float]]]  # kind, metric: values at the shares of measures.SHARES


class Outcome(msgspec.Struct, frozen=True):
    """One finished point. ``error`` is empty where it succeeded; ``result`` is the target's own
    document, without samples of single requests."""

    digest: str
    overrides: list[str]
    wall_s: float
    started_utc: str
    versions: dict[str, str]
    error: str = ""
    measures: list[Measure] = []
    curves: Curves = {}
    warnings: list[str] = []
    result: dict[str, Any] | None = None
    version: int = OUTCOME_VERSION

    def values(self) -> dict[str, float]:
        """The measures by name."""
        return {measure.name: measure.value for measure in self.measures}


def save(folder: Path, outcome: Outcome) -> None:
    """As a whole or not at all: a sweep can be ended at any time."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{outcome.digest}.json"
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.encode(outcome) + b"\n")
    part.replace(path)


def load_outcome(folder: Path, digest: str) -> Outcome | None:
    """What an earlier sweep left of this point; none if it failed, or if another release wrote
    it."""
    try:
        outcome = msgspec.json.decode((folder / f"{digest}.json").read_bytes(), type=Outcome)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return outcome if outcome.version == OUTCOME_VERSION and not outcome.error else None
