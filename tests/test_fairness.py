"""Accounts of clients: who pays for a launch, who is ahead, and how far apart they can come."""

import random
from dataclasses import dataclass
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelude.batcher.fairness import Account, Fairness
from prelude.conf.schema import Policy
from prelude.types.plan import BucketKey, Launch, LaunchKind, Row
from prelude.types.prices import Curve, PriceTable, sums_of
from prelude.types.request import Request, SamplingParams
from prelude.types.service import Hints
from tests.engines import make_core, run

PRICES = PriceTable(
    body=Curve.of({1: 10.0, 32: 12.0, 512: 100.0}),
    ms_per_ctx_token=0.002,
    ms_per_pair=0.0001,
    heads=(Curve.of({1: 1.0, 64: 4.0}), Curve.of({1: 2.0, 64: 8.0}), Curve.of({1: 3.0})),
)


@dataclass
class Owner:
    account: Account


def launch(*rows: tuple[int, int], kind: LaunchKind = "prefill") -> Launch:
    """Of rows (start, new tokens); those of one token are sampled."""
    made = [Row(n, n, *row, samples=row[1] == 1) for n, row in enumerate(rows)]
    num_tokens = sum(row.num_tokens for row in made)
    return Launch(BucketKey(kind, num_tokens, len(made)), tuple(made), 0.0)


def paid(client: str, used_ms: float = 0.0) -> Account:
    account = Account(client)
    account.used_ms = used_ms
    return account


def charged(one: Launch, ms: float = 100.0) -> list[float]:
    accounts = [paid(str(n)) for n in range(len(one.rows))]
    Fairness().charge(one, map(Owner, accounts), ms, PRICES)
    return [account.used_ms for account in accounts]


def test_rows_of_a_launch_pay_as_its_price_is_made_up() -> None:
    one = launch((0, 1), (1000, 1), (0, 100), (400, 100))
    first, long, prompt, later = charged(one, PRICES.step_ms(sums_of(one.rows)))
    assert long - first == pytest.approx(1000 * PRICES.ms_per_ctx_token)
    assert later - prompt == pytest.approx(400 * 100 * PRICES.ms_per_pair)
    token_ms = PRICES.body.at(202) / 202
    assert prompt == pytest.approx(100 * token_ms + 5050 * PRICES.ms_per_pair)


def test_a_decode_launch_is_shared_evenly_but_for_what_is_read() -> None:
    short, long = charged(launch((10, 1), (5010, 1), kind="decode"), 20.0)
    assert short + long == pytest.approx(20.0)
    price_ms = PRICES.step_ms(sums_of(launch((10, 1), (5010, 1)).rows))
    assert long - short == pytest.approx(5000 * PRICES.ms_per_ctx_token * 20.0 / price_ms)


@given(
    rows=st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 600)), min_size=1, max_size=20),
    ms=st.floats(0.0, 1e4),
)
def test_what_a_launch_took_is_charged_to_its_rows(rows: list[tuple[int, int]], ms: float) -> None:
    used = charged(launch(*rows), ms)
    assert sum(used) == pytest.approx(ms)
    assert all(share >= 0.0 for share in used)


def test_even_a_launch_without_a_price_is_paid_for() -> None:
    one = launch((0, 1), (5, 1), kind="decode")
    accounts = [paid("a"), paid("b")]
    Fairness().charge(one, map(Owner, accounts), 6.0, PriceTable(Curve.of({1: 0.0})))
    assert [account.used_ms for account in accounts] == [3.0, 3.0]


def test_rows_that_are_nobodys_cost_nobody() -> None:
    account = paid("a")
    Fairness().charge(launch((9, 1), (9, 1), kind="decode"), [None, Owner(account)], 8.0, PRICES)
    assert account.used_ms == pytest.approx(4.0)


def waiting(fairness: Fairness, client: str, used_ms: float = 0.0) -> Account:
    account = fairness.open(client)
    fairness.queue(account)
    account.used_ms = max(account.used_ms, used_ms)
    return account


def test_who_has_used_more_than_its_share_is_ahead_while_others_wait() -> None:
    fairness = Fairness(fair_ms=10.0)
    light, heavy = waiting(fairness, "light", 5.0), waiting(fairness, "heavy", 15.0)
    assert not fairness.is_ahead(heavy)
    fairness.charge(launch((0, 1), kind="decode"), [Owner(heavy)], 0.5, PRICES)
    assert fairness.is_ahead(heavy)
    assert not fairness.is_ahead(light)
    fairness.unqueue(light)  # admitted: nobody else waits any more
    assert not fairness.is_ahead(heavy)


def test_a_newcomer_comes_first_but_has_saved_up_no_more_than_the_tolerance() -> None:
    fairness = Fairness(fair_ms=10.0)
    heavy = waiting(fairness, "heavy", 500.0)
    newcomer = waiting(fairness, "new")
    assert newcomer.used_ms == 490.0
    fairness.charge(launch((0, 1), kind="decode"), [Owner(heavy)], 1.0, PRICES)
    assert fairness.is_ahead(heavy)


def test_who_comes_when_nobody_waits_is_lifted_to_who_waited_last() -> None:
    fairness = Fairness(fair_ms=10.0)
    heavy = waiting(fairness, "heavy", 500.0)
    fairness.unqueue(heavy)
    assert waiting(fairness, "new").used_ms == 490.0


def test_nobody_is_lifted_while_it_waits_or_lowered_ever() -> None:
    fairness = Fairness(fair_ms=10.0)
    light = waiting(fairness, "light", 1.0)
    heavy = waiting(fairness, "heavy", 500.0)
    waiting(fairness, "light")
    assert light.used_ms == 1.0
    fairness.unqueue(heavy)
    fairness.queue(heavy)
    assert heavy.used_ms == 500.0


def test_without_a_tolerance_nobody_is_ahead() -> None:
    fairness = Fairness()
    heavy = waiting(fairness, "heavy", 1e9)
    waiting(fairness, "light")
    assert not fairness.is_ahead(heavy)


def test_contested_is_what_two_clients_have_work_in() -> None:
    fairness = Fairness()
    one, same = fairness.open("a"), fairness.open("a")
    assert one is same
    assert not fairness.is_contested
    other = fairness.open("b")
    assert fairness.is_contested
    fairness.close(one)
    assert fairness.is_contested
    fairness.close(same)
    assert not fairness.is_contested
    assert fairness.open("a") is one
    assert fairness.is_contested
    fairness.close(other)


def test_idle_clients_are_remembered_for_a_while_and_then_forgotten() -> None:
    fairness = Fairness(max_idle=3)
    busy = fairness.open("busy")
    for n in range(100):
        fairness.close(fairness.open(f"client {n}"))
        assert fairness.num_clients <= 4 + 1
    assert fairness.num_clients == 4
    assert fairness.open("busy") is busy


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**16),
    num_clients=st.integers(2, 5),
    num_slots=st.integers(1, 4),
    fair_ms=st.sampled_from([0.0, 5.0, 50.0]),
)
def test_backlogged_clients_stay_within_the_stated_bound(
    seed: int, num_clients: int, num_slots: int, fair_ms: float
) -> None:
    """Whoever is picked first of those that are not ahead, at worst always the same client: they
    differ by no more than the tolerance and what one of them had admitted."""
    rng = random.Random(seed)
    most_ms = 40.0
    fairness = Fairness(fair_ms)
    accounts = [waiting(fairness, str(n)) for n in range(num_clients)]
    running: list[tuple[Account, list[float]]] = []
    one = launch((0, 1), kind="decode")
    for _ in range(400):
        while len(running) < num_slots:
            fit = [account for account in accounts if not fairness.is_ahead(account)]
            account = fit[0] if rng.random() < 0.7 else rng.choice(fit)
            running.append((account, [rng.uniform(0.0, most_ms / 4) for _ in range(4)]))
        account, costs = rng.choice(running)
        fairness.charge(one, [Owner(account)], costs.pop(), PRICES)
        running = [job for job in running if job[1]]
        used = [account.used_ms for account in accounts]
        assert max(used) - min(used) <= fair_ms + num_slots * most_ms


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**16), fair_ms=st.sampled_from([1.0, 20.0, inf]))
def test_an_engine_keeps_its_accounts(seed: int, fair_ms: float) -> None:
    """Whatever happens to sequences: in the end nobody waits, nobody has work, nobody is owed."""
    rng = random.Random(seed)
    core = make_core(num_blocks=24, max_len=64, max_seqs=3, fair_ms=fair_ms, max_waiting=200)
    fairness = core.ledger.fairness
    accounts: dict[str, Account] = {}
    uids = list(range(30))
    for uid in uids:
        client = rng.choice("abc")
        params = SamplingParams(temperature=0, max_tokens=rng.randint(1, 20), n=rng.randint(1, 2))
        prompt = [rng.randrange(1, 9) for _ in range(rng.randint(1, 40))]
        hints = Hints(client=client)
        assert not core.add(Request(uid=uid, prompt_ids=prompt, params=params, hints=hints))
        accounts[client] = core.ledger.group(uid)[0].account
        if rng.random() < 0.2:
            core.abort(rng.choice(uids[: uid + 1]))
        for _ in range(rng.randrange(3)):
            core.step()
        unfinished = core.ledger.all_unfinished()
        for name, account in accounts.items():
            mine = [seq for seq in unfinished if seq.request.hints.client == name]
            assert account.num_unfinished == len(mine)
            assert account.num_waiting == len([seq for seq in mine if seq.slot < 0])
    run(core)
    assert not fairness.is_contested
    assert all(not account.num_unfinished for account in accounts.values())
    assert all(not account.num_waiting for account in accounts.values())


def test_an_engine_charges_all_its_time_where_two_clients_share_it() -> None:
    core = make_core(prefix=False)
    for uid, client in enumerate("ab"):
        params = SamplingParams(temperature=0, max_tokens=9, ignore_eos=True)
        hints = Hints(client=client)
        core.add(Request(uid=uid, prompt_ids=[1, 2, 3 + uid], params=params, hints=hints))
    accounts = [core.ledger.group(uid)[0].account for uid in (0, 1)]
    before_ms = [account.used_ms for account in accounts]
    run(core)
    took_ms = sum(part.actual_ms for record in core.log for part in record.launches)
    used_ms = [one.used_ms - ms for one, ms in zip(accounts, before_ms, strict=True)]
    assert sum(used_ms) == pytest.approx(took_ms)
    assert used_ms[0] == pytest.approx(used_ms[1])


def test_an_engine_charges_all_its_time_to_who_has_it_alone() -> None:
    core = make_core()
    core.add(Request(uid=0, prompt_ids=[1, 2], params=SamplingParams(temperature=0, max_tokens=3)))
    account = core.ledger.group(0)[0].account
    before_ms = account.used_ms
    run(core)
    took_ms = sum(part.actual_ms for record in core.log for part in record.launches)
    assert account.used_ms - before_ms == pytest.approx(took_ms)


def test_newcomers_do_not_push_each_other_down() -> None:
    """However many come while others wait: they are equals, and none of them is ahead."""
    fairness = Fairness(fair_ms=100.0)
    heavy = fairness.open("heavy")
    fairness.queue(heavy)
    fairness.charge_step((), [5000.0], {0: Owner(heavy)}, PRICES)
    newcomers = [fairness.open(str(n)) for n in range(50)]
    for one in newcomers:
        fairness.queue(one)
    assert {one.used_ms for one in newcomers} == {heavy.used_ms - 100.0}
    fairness.charge(launch((0, 9)), [Owner(heavy)], 1.0, PRICES)
    fairness.charge(launch((0, 9)), [Owner(newcomers[0])], 50.0, PRICES)
    assert fairness.is_ahead(heavy)
    assert not any(map(fairness.is_ahead, newcomers))


@pytest.mark.parametrize("num_waiting", [60, 300])
def test_who_uses_little_is_served_beside_somebody_who_floods(num_waiting: int) -> None:
    """However long the other's queue is: a newcomer waits for who is resident, and for nobody
    else, once the other is ahead."""
    core = make_core(policy=Policy.class_aware, max_seqs=4, fair_ms=5.0, prefix=False)

    def ask(uid: int, client: str) -> None:
        params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        hints = Hints(client=client)
        core.add(Request(uid=uid, prompt_ids=[1 + uid % 50] * 5, params=params, hints=hints))

    for uid in range(num_waiting):
        ask(uid, "flood")
    for round_ in range(3):
        for _ in range(20):
            core.step()
        uid = 1000 + round_
        ask(uid, "light")
        begun = set()
        for _ in range(1000):
            found = {event.uid for event in core.step() if event.token_ids}
            begun |= found
            if uid in found:
                break
        assert len(begun - {uid}) <= 2 * 4
        assert core.ledger.num_waiting > 10
