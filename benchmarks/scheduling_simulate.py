"""Cells of the scheduling benchmark in the simulator, on the price list that the engine learned."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from benchmarks.scheduling_cells import FAST, TUNABLE, Regime, Variant, probation
from benchmarks.scheduling_record import Run, Simulated, Tried
from benchmarks.scheduling_traces import config_of
from prelude.simulate.prices import read_prices
from prelude.simulate.result import SimulateResult
from prelude.simulate.run import simulate

SEEDS = (201, 202, 203, 204, 205)  # none of these is compared


def simulation_of(
    regime: Regime, variant: Variant, *, rate: float, seed: int, prices: Path
) -> SimulateResult:
    """One cell, with the same probation as on the engine."""
    overrides = (*variant.overrides, probation(read_prices(prices)))
    whole = replace(variant, overrides=overrides)
    return simulate(config_of(regime, whole, rate=rate, seed=seed, prices=prices))


def simulated_as(run: Run, regime: Regime, variant: Variant, prices: Path) -> Simulated:
    """What the simulator says of a run on the engine."""
    result = simulation_of(regime, variant, rate=run.rate, seed=run.seed, prices=prices)
    ttft = result.classes[FAST].ttft_ms
    deep = result.classes["deep"].e2e_ms if "deep" in result.classes else None
    assert ttft is not None
    return Simulated(
        regime=run.regime,
        load=run.load,
        seed=run.seed,
        variant=run.variant,
        ttft_p50=ttft.p50.value,
        ttft_p99=ttft.p99.value,
        deep_e2e=deep.mean if deep else None,
        tok_s=result.total.prompt_tok_s + result.total.output_tok_s,
    )


def tried_in_simulator(
    regime: Regime,
    name: str,
    load: float,
    *,
    rate: float,
    prices: Path,
    seeds: Sequence[int] = SEEDS,
) -> list[Tried]:
    """Every candidate for the tuned baseline on every seed."""
    found = []
    for label, variant in TUNABLE.items():
        for seed in seeds:
            result = simulation_of(regime, variant, rate=rate, seed=seed, prices=prices)
            ttft, gaps = result.classes[FAST].ttft_ms, result.classes[FAST].itl_ms
            assert ttft is not None
            assert gaps is not None
            tok_s = result.total.prompt_tok_s + result.total.output_tok_s
            p50, p99, gap_p99 = ttft.p50.value, ttft.p99.value, gaps.p99.value
            found.append(Tried(name, load, seed, label, p50, p99, gap_p99, tok_s))
    return found


def best_on_average(tried: Sequence[Tried]) -> str:
    """The name with the lowest mean of chat's p99 to the first token."""
    names = dict.fromkeys(one.name for one in tried)
    return min(names, key=lambda name: fmean(t.ttft_p99 for t in tried if t.name == name))
