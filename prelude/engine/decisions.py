"""The policy's decisions, and the last one again where it would take the same: most steps only
decode, and nothing has happened since the last.
"""

from dataclasses import replace

from prelude.batcher.view import Policy, PolicyState, ScheduleConfig, SystemView
from prelude.types.plan import Launch, Plan, Row
from prelude.types.prices import PriceTable, sums_of

_MOST = 16  # steps on one decision: who waits gets more urgent, and prices drift


class Decisions:
    """A decision is asked for at ``next`` and remembered at ``taken``. One is taken again for as
    long as its ``Plan.holds_for`` says and until there are ``news``: somebody comes, ends or
    changes its class. Then a plan costs the time it takes to move its rows on by one token."""

    def __init__(self, policy: Policy, config: ScheduleConfig) -> None:
        self._policy = policy
        self._config = config
        self._state = self._next_state = PolicyState()
        self._last: Plan | None = None

    def news(self) -> None:
        """Something has happened that the policy may want to know."""
        self._last = None

    def next(self, view: SystemView, prices: PriceTable) -> Plan:
        """The plan of the next step."""
        last = self._last
        if last is not None and last.holds_for > 1:
            self._last = _again(last, prices)
            return self._last
        plan, self._next_state = self._policy(view, self._state, prices, self._config)
        repeats = len(plan.launches) == 1 and plan.holds_for > 1
        self._last = replace(plan, holds_for=min(plan.holds_for, _MOST)) if repeats else None
        return plan

    def taken(self) -> None:
        """The last plan is carried out."""
        self._state = self._next_state


def _again(plan: Plan, prices: PriceTable) -> Plan:
    launch = later(plan.launches[0], 1)
    price_ms = prices.step_ms(sums_of(launch.rows, launch.key.mode))
    return Plan(
        launches=(Launch(launch.key, launch.rows, price_ms),),
        price_ms=price_ms,
        budget_ms=plan.budget_ms,
        holds_for=plan.holds_for - 1,
    )


def later(launch: Launch, num: int) -> Launch:
    """The same rows of one token each, ``num`` tokens on."""
    rows = tuple(
        [Row(row.seq_id, row.slot, row.start + num, 1, (), row.samples) for row in launch.rows]
    )
    return Launch(launch.key, rows, launch.price_ms)
