"""Errors that cross floors. User errors are ``ValueError``s that say what to do."""

from typing import Literal, get_args

import msgspec

from prelude.types.service import ServiceClass

RefusalCode = Literal[
    "queue_full",
    "class_full",
    "ttft_infeasible",
    "deadline_infeasible",
    "ttft_expired",
    "deadline_expired",
]
REFUSAL_CODES: tuple[RefusalCode, ...] = get_args(RefusalCode)


class OutOfBlocksError(RuntimeError):
    """The KV pool was asked for more blocks than it can give; the batcher should have known."""

    def __init__(self, wanted: int, available: int) -> None:
        super().__init__(f"{wanted} KV blocks wanted, {available} available")


class RequestError(ValueError):
    """A request that can never be served; the message goes back to its client."""


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """Why a request was not served that another time would have been, for programs.

    The first two codes are about the queue, in which ``num_waiting`` sequences are; the next two
    about a deadline that would not be met, as ``estimate_ms`` is more than ``limit_ms``; the last
    two about one that has passed. ``retry_after_s`` is how long it would have waited.
    """

    code: RefusalCode
    retry_after_s: float = 0.0
    service_class: ServiceClass | None = None
    num_waiting: int = 0
    estimate_ms: float = 0.0
    limit_ms: float = 0.0

    @property
    def is_full(self) -> bool:
        """True if nothing is wrong but the number of those who wait."""
        return self.code in ("queue_full", "class_full")

    @property
    def is_expired(self) -> bool:
        """True if it had been let in."""
        return self.code in ("ttft_expired", "deadline_expired")

    def __str__(self) -> str:
        match self.code:
            case "queue_full":
                return f"overloaded: {self.num_waiting} requests are waiting; retry later"
            case "class_full":
                who = f"{self.num_waiting} requests of class {self.service_class}"
                return f"overloaded: {who} are waiting; retry later"
            case "ttft_infeasible":
                what = f"the first token is expected after {self.estimate_ms:.0f} ms"
                return f"overloaded: {what}, not within ttft_deadline_ms={self.limit_ms:g}"
            case "deadline_infeasible":
                what = f"the answer is expected after {self.estimate_ms:.0f} ms"
                return f"overloaded: {what}, not within deadline_ms={self.limit_ms:g}"
            case "ttft_expired":
                return f"expired: nothing was computed within ttft_deadline_ms={self.limit_ms:g}"
            case "deadline_expired":
                return f"expired: the answer was not complete within deadline_ms={self.limit_ms:g}"


class RefusedError(RequestError):
    """A request that is not served now; ``refusal`` says why."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
