"""The engines under test: models in this process, and a new core (queues, ledger, policy, prices)
for every run of one. Those that are compared have one each, and take turns.
"""

import gc
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.scheduling_cells import Regime, Variant, probation
from benchmarks.scheduling_play import TurnClock
from prelude.conf.load import load_config
from prelude.conf.schema import CacheConfig, Config
from prelude.engine.build import build_engine
from prelude.engine.core import EngineCore
from prelude.engine.policies import POLICIES
from prelude.engine.profile import Profile
from prelude.engine.steplog import StepLog
from prelude.models.paths import resolve_model_path
from prelude.runner.protocol import Runner
from prelude.simulate.replica import Timed
from prelude.types.plan import Plan, ProgramCount, StepOutput
from prelude.types.prices import PriceTable

LONG_CONTEXT = 40_960
NUM_BLOCKS, MAX_SEQS = 8193, 64


@dataclass(slots=True)
class BoundedRunner:
    """``inner`` with fewer blocks, timed by ``clock``. Steps are synchronous."""

    inner: Runner
    num_blocks: int
    clock: TurnClock
    depth: int = 1

    @property
    def block_size(self) -> int:
        return self.inner.block_size

    @property
    def num_host_blocks(self) -> int:
        return self.inner.num_host_blocks

    @property
    def swap_ms(self) -> float:
        return self.inner.swap_ms

    @property
    def max_len(self) -> int:
        return min(self.inner.max_len, (self.num_blocks - 1) * self.block_size)

    @property
    def vocab_size(self) -> int:
        return self.inner.vocab_size

    @property
    def prices(self) -> PriceTable:
        return self.inner.prices

    @property
    def programs(self) -> ProgramCount:
        return self.inner.programs

    def submit(self, plan: Plan) -> None:
        self.inner.submit(plan)

    def collect(self) -> StepOutput:
        start_s = self.clock()
        output = self.inner.collect()
        spent_ms = (self.clock() - start_s) * 1e3
        share = min(spent_ms / max(sum(output.actual_ms), 1e-6), 1.0)
        return replace(output, actual_ms=tuple(ms * share for ms in output.actual_ms))

    def upkeep(self) -> None:
        """Nothing is compiled while it is measured."""

    def close(self) -> None:
        """``inner`` belongs to another."""


@dataclass(slots=True)
class Bench:
    """A model that is loaded. ``prices`` are what every run begins with."""

    runner: Runner
    eos_ids: tuple[int, ...]
    prices: PriceTable
    clock: TurnClock
    is_warm: bool = False  # its prices have met real traffic

    def core(self, regime: Regime, variant: Variant) -> tuple[EngineCore, Timed]:
        """A new engine for one run, and its policy with the times that it took."""
        config = load_config([*variant.overrides, probation(self.prices)])
        policy = Timed(POLICIES[config.batcher.policy])
        gc.collect()
        core = EngineCore(
            BoundedRunner(self.runner, regime.num_blocks, self.clock),
            batcher=config.batcher,
            cache=CacheConfig(),
            max_seqs=regime.max_seqs,
            eos_ids=self.eos_ids,
            clock=self.clock,
            log=StepLog(keep=1),
            seed=0,
            profile=Profile(self.prices),
            policy=policy,
        )
        return core, policy

    def learned(self, core: EngineCore) -> None:
        """What ``core`` has found steps to cost is what the next ones begin with."""
        self.is_warm = True
        self.prices = replace(core.profile.prices.table, scale=1.0)


def bundled(cache_dir: Path, *, context: int | None = None) -> Config:
    """The bundled model; with ``context`` its shape, random weights and so many positions."""
    common = [
        "graphs.background=false",
        f"graphs.cache_dir='{cache_dir}'",
        f"runner.max_seqs={MAX_SEQS}",
        f"cache.num_blocks={NUM_BLOCKS}",
    ]
    if context is None:
        return load_config(["model=demo", *common])
    shape = json.loads((resolve_model_path("demo") / "config.json").read_text())
    config = load_config(["model=tiny", *common])
    config.model.path = "demo_long"
    config.model.tokenizer = "demo"
    config.model.hf_config = shape | {"max_position_embeddings": context}
    return config


def started(config: Config) -> Bench:
    """Load, build, measure prices."""
    core, info = build_engine(config)
    return Bench(core.runner, tuple(info.eos_ids), core.runner.prices, TurnClock())


@dataclass(slots=True)
class Benches:
    """Models by context and by lane, loaded when they are needed."""

    cache_dir: Path
    loaded: dict[tuple[int | None, int], Bench] = field(default_factory=dict)

    def of(self, regime: Regime, lane: int = 0) -> Bench:
        context = LONG_CONTEXT if regime.long_prompt else None
        if (context, lane) not in self.loaded:
            self.loaded[context, lane] = started(bundled(self.cache_dir, context=context))
        return self.loaded[context, lane]


def forget_prices(cache_dir: Path) -> None:
    """So that they are measured now, and not remembered from when the machine was busy."""
    for path in (cache_dir / "profiles").glob("profile-*"):
        path.unlink()
