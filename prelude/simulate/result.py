"""The shape of a simulation's result: that of ``prelude bench serve`` where it is the same thing,
so that both can be put side by side.
"""

from typing import Any

import msgspec

from prelude.bench.result import ClassReport, Interval, RequestSample, Summary

SIMULATION_VERSION = 1


class SimReport(ClassReport, frozen=True):
    """One kind of traffic. ``slowdown`` is the end-to-end time over that of the same request on
    an empty machine; ``queue_ms`` the wait for the first step; ``stall_ms`` the longest gap between
    two tokens. Preemptions dropped computed blocks."""

    slowdown: Summary | None
    queue_ms: Summary | None
    num_preemptions: int


class LoadReport(msgspec.Struct, frozen=True):
    """Requests a second: what fcfs can sustain (null where nobody asked), and what came;
    ``num_before`` requests were running when the first one did."""

    saturation_req_s: float | None
    offered_req_s: float
    num_before: int


class StepReport(msgspec.Struct, frozen=True):
    """Steps of all replicas. ``repeated`` of them were taken without asking the policy again;
    ``schedule_us`` is this machine's time for one decision; ``busy`` the share of simulated time
    that steps took; ``num_parks`` how often a sequence gave up its slot and kept its blocks;
    ``wasted_ms`` ran for tokens that had been computed before. ``num_swaps`` sequences had their
    KV kept on the host; it was copied there and back for ``copy_ms``."""

    num: int
    repeated: int
    schedule_us: Summary | None
    step_ms: Summary | None
    busy: float
    num_parks: int
    wasted_ms: float
    price_error: float
    num_swaps: int = 0
    copy_ms: float = 0.0


class SimulateResult(msgspec.Struct, frozen=True, tag="simulate", tag_field="benchmark"):
    """``classes`` are by what requests truly are, ``lanes`` by the service class they ended in.
    ``fairness`` is Jain's index over clients of how fast they were served: one over the slowdown,
    in the mean of a client's requests. ``wall_s`` is what the simulation took here."""

    config: dict[str, Any]
    policy: str
    seed: int
    load: LoadReport
    simulated_s: float
    wall_s: float
    total: SimReport
    classes: dict[str, SimReport]
    lanes: dict[str, SimReport]
    steps: StepReport
    fairness: float | None
    replicas: list[int]
    warnings: list[str]
    samples: list[RequestSample] = []
    version: int = SIMULATION_VERSION


__all__ = ["Interval", "LoadReport", "SimReport", "SimulateResult", "StepReport", "Summary"]
