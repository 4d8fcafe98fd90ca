"""Fairness across clients, by the device time that they have used.

Every launch's milliseconds are charged to the clients of its rows, as its price is made up: the
forward by new tokens, attention by what each row reads, the head by sampled rows. So a cached
prompt costs what it costs, which is nothing. A client is *ahead* when it has used ``fair_ms`` more
than the least served one that has work waiting; a policy then serves others first.

As in VTC (Sheng et al., OSDI 2024) nobody saves up by being idle: who begins to wait again is
lifted to the level of those who wait, here less ``fair_ms``, so that a newcomer comes before all
who have used more than that level. The level is the least that a waiting client has used and never
falls: newcomers do not push each other down, they are equals. Two clients that both have work
waiting differ by at most ``fair_ms`` and what the one had admitted when it came to be ahead.
"""

from collections.abc import Iterable, Mapping
from math import inf
from typing import Protocol

from prelude.types.plan import Launch
from prelude.types.prices import Curve, PriceTable

_MAX_IDLE = 1024
_EVEN = 1e-9


class Account:
    """What a client has used, and how many of its sequences wait or are not finished."""

    __slots__ = ("client", "num_unfinished", "num_waiting", "used_ms")

    def __init__(self, client: str = "") -> None:
        self.client = client
        self.used_ms = -inf  # until it first waits
        self.num_waiting = 0
        self.num_unfinished = 0


class Owner(Protocol):
    """Whose row it is: a sequence."""

    @property
    def account(self) -> Account: ...


class Fairness:
    """The accounts of an engine's clients: all that have work here, and the last ``max_idle``
    of the others. All methods but ``charge`` take constant time, but that the least served of
    those who wait is found again once a step."""

    def __init__(self, fair_ms: float = inf, max_idle: int = _MAX_IDLE) -> None:
        self._fair_ms = fair_ms
        self._credit_ms = fair_ms if fair_ms < inf else 0.0
        self._max_idle = max_idle
        self._accounts: dict[str, Account] = {}
        self._waiting: set[Account] = set()
        self._idle: dict[Account, None] = {}  # the longest idle first
        self._level_ms = 0.0
        self._least_ms: float | None = None

    @property
    def num_clients(self) -> int:
        """Those that are known."""
        return len(self._accounts)

    @property
    def is_contested(self) -> bool:
        """True if more than one client has work here."""
        return len(self._accounts) - len(self._idle) > 1

    def is_ahead(self, account: Account) -> bool:
        """True if it has used its share, and more, while others wait."""
        return account.used_ms > self._least() + self._fair_ms

    def open(self, client: str) -> Account:
        """The account of somebody who has one more sequence here."""
        account = self._accounts.get(client)
        if account is None:
            account = self._accounts[client] = Account(client)
        self._idle.pop(account, None)
        account.num_unfinished += 1
        return account

    def close(self, account: Account) -> None:
        """One sequence less."""
        account.num_unfinished -= 1
        if account.num_unfinished:
            return
        self._idle[account] = None
        if len(self._idle) > self._max_idle:
            oldest = next(iter(self._idle))
            del self._idle[oldest], self._accounts[oldest.client]

    def queue(self, account: Account) -> None:
        """One of its sequences begins to wait."""
        account.num_waiting += 1
        if account.num_waiting == 1:
            self._level_ms = max(self._level_ms, self._least())
            account.used_ms = max(account.used_ms, self._level_ms - self._credit_ms)
            self._waiting.add(account)
            self._least_ms = None

    def unqueue(self, account: Account) -> None:
        """One waits no more."""
        account.num_waiting -= 1
        if not account.num_waiting:
            self._level_ms = max(self._level_ms, self._least())
            self._waiting.remove(account)
            self._least_ms = None

    def charge_step(
        self,
        launches: Iterable[Launch],
        actual_ms: Iterable[float],
        owners: Mapping[int, Owner | None],
        prices: PriceTable,
    ) -> None:
        """``charge`` for all launches of a step; ``owners`` by row. Who has it alone pays for all
        of it, and whose rows they are need not be asked."""
        if self.is_contested:
            for launch, ms in zip(launches, actual_ms, strict=True):
                self.charge(launch, [owners[row.seq_id] for row in launch.rows], ms, prices)
        elif owner := next(filter(None, owners.values()), None):
            owner.account.used_ms += sum(actual_ms)
            self._least_ms = None

    def charge(
        self,
        launch: Launch,
        owners: Iterable[Owner | None],
        actual_ms: float,
        prices: PriceTable,
    ) -> None:
        """Share what a launch has taken over the accounts of ``owners``, one for each of its rows,
        None for those that are nobody's any more."""
        weights = _weights(launch, prices)
        share = actual_ms / sum(weights)
        for owner, weight in zip(owners, weights, strict=True):
            if owner is not None:
                owner.account.used_ms += weight * share
        self._least_ms = None

    def _least(self) -> float:
        """Used by the least served of those who wait; the level while nobody does."""
        if self._least_ms is None:
            used_ms = [account.used_ms for account in self._waiting]
            self._least_ms = min(used_ms) if used_ms else self._level_ms
        return self._least_ms


def _weights(launch: Launch, prices: PriceTable) -> list[float]:
    """Of each row: its part of the launch's price."""
    rows, head = launch.rows, prices.head(launch.key.mode)
    ctx_ms, pair_ms = prices.ms_per_ctx_token, prices.ms_per_pair
    if launch.key.kind == "decode":
        first_ms = _each(prices.body, len(rows)) + _each(head, len(rows)) + ctx_ms
        return [first_ms + ctx_ms * row.start for row in rows]
    token_ms = _each(prices.body, sum([row.num_tokens for row in rows]))
    head_ms = _each(head, sum([row.samples for row in rows]))
    weights = []
    for row in rows:
        start, count = row.start, row.num_tokens
        reads_ms = (
            ctx_ms * (start + 1) if count == 1 else pair_ms * count * (start + (count + 1) / 2)
        )
        weights.append(token_ms * count + reads_ms + head_ms * row.samples)
    return weights


def _each(curve: Curve, count: int) -> float:
    """Price of one of ``count``; never nothing, for somebody has to pay."""
    return max(curve.at(count) / count, _EVEN) if count else 0.0
