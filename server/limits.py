"""What each key has left: requests and tokens a minute, and how much at once.

A request opens a ``Ticket`` before its body is read. What it is going to compute is reserved before
it is submitted, prompt and longest answer, and corrected to what was used when it has ended. One
that is not served (refused, not valid, lost with the engine) gives everything back; who leaves pays
for the prompt, for it may have been computed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Protocol

from prelude.server.bucket import Bucket
from prelude.server.errors import ApiError
from prelude.server.principal import KeyLimits, Principal
from prelude.server.ratelimit import beyond_context, limit_headers, too_long, too_many
from prelude.types.request import SamplingParams

Clock = Callable[[], float]

_SWEEP_S = 60.0


@dataclass(slots=True)
class Usage:
    """Of the keys of one name since the server started."""

    requests: int = 0
    limited: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class Account:
    """What one key has open, and its buckets where it has limits; ``usage`` is of all keys of its
    name."""

    requests: Bucket | None = None
    tokens: Bucket | None = None
    num_open: int = 0
    usage: Usage = field(default_factory=Usage)

    def follow(self, limits: KeyLimits, now_s: float) -> None:
        self.requests = _sized(self.requests, limits.requests_per_min, now_s)
        self.tokens = _sized(self.tokens, limits.tokens_per_min, now_s)

    def left(self, now_s: float) -> tuple[float, ...]:
        """Tokens, then requests."""
        return tuple(inf if b is None else b.level(now_s) for b in (self.tokens, self.requests))

    def is_idle(self, now_s: float) -> bool:
        """True if a new account would differ in nothing."""
        buckets = (self.requests, self.tokens)
        return not self.num_open and all(b is None or not b.reset_s(now_s) for b in buckets)


class Limits:
    """The accounts of everybody who asked lately, one a key: keys of one name may differ in their
    limits. ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.usage: dict[str, Usage] = {}
        self._clock = clock
        self._accounts: dict[tuple[str, str], Account] = {}  # by name and id of the key
        self._swept_s = clock()

    def __len__(self) -> int:
        return len(self._accounts)

    def open(self, principal: Principal, *, counts: bool = True) -> "Ticket":
        """Let a request in, before anything is known of it. One that does not count only learns
        what is left. Raises ``ApiError`` 429."""
        now_s = self._clock()
        self._sweep(now_s)
        account = self._account(principal, now_s)
        ticket = Ticket(principal, account, self._clock, counts=counts)
        if counts:
            ticket.enter()
        return ticket

    def names(self) -> list[str]:
        """Of those who have used anything."""
        return [name for name, usage in self.usage.items() if usage != Usage()]

    def report(self, name: str) -> dict[str, object]:
        """What keys called ``name`` have used since the server started and have open, and what the
        one of them that has least has left now."""
        accounts = [one for (whose, _), one in self._accounts.items() if whose == name]
        usage, now_s = self.usage.get(name, Usage()), self._clock()
        left = min(accounts, key=lambda one: one.left(now_s), default=Account())
        return {
            **asdict(usage),
            "open": sum(one.num_open for one in accounts),
            **limit_headers(left.requests, left.tokens, now_s),
        }

    def _account(self, principal: Principal, now_s: float) -> Account:
        place = principal.name, principal.key_id
        if (account := self._accounts.get(place)) is None:
            usage = self.usage.setdefault(principal.name, Usage())
            account = self._accounts[place] = Account(usage=usage)
        account.follow(principal.limits, now_s)
        return account

    def _sweep(self, now_s: float) -> None:
        """Forget who has nothing open and nothing to wait for."""
        if now_s - self._swept_s < _SWEEP_S:
            return
        self._swept_s = now_s
        idle = [place for place, one in self._accounts.items() if one.is_idle(now_s)]
        for place in idle:
            del self._accounts[place]


class Work(Protocol):
    def close(self) -> None: ...


class Ticket:
    """One request's claim on its key's account. It is open until ``close`` was called and all that
    was reserved is settled: a stream may outlive its connection. What it ``owns`` ends with it,
    whatever happened in between, unless it is handed over to such a stream by ``disown``."""

    def __init__(
        self, principal: Principal, account: Account, clock: Clock, *, counts: bool
    ) -> None:
        self.principal = principal
        self._account = account
        self._clock = clock
        self._counts = counts
        self._claims = 0
        self._works: list[Work] = []
        self._is_served = False
        self._is_closed = False

    def enter(self) -> None:
        account, limits, now_s = self._account, self.principal.limits, self._clock()
        if limits.concurrency is not None and account.num_open >= limits.concurrency:
            raise self._limited("concurrency", limits.concurrency, 0.0)
        if account.requests is not None and (wait_s := account.requests.wait_s(1, now_s)):
            raise self._limited("requests", account.requests.per_min, wait_s)
        if account.tokens is not None and (wait_s := account.tokens.wait_s(1, now_s)):
            raise self._limited("tokens", account.tokens.per_min, wait_s)
        if account.requests is not None:
            account.requests.take(1, now_s)
        account.num_open += 1
        account.usage.requests += 1
        self._claims = 1

    def reserve(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
    ) -> "Reservation":
        """Claim what ``prompts`` and their longest answers come to. Raises ``ApiError``: 400 if a
        prompt with its answer is more than the key's context, else as ``claim``."""
        context = self.principal.limits.max_context
        for ids, one in zip(prompts, params, strict=True):
            if context is not None and len(ids) + (one.max_tokens or 1) > context:
                raise beyond_context(len(ids), one.max_tokens or 1, context)
        return self.claim(
            sum(map(len, prompts)), sum(one.n * (one.max_tokens or 1) for one in params)
        )

    def claim(self, num_prompt: int, num_output: int = 0) -> "Reservation":
        """Claim ``num_prompt`` tokens and up to ``num_output`` more. Raises ``ApiError``: 429 if
        the key has not so many left now, 400 if it never will."""
        tokens, now_s = self._account.tokens, self._clock()
        amount = num_prompt + num_output
        if tokens is not None:
            if num_prompt > tokens.per_min:
                raise too_long(num_prompt, tokens.per_min)
            amount = min(amount, int(tokens.per_min))
            if wait_s := tokens.wait_s(amount, now_s):
                raise self._limited("tokens", tokens.per_min, wait_s, amount)
            tokens.take(amount, now_s)
        self._claims += 1
        return Reservation(self, amount)

    def owns(self, work: Work) -> None:
        self._works.append(work)

    def disown(self) -> None:
        self._works.clear()

    def settle(self, amount: int, used: int) -> None:
        """``amount`` was claimed, so many were ``used``."""
        if (tokens := self._account.tokens) is not None:
            change = tokens.give if used <= amount else tokens.take
            change(abs(amount - used), self._clock())

    def used(self, num_prompt: int, num_output: int) -> None:
        """For the books."""
        self._account.usage.prompt_tokens += num_prompt
        self._account.usage.output_tokens += num_output

    def close(self, *, is_served: bool) -> None:
        """The response has ended. Unless it, or something reserved for it, ``is_served``, it does
        not count."""
        if self._is_closed:
            return
        self._is_closed = True
        for work in self._works:
            work.close()
        if self._counts:
            self.drop(is_served)

    def headers(self) -> dict[str, str]:
        """``x-ratelimit-*``, for the limits that the key has."""
        return limit_headers(self._account.requests, self._account.tokens, self._clock())

    def drop(self, is_served: bool) -> None:
        """One claim less; with the last of them the ticket ends."""
        self._is_served |= is_served
        self._claims -= 1
        if self._claims or not self._counts:
            return
        self._account.num_open -= 1
        if not self._is_served:
            self._account.usage.requests -= 1
            if self._account.requests is not None:
                self._account.requests.give(1, self._clock())

    def _limited(self, what: str, limit: float, wait_s: float, amount: int = 1) -> ApiError:
        self._account.usage.limited += 1
        error = too_many(self.principal.name, what, int(limit), wait_s, amount)
        error.headers |= self.headers()
        return error


class Reservation:
    """Tokens claimed for what is about to be computed. ``settle`` once; later calls are nothing."""

    def __init__(self, ticket: Ticket, amount: int) -> None:
        self._ticket = ticket
        self._amount = amount
        self._is_open = True

    def settle(self, num_prompt: int = 0, num_output: int = 0, *, is_served: bool = False) -> None:
        """Correct it to what was used. A request of which nothing is served does not count."""
        if self._is_open:
            self._is_open = False
            self._ticket.settle(self._amount, num_prompt + num_output)
            self._ticket.used(num_prompt, num_output)
            self._ticket.drop(is_served)


def _sized(bucket: Bucket | None, per_min: int | None, now_s: float) -> Bucket | None:
    if per_min is None or bucket is None:
        return None if per_min is None else Bucket(per_min, now_s)
    if bucket.per_min != per_min:
        bucket.resize(per_min, now_s)
    return bucket
