"""The report of a start: what each phase took, in seconds and bytes, and the rule behind every
value that nobody has set. Its seconds add up to the wall clock."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prelude.engine.early import EarlyMemory

Progress = Callable[[str, float], None]

_OTHER = "other"
_MIB = 2**20
_PROC = Path("/proc")


@dataclass(slots=True)
class Phase:
    """``read_bytes`` came from files, ``allocated_bytes`` is how much memory grew."""

    seconds: float = 0.0
    read_bytes: int = 0
    allocated_bytes: int = 0


@dataclass(slots=True)
class Startup:
    """Collects phases and rules. ``before_s`` is how long the process had lived already: its
    interpreter and its imports count as the first phase. ``early`` is memory for the weights that
    it has made ready."""

    progress: Progress
    before_s: float = 0.0
    early: EarlyMemory | None = None
    clock: Callable[[], float] = time.perf_counter
    phases: dict[str, Phase] = field(default_factory=dict)
    rules: dict[str, str] = field(default_factory=dict)
    _start_s: float = 0.0

    def __post_init__(self) -> None:
        self._start_s = self.clock()
        if self.before_s:
            self.phases["imports"] = Phase(self.before_s, 0, _allocated_bytes())

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """Time a block; what it maps instead of reading, it adds to ``read_bytes`` itself."""
        self.progress(name, 0.0)
        start_s, read, allocated = self.clock(), _read_bytes(), _allocated_bytes()
        phase = self.phases[name] = Phase()
        yield phase
        phase.seconds = self.clock() - start_s
        phase.read_bytes += _read_bytes() - read
        phase.allocated_bytes = max(_allocated_bytes() - allocated, 0)

    def rule(self, name: str, value: object, why: str) -> None:
        """Say what ``name`` has become and where that comes from."""
        self.rules[name] = f"{value} ({why})"

    def finish(self) -> None:
        """What no phase has counted is a phase too."""
        wall_s = self.before_s + self.clock() - self._start_s
        counted_s = sum(phase.seconds for phase in self.phases.values())
        self.phases[_OTHER] = Phase(max(wall_s - counted_s, 0.0))

    @property
    def seconds(self) -> dict[str, float]:
        return {name: phase.seconds for name, phase in self.phases.items()}

    def lines(self) -> Iterator[str]:
        """The report as a table."""
        phases = self.phases.values()
        total = Phase(
            sum(phase.seconds for phase in phases),
            sum(phase.read_bytes for phase in phases),
            sum(phase.allocated_bytes for phase in phases),
        )
        yield f"{'start-up':<18}{'seconds':>9}{'read MiB':>10}{'new MiB':>9}"
        for name, phase in {**self.phases, "sum": total}.items():
            read, new = phase.read_bytes / _MIB, phase.allocated_bytes / _MIB
            yield f"  {name:<16}{phase.seconds:>9.2f}{read:>10.0f}{new:>9.0f}"
        width = max(map(len, self.rules), default=0)
        for name, rule in self.rules.items():
            yield f"  {name:<{width}}  {rule}"


def process_age_s() -> float:
    """Seconds since this process was started, to a hundredth; 0 where the system does not say."""
    try:
        ticks = int((_PROC / "self/stat").read_text().rpartition(")")[2].split()[19])
        uptime_s = float((_PROC / "uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(uptime_s - ticks / os.sysconf("SC_CLK_TCK"), 0.0)


def _read_bytes() -> int:
    return _proc_field("io", "rchar:")


def _allocated_bytes() -> int:
    return _proc_field("status", "RssAnon:") * 1024


def _proc_field(file: str, name: str) -> int:
    try:
        lines = (_PROC / "self" / file).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)
