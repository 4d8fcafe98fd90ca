"""Buckets and accounts on a clock that only tests move: nobody gets more than their limit, and what
comes to nothing gives everything back."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prelude.conf.schema import LimitsConfig
from prelude.server.bucket import Bucket
from prelude.server.errors import ApiError
from prelude.server.limits import Limits, Reservation, Ticket
from prelude.server.principal import KeyLimits, Principal, nobody
from prelude.server.ratelimit import duration
from prelude.types.request import SamplingParams


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


def key(name: str = "a", **limits: int) -> Principal:
    return Principal(name=name, limits=KeyLimits(**limits))


def refusal(limits: Limits, who: Principal) -> ApiError:
    with pytest.raises(ApiError) as caught:
        limits.open(who)
    assert caught.value.status == 429
    assert caught.value.code == "rate_limit_exceeded"
    return caught.value


def test_a_bucket_refills_evenly_and_never_overflows() -> None:
    bucket = Bucket(60, 0.0)
    bucket.take(60, 0.0)
    assert (bucket.level(0.0), bucket.wait_s(1, 0.0)) == (0, 1.0)
    assert bucket.level(30.0) == 30
    assert bucket.level(1e6) == 60
    bucket.give(5, 1e6)
    assert bucket.level(1e6) == 60


def test_a_debt_is_waited_for() -> None:
    bucket = Bucket(60, 0.0)
    bucket.take(90, 0.0)
    assert (bucket.level(0.0), bucket.wait_s(1, 0.0), bucket.reset_s(0.0)) == (-30, 31.0, 90.0)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = Bucket(60, 100.0)
    bucket.take(10, 100.0)
    assert bucket.level(50.0) == 50
    assert bucket.level(100.0) == 50


def test_another_limit_keeps_what_was_taken() -> None:
    bucket = Bucket(60, 0.0)
    bucket.take(20, 0.0)
    bucket.resize(100, 0.0)
    assert bucket.level(0.0) == 80
    bucket.resize(10, 0.0)
    assert bucket.level(0.0) == -10


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50)), max_size=30))
def test_no_window_holds_more_than_twice_the_limit(steps: list[tuple[float, float]]) -> None:
    """A full bucket and its refill: the most that a minute may hold."""
    bucket, now_s, taken = Bucket(60, 0.0), 0.0, []
    for amount, passed_s in steps:
        now_s += passed_s
        if not bucket.wait_s(amount, now_s) and amount <= 60:
            bucket.take(amount, now_s)
            taken.append((now_s, amount))
    for start_s, _ in taken:
        assert sum(n for at_s, n in taken if start_s <= at_s < start_s + 60) <= 120 + 1e-6


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0001, "1ms"), (0.12, "120ms"), (1, "1s"), (6.5, "6.5s"), (90, "1m30s")],
)
def test_times_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_requests_a_minute() -> None:
    clock = Clock()
    limits, who = Limits(clock), key(requests_per_min=2)
    for _ in range(2):
        limits.open(who).close(is_served=True)
    error = refusal(limits, who)
    assert (error.headers["retry-after"], error.headers["retry-after-ms"]) == ("30", "30000")
    assert error.headers["x-ratelimit-remaining-requests"] == "0"
    assert error.details == {"limit": "requests", "value": 2, "retry_after_ms": 30_000}
    assert "the key a is at its limit: 2 requests a minute; retry after 30s" in error.message
    limits.open(key("b", requests_per_min=2))
    clock.now_s += 30
    ticket = limits.open(who)
    assert ticket.headers() == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }


def test_requests_at_once() -> None:
    limits, who = Limits(Clock()), key(concurrency=1)
    ticket = limits.open(who)
    assert refusal(limits, who).headers["retry-after"] == "1"
    reservation = ticket.claim(1, 1)
    ticket.close(is_served=True)
    refusal(limits, who)  # its stream goes on without its connection
    reservation.settle(1, 1, is_served=True)
    limits.open(who)


def test_tokens_are_reserved_and_corrected() -> None:
    limits, who = Limits(Clock()), key(tokens_per_min=100)
    ticket = limits.open(who)
    params = SamplingParams(max_tokens=20, n=2)
    reservation = ticket.reserve([[1] * 10], [params])
    assert ticket.headers()["x-ratelimit-remaining-tokens"] == "50"
    other = limits.open(who)
    with pytest.raises(ApiError, match=r"reserves 60 for its prompt and its longest answer") as e:
        other.claim(20, 40)
    assert (e.value.status, e.value.headers["retry-after"]) == (429, "6")
    reservation.settle(10, 5, is_served=True)
    reservation.settle(1000, 1000, is_served=True)
    assert ticket.headers()["x-ratelimit-remaining-tokens"] == "85"
    other.claim(20, 40)


def test_more_than_was_reserved_is_a_debt() -> None:
    clock = Clock()
    limits, who = Limits(clock), key(tokens_per_min=60)
    ticket = limits.open(who)
    ticket.claim(10, 1000).settle(10, 80, is_served=True)
    ticket.close(is_served=True)
    assert refusal(limits, who).headers["retry-after"] == "31"
    clock.now_s += 31
    limits.open(who)


def test_a_prompt_beyond_the_limit_is_never_retried() -> None:
    ticket = Limits(Clock()).open(key(tokens_per_min=60))
    with pytest.raises(ApiError) as caught:
        ticket.claim(61, 1)
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


def test_a_context_of_ones_own() -> None:
    who = key(max_context=50)
    assert (who.context(100), who.context(20)) == (50, 20)
    ticket = Limits(Clock()).open(who)
    ticket.reserve([[1] * 40], [SamplingParams(max_tokens=10)])
    with pytest.raises(ApiError, match="this key may use 50 together"):
        ticket.reserve([[1] * 41], [SamplingParams(max_tokens=10)])


def test_what_keys_do_not_say_is_the_servers_and_zero_is_none() -> None:
    defaults = LimitsConfig(requests_per_min=5, concurrency=3)
    said = KeyLimits(requests_per_min=0, max_context=9)
    assert KeyLimits.of(said, defaults) == KeyLimits(concurrency=3, max_context=9)
    assert nobody(defaults).limits == KeyLimits(requests_per_min=5, concurrency=3)


def test_keys_of_one_name_have_buckets_of_their_own() -> None:
    limits = Limits(Clock())
    small = Principal("a", "1", limits=KeyLimits(requests_per_min=1))
    large = Principal("a", "2", limits=KeyLimits(requests_per_min=100))
    for _ in range(3):
        limits.open(large).close(is_served=True)
    limits.open(small).close(is_served=True)
    refusal(limits, small)
    assert limits.open(large).headers()["x-ratelimit-remaining-requests"] == "96"
    found = limits.report("a")
    assert (found["requests"], found["limited"], found["open"]) == (5, 1, 1)
    assert found["x-ratelimit-remaining-requests"] == "0"  # of the one that has less
    assert limits.names() == ["a"]


def test_a_request_that_does_not_count_only_reads() -> None:
    limits, who = Limits(Clock()), key(requests_per_min=1, concurrency=1)
    for _ in range(3):
        ticket = limits.open(who, counts=False)
        assert ticket.headers()["x-ratelimit-remaining-requests"] == "1"
        ticket.close(is_served=True)
    assert limits.report("a")["requests"] == 0


def test_the_idle_are_forgotten_and_their_usage_is_not() -> None:
    clock = Clock()
    limits = Limits(clock)
    open_one = limits.open(key("open"))
    for n in range(100):
        ticket = limits.open(key(f"k{n}", requests_per_min=60, tokens_per_min=60))
        ticket.claim(10, 10).settle(10, 5, is_served=True)
        ticket.close(is_served=True)
    assert len(limits) == 101
    clock.now_s += 61
    limits.open(key("last"))
    assert len(limits) == 2
    found = limits.report("k7")
    assert (found["requests"], found["prompt_tokens"], found["output_tokens"]) == (1, 10, 5)
    open_one.close(is_served=True)
    clock.now_s += 61
    limits.open(key("last"))
    assert len(limits) == 1


class Accounts(RuleBasedStateMachine):
    """Any mix of requests: refused, invalid, left, served; in any order, at any time."""

    REQUESTS, TOKENS, CONCURRENCY = 8, 200, 4

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.limits = Limits(self.clock)
        self.who = key(
            requests_per_min=self.REQUESTS,
            tokens_per_min=self.TOKENS,
            concurrency=self.CONCURRENCY,
        )
        self.open: list[tuple[Ticket, list[Reservation]]] = []

    @rule(seconds=st.sampled_from([0.0, 0.5, 7.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @rule()
    def come(self) -> None:
        try:
            self.open.append((self.limits.open(self.who), []))
        except ApiError as error:
            assert error.status == 429

    @precondition(lambda self: self.open)
    @rule(data=st.data(), prompt=st.integers(1, 100), output=st.integers(0, 300))
    def reserve(self, data: st.DataObject, prompt: int, output: int) -> None:
        ticket, reservations = data.draw(st.sampled_from(self.open))
        try:
            reservations.append(ticket.claim(prompt, output))
        except ApiError as error:
            assert error.status == 429

    @precondition(lambda self: self.open)
    @rule(data=st.data(), used=st.booleans())
    def leave(self, data: st.DataObject, used: bool) -> None:
        number = data.draw(st.integers(0, len(self.open) - 1))
        ticket, reservations = self.open.pop(number)
        ticket.close(is_served=used)
        for reservation in reservations:
            if used:
                reservation.settle(7, data.draw(st.integers(0, 400)), is_served=True)
            else:
                reservation.settle()

    @invariant()
    def what_is_open_is_what_is_open(self) -> None:
        found = self.limits.report("a")
        assert found["open"] == len(self.open) <= self.CONCURRENCY

    def teardown(self) -> None:
        """With all of them gone, a minute or a debt later, the account is as new."""
        for ticket, reservations in self.open:
            for reservation in reservations:
                reservation.settle()
            ticket.close(is_served=False)
        self.clock.now_s += 1e6
        self.limits.open(key("other"))
        assert len(self.limits) == 1


TestAccounts = Accounts.TestCase
TestAccounts.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 300), st.integers(0, 2)), max_size=12))
def test_whatever_comes_to_nothing_leaves_the_account_as_it_was(
    requests: list[tuple[int, int, int]],
) -> None:
    """Refused by the engine, not valid, gone before its first token: in any nesting."""
    limits, who = Limits(Clock()), key(requests_per_min=100, tokens_per_min=500, concurrency=20)
    before = limits.open(who, counts=False).headers()
    tickets = []
    for prompt, output, how in requests:
        ticket = limits.open(who)
        tickets.append(ticket)
        try:
            reservation = ticket.claim(prompt, output) if how else None
        except ApiError:
            continue
        if reservation is not None and how == 1:
            reservation.settle()
        elif reservation is not None:
            ticket.close(is_served=False)
            reservation.settle()
    for ticket in tickets:
        ticket.close(is_served=False)
    assert limits.open(who, counts=False).headers() == before
    found = limits.report("a")
    assert (found["requests"], found["open"], found["prompt_tokens"]) == (0, 0, 0)
