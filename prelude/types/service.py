"""Service classes: the lanes that requests are served in, and what a request says of itself.

``fast`` is where everybody begins; ``deep`` generates long answers; ``doc`` still has a long prompt
to compute; ``batch`` can wait. The names are conf's too: ``batcher.classes``.
"""

from typing import Literal, NamedTuple, get_args

import msgspec

ServiceClass = Literal["fast", "deep", "doc", "batch"]
SERVICE_CLASSES: tuple[ServiceClass, ...] = get_args(ServiceClass)

Reasoning = Literal["", "none", "low", "medium", "high"]


class Hints(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a request before it runs, beside its prompt and its limits.

    ``service_class`` is a wish: ``batch`` is granted, ``deep`` and ``doc`` are while nothing is
    foreseen of its answer, ``fast`` has to be earned like everybody else's. It is no wish where it
    ``is_assigned``: then the key's owner has said so. ``priority`` counts for the policy of that
    name, smaller first.
    ``client`` pays for what is used; ``template`` is a digest of what requests of its kind share
    (system prompt, tools). ``is_bounded`` says that a schema or a choice bounds the answer.
    Deadlines are milliseconds after arrival, for the first token and for the last one;
    ``max_cost_ms`` is the device time that it may be expected to take.
    Raises ``ValueError`` naming the field.
    """

    service_class: ServiceClass | None = None
    is_assigned: bool = False
    priority: int = 0
    client: str = ""
    template: str = ""
    reasoning: Reasoning = ""
    is_bounded: bool = False
    ttft_deadline_ms: float | None = None
    deadline_ms: float | None = None
    max_cost_ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("ttft_deadline_ms", "deadline_ms"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < float("inf"):
                raise ValueError(f"{name}: must be a positive number of milliseconds")

    @property
    def has_deadline(self) -> bool:
        return self.ttft_deadline_ms is not None or self.deadline_ms is not None


class Prediction(NamedTuple):
    """Output tokens of a request in all: median and 90th percentile, and the probability that
    there are far more than a probation's worth of them."""

    q50: float
    q90: float
    p_deep: float
