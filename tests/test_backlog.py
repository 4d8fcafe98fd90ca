"""How long a newcomer will wait: for the prompts ahead of it, for a slot, for blocks."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.batcher.admission import lane_of
from prelude.batcher.backlog import Backlog
from prelude.batcher.ledger import Ledger
from prelude.batcher.sequence import Sequence
from prelude.cache.pool import BlockPool
from prelude.conf.schema import Policy
from prelude.types.plan import BucketKey, Launch, Plan, Row
from prelude.types.prices import Curve, PriceTable
from prelude.types.request import Request, SamplingParams
from prelude.types.service import SERVICE_CLASSES, Hints, ServiceClass

# A step costs 10 ms for one token, 20 for two; nothing else costs.
PRICES = PriceTable(Curve.of({1: 10.0, 100: 1000.0}))


class House:
    """A ledger and its backlog, and sequences put where a test wants them."""

    def __init__(
        self, policy: Policy = Policy.fcfs, *, max_seqs: int = 4, num_blocks: int = 1001
    ) -> None:
        pool = BlockPool(num_blocks, 4, prefix=False)
        self.ledger = Ledger(pool, max_seqs=max_seqs, max_len=400, vocab_size=99, eos_ids=())
        self.backlog = Backlog(
            self.ledger, lane_of(policy), max_seqs=max_seqs, step_ms=50.0, quantum=5
        )
        self._uid = 0

    def newcomer(
        self,
        cost_ms: float = 100.0,
        name: ServiceClass = "fast",
        *,
        num_prompt: int = 8,
        priority: int = 0,
    ) -> Sequence:
        self._uid += 1
        request = Request(
            uid=self._uid,
            prompt_ids=[1] * num_prompt,
            params=SamplingParams(temperature=0),
            hints=Hints(priority=priority),
        )
        (seq,) = self.ledger.make(request)
        seq.service_class, seq.cost_ms, seq.token_ms = name, cost_ms, cost_ms / num_prompt
        return seq

    def wait(self, seq: Sequence) -> Sequence:
        self.backlog.added(seq)
        self.ledger.queue([seq])
        return seq

    def run(self, seq: Sequence, num_computed: int = 8) -> Sequence:
        """Give it a slot, and as many tokens."""
        self.ledger.queue([seq])
        samples = num_computed == seq.num_tokens
        row = Row(seq.seq_id, -1, 0, num_computed, samples=samples)
        launch = Launch(BucketKey("prefill", num_computed, 1), (row,), 1.0)
        self.ledger.bind(Plan(launches=(launch,), admit=(seq.seq_id,)))
        self.ledger.settle(row)
        self.ledger.end_step()
        if samples:
            seq.token_ids.append(5)
        return seq

    def wait_ms(self, seq: Sequence) -> float:
        return self.backlog.wait_ms(seq, PRICES)

    @property
    def most_ms(self) -> float:
        return self.backlog.most_wait_ms(PRICES)

    def later(self) -> None:
        self.ledger.now_s += 1.0


def test_an_idle_engine_makes_nobody_wait() -> None:
    house = House()
    seq = house.newcomer(70.0)
    assert house.wait_ms(seq) == house.most_ms == 0.0
    assert house.backlog.own_ms(seq, PRICES) == 70.0


def test_the_machines_present_state_does_not_count_on_an_idle_engine() -> None:
    house = House()
    slow = replace(PRICES, scale=8.0)
    assert house.backlog.own_ms(house.newcomer(800.0), slow) == 100.0
    house.run(house.newcomer(100.0), num_computed=4)
    house.later()
    assert house.backlog.own_ms(house.newcomer(800.0), slow) == 800.0


def test_prompts_ahead_are_waited_for() -> None:
    house = House()
    for cost_ms in (100.0, 30.0):
        house.wait(house.newcomer(cost_ms))
    assert house.wait_ms(house.newcomer()) == 130.0
    house.later()
    assert house.wait_ms(house.newcomer()) == 130.0


def test_half_a_prompt_is_half_the_wait() -> None:
    house = House()
    house.run(house.newcomer(80.0, num_prompt=16), num_computed=12)
    assert house.wait_ms(house.newcomer()) == pytest.approx(20.0)


def test_streams_leave_a_part_of_the_time_for_prompts() -> None:
    house = House()
    for _ in range(2):
        assert house.run(house.newcomer()).is_decoding
    house.wait(house.newcomer(60.0))
    house.later()
    seq = house.newcomer(30.0)
    assert house.wait_ms(seq) == pytest.approx(100.0)  # two streams take 20 of 50 ms
    assert house.backlog.own_ms(seq, PRICES) == pytest.approx(50.0 + 20.0)
    assert house.backlog.decode_ms == pytest.approx(20.0)


def test_however_many_streams_prompts_move() -> None:
    house = House(max_seqs=16)
    for _ in range(9):
        house.run(house.newcomer())
    house.wait(house.newcomer(10.0))
    assert house.wait_ms(house.newcomer()) == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("policy", "waits_ms"),
    [
        (Policy.fcfs, {"fast": 111.0, "doc": 111.0, "deep": 111.0, "batch": 111.0}),
        (Policy.class_aware, {"fast": 1.0, "doc": 11.0, "deep": 11.0, "batch": 111.0}),
    ],
)
def test_who_is_ahead_is_the_policys(policy: Policy, waits_ms: dict[ServiceClass, float]) -> None:
    house = House(policy)
    house.wait(house.newcomer(1.0, "fast"))
    house.wait(house.newcomer(10.0, "doc"))
    house.wait(house.newcomer(100.0, "batch"))
    found = {name: house.wait_ms(house.newcomer(name=name)) for name in SERVICE_CLASSES}
    assert found == waits_ms
    assert house.most_ms == 111.0


def test_priorities_are_lanes() -> None:
    house = House(Policy.priority)
    house.wait(house.newcomer(1.0, priority=-5))
    house.wait(house.newcomer(10.0, priority=3))
    assert house.wait_ms(house.newcomer(priority=-6)) == 0.0
    assert house.wait_ms(house.newcomer(priority=0)) == 1.0
    assert house.wait_ms(house.newcomer(priority=3)) == 11.0


def test_a_slot_is_waited_for_until_enough_have_ended() -> None:
    house = House(max_seqs=2)
    for _ in range(2):
        house.run(house.newcomer())
    # They stay for five tokens of 10 ms each, so one of two ends in 25.
    assert house.wait_ms(house.newcomer()) == pytest.approx(25.0)
    house.wait(house.newcomer(0.0))
    assert house.wait_ms(house.newcomer()) == pytest.approx(50.0)


def test_how_long_sequences_stay_is_learned() -> None:
    house = House(max_seqs=1)
    seq = house.run(house.newcomer())
    house.backlog.left(seq, house.ledger.now_s + 0.6)
    assert house.wait_ms(house.newcomer()) == pytest.approx(600.0)
    for _ in range(200):
        house.backlog.left(seq, house.ledger.now_s + 0.2)
    house.later()
    assert house.wait_ms(house.newcomer()) == pytest.approx(200.0, rel=0.01)


def test_what_never_ran_says_nothing_about_staying() -> None:
    house = House(max_seqs=1)
    house.run(house.newcomer())
    house.backlog.left(house.newcomer(), 1e9)
    assert house.wait_ms(house.newcomer()) == pytest.approx(50.0)


def test_blocks_are_waited_for_like_slots() -> None:
    house = House(max_seqs=8, num_blocks=101)
    for _ in range(2):
        house.run(house.newcomer(num_prompt=160), num_computed=160)  # 40 blocks of 100
    # Of 80 blocks held and 40 wanted, 20 are too many: half of what a sequence holds.
    assert house.wait_ms(house.newcomer(num_prompt=160)) == pytest.approx(0.5 * 25.0)
    assert house.wait_ms(house.newcomer(num_prompt=80)) == 0.0


def test_counting_again_is_rare_and_newcomers_count_at_once() -> None:
    house = House()
    house.wait(house.newcomer(100.0))
    assert house.wait_ms(house.newcomer()) == 100.0
    house.ledger.finish(next(house.ledger.waiting), "abort")
    assert house.wait_ms(house.newcomer()) == 100.0  # not counted again at the same instant
    house.wait(house.newcomer(7.0))
    assert house.wait_ms(house.newcomer()) == 107.0
    house.later()
    assert house.wait_ms(house.newcomer()) == 7.0


@given(
    costs=st.lists(st.tuples(st.floats(0.0, 1e4), st.sampled_from(SERVICE_CLASSES)), max_size=12),
    num_running=st.integers(0, 6),
    policy=st.sampled_from([Policy.fcfs, Policy.priority, Policy.class_aware]),
)
def test_more_work_ahead_is_never_less_of_a_wait(
    costs: list[tuple[float, ServiceClass]], num_running: int, policy: Policy
) -> None:
    house = House(policy, max_seqs=4)
    for _ in range(min(num_running, 4)):
        house.run(house.newcomer())
    found = dict.fromkeys(SERVICE_CLASSES, 0.0)
    for cost_ms, name in costs:
        for one in SERVICE_CLASSES:
            wait_ms = house.wait_ms(house.newcomer(name=one))
            least_ms = house.backlog.least_wait_ms(house.newcomer().request, PRICES)
            assert least_ms - 1e-6 <= wait_ms >= found[one] - 1e-6
            assert wait_ms <= house.most_ms + 1e-6
            found[one] = wait_ms
        house.wait(house.newcomer(cost_ms, name))
