"""Small simulations for tests: a device of round prices, and a mix of three kinds."""

from dataclasses import replace
from typing import Any

from prelude.conf.bench import LengthKind, Lengths
from prelude.conf.schema import BatcherConfig, Policy
from prelude.conf.simulate import Fleet, SimClass, SimDevice, SimulateConfig, Traffic


def lognormal(value: int, low: int, high: int, sigma: float = 0.6) -> Lengths:
    return Lengths(LengthKind.lognormal, value=value, low=low, high=high, sigma=sigma)


def fixed(value: int) -> Lengths:
    return Lengths(LengthKind.fixed, value=value)


def mix() -> dict[str, SimClass]:
    return {
        "chat": SimClass(
            weight=0.7,
            prompt=lognormal(40, 4, 200),
            output=lognormal(10, 1, 50),
            clients=4,
            service_class="fast",
        ),
        "deep": SimClass(
            weight=0.2,
            prompt=lognormal(50, 4, 200),
            output=lognormal(120, 30, 600),
            clients=2,
            service_class="deep",
            reasoning="high",
            priority=1,
        ),
        "doc": SimClass(
            weight=0.1,
            prompt=lognormal(900, 400, 3000, 0.4),
            output=lognormal(12, 2, 40),
            service_class="doc",
            priority=1,
        ),
    }


def device(**changes: Any) -> SimDevice:
    plain = SimDevice(
        name="small",
        floor_ms=1.0,
        weights_ms=4.0,
        token_ms=0.1,
        ctx_ms=1e-4,
        pair_ms=1e-5,
        row_ms=0.01,
        max_seqs=16,
        num_blocks=1200,
        max_len=8192,
    )
    return replace(plain, **changes)


def small(
    *,
    num_requests: int = 120,
    rate: float | None = 10.0,
    load: float | None = None,
    seed: int = 0,
    classes: dict[str, SimClass] | None = None,
    replicas: int = 1,
    batcher: BatcherConfig | None = None,
    on: SimDevice | None = None,
    **traffic: Any,
) -> SimulateConfig:
    return SimulateConfig(
        traffic=Traffic(
            classes=classes or mix(),
            num_requests=num_requests,
            rate=rate,
            load=load,
            seed=seed,
            **({"warm": False} | traffic),
        ),
        device=on or device(),
        fleet=Fleet(replicas=replicas),
        batcher=batcher or BatcherConfig(policy=Policy.fcfs, max_step_tokens=512),
        resamples=0,
        progress=False,
    )
