"""What is kept of a run: every request's latencies, and the gaps between tokens in bins, so that
runs can be pooled and compared later.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.scheduling_play import Played, Watch
from benchmarks.scheduling_stats import Keyed
from prelude.bench.result import Environment, Summary
from prelude.engine.core import EngineCore
from prelude.simulate.records import Gaps, Life
from prelude.types.prices import PriceTable

VERSION = 1
TENTHS = 10.0  # latencies are kept in tenths of a millisecond

Bins = dict[int, int]


class Kind(msgspec.Struct, frozen=True):
    """Requests of one kind, in the order of ``uids``: tenths of milliseconds to the first token,
    to the last, and of the longest gap. ``gaps`` are the bins of ``Gaps``."""

    uids: list[int]
    ttft: list[int]
    e2e: list[int]
    stall: list[int]
    gaps: Bins
    num_preemptions: int


class Run(msgspec.Struct, frozen=True):
    """One policy on one trace. ``tok_s`` are prompt and output tokens a second while the load was
    on; ``others_cpu_share`` of the machine went to other processes."""

    regime: str
    load: float
    seed: int
    variant: str
    rate: float
    at_s: float
    wall_s: float
    busy_s: float
    num_steps: int
    step_ms: tuple[float, float]  # p50, p99
    schedule_us: tuple[float, float]
    tok_s: float
    num_preemptions: int
    num_parks: int
    failures: int
    price_error: float
    others_cpu_share: float
    kinds: dict[str, Kind]
    beside_long: Bins = {}

    @property
    def cell(self) -> tuple[str, float]:
        return self.regime, self.load

    @property
    def key(self) -> tuple[str, float, int, str]:
        return self.regime, self.load, self.seed, self.variant


class Simulated(msgspec.Struct, frozen=True):
    """The same cell in the simulator, on the price list below: milliseconds of chat's TTFT."""

    regime: str
    load: float
    seed: int
    variant: str
    ttft_p50: float
    ttft_p99: float
    deep_e2e: float | None
    tok_s: float


class Tried(msgspec.Struct, frozen=True):
    """One candidate for the tuned baseline in one regime, on a seed that is not compared."""

    regime: str
    load: float
    seed: int
    name: str
    ttft_p50: float
    ttft_p99: float
    gap_p99: float
    tok_s: float

    @classmethod
    def of(cls, run: Run, name: str) -> "Tried":
        """Chat's latencies; gaps are those beside a long prompt where there is one."""
        chat = run.kinds["chat"]
        p50, p99 = np.percentile(chat.ttft, [50, 99]) / TENTHS if chat.ttft else (0.0, 0.0)
        gaps = pooled([run.beside_long or chat.gaps])
        gap_p99 = gaps.p99.value if gaps else 0.0
        return cls(
            regime=run.regime,
            load=run.load,
            seed=run.seed,
            name=name,
            ttft_p50=float(p50),
            ttft_p99=float(p99),
            gap_p99=gap_p99,
            tok_s=run.tok_s,
        )


class Document(msgspec.Struct, omit_defaults=True):
    """``saturation`` are requests a second by regime, under plain FCFS; ``tuned`` the name of what
    did best of ``tried``; ``prices`` what this machine's engine has learned before; there is an
    environment, with its command, for each part that was run."""

    environments: list[Environment] = []
    prices: PriceTable | None = None
    saturation: dict[str, float] = {}
    tried: list[Tried] = []
    tuned: dict[str, str] = {}
    runs: list[Run] = []
    simulated: list[Simulated] = []
    version: int = VERSION

    def has(self, key: tuple[str, float, int, str]) -> bool:
        return any(run.key == key for run in self.runs)

    def of(self, regime: str, load: float, variant: str) -> list[Run]:
        return [run for run in self.runs if run.cell == (regime, load) and run.variant == variant]

    def paired(self, regime: str, load: float, variants: Iterable[str]) -> dict[str, list[Run]]:
        """Those of the variants that were run there, each on the traces that all of them have."""
        runs = {name: of for name in variants if (of := self.of(regime, load, name))}
        seeds = [{run.seed for run in of} for of in runs.values()]
        shared = set.intersection(*seeds) if seeds else set()
        return {name: [run for run in of if run.seed in shared] for name, of in runs.items()}


def read(path: Path) -> Document:
    """An empty one where there is no file."""
    if not path.exists():
        return Document()
    return msgspec.json.decode(path.read_bytes(), type=Document)


def write(path: Path, document: Document) -> None:
    """At once or not at all: a line a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    text = msgspec.json.encode(document).replace(b'{"regime"', b'\n{"regime"')
    unfinished.write_bytes(text + b"\n")
    unfinished.replace(path)


def kind_of(lives: Iterable[Life], gaps: Gaps) -> Kind:
    """Of those that came to their end."""
    done = [life for life in lives if life.is_done]
    return Kind(
        uids=[life.truth.uid for life in done],
        ttft=[_tenths(life.ready_s - life.truth.arrival_s) for life in done],
        e2e=[_tenths(life.end_s - life.truth.arrival_s) for life in done],
        stall=[_tenths(life.max_gap_s) for life in done],
        gaps=bins_of(gaps),
        num_preemptions=sum(life.num_preemptions for life in done),
    )


def _tenths(seconds: float) -> int:
    return round(seconds * 1e3 * TENTHS)


def bins_of(gaps: Gaps) -> Bins:
    filled = np.flatnonzero(gaps.bins)
    return {int(number): int(gaps.bins[number]) for number in filled}


def pooled(found: Iterable[Bins]) -> Summary | None:
    """Percentiles of all of them."""
    gaps = Gaps()
    for bins in found:
        for number, count in bins.items():
            gaps.bins[number] += count
    return gaps.summary()


def keyed(runs: Iterable[Run], kind: str, field: str) -> Keyed:
    """Milliseconds by seed and request, of all runs."""
    found: dict[tuple[int, int], float] = {}
    for run in runs:
        if (of := run.kinds.get(kind)) is not None:
            values = getattr(of, field)
            found |= {
                (run.seed, uid): tenths / TENTHS
                for uid, tenths in zip(of.uids, values, strict=True)
            }
    return found


def kinds_of(watch: Watch) -> dict[str, Kind]:
    """Of the requests that count."""
    counted = [life for uid, life in watch.lives.items() if watch.counts(uid)]
    names = dict.fromkeys(life.truth.kind for life in counted)
    return {
        name: kind_of((li for li in counted if li.truth.kind == name), watch.gaps[name])
        for name in names
    }


def run_of(played: Played, core: EngineCore, schedule_us: list[float], **of: Any) -> Run:
    """``of`` are the fields that say which run it is."""
    steps = played.step_ms.summary()
    stats = core.stats()
    counted = [life for uid, life in played.watch.lives.items() if played.watch.counts(uid)]
    return Run(
        wall_s=played.wall_s,
        busy_s=played.busy_s,
        num_steps=played.num_steps,
        step_ms=(steps.p50.value, steps.p99.value) if steps else (0.0, 0.0),
        schedule_us=_us(schedule_us),
        tok_s=played.watch.window.tok_s,
        num_preemptions=stats.num_preemptions,
        num_parks=stats.num_parks,
        failures=sum(not life.is_done for life in counted),
        price_error=stats.price_error,
        kinds=kinds_of(played.watch),
        beside_long=bins_of(played.watch.beside_long),
        **of,
    )


def _us(values: list[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 0.0
    p50, p99 = np.percentile(values, [50, 99])
    return float(p50), float(p99)
