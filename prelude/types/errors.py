"""Errors that cross floors. User errors are ``ValueError``s that say what to do."""


class OutOfBlocksError(RuntimeError):
    """The KV pool was asked for more blocks than it can give; the batcher should have known."""

    def __init__(self, wanted: int, available: int) -> None:
        super().__init__(f"{wanted} KV blocks wanted, {available} available")


class RequestError(ValueError):
    """A request that can never be served; the message goes back to its client."""


class OverloadedError(RequestError):
    """The queue is full; the message starts with "overloaded"."""

    def __init__(self, num_waiting: int) -> None:
        super().__init__(f"overloaded: {num_waiting} requests are waiting; retry later")
