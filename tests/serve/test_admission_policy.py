"""The admission policy on a simulated clock: what is refused, what is not, and that goodput does not suffer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.simulated_engine import Request, SimulatedEngine, at_rate

from tuneport.stages.serve.admission_policy import (
    MAX_HOLD_S,
    REFUSAL_BURST,
    REFUSALS_PER_S,
    RESUME_AT,
    AdmissionPolicy,
    Backlog,
    DrainRate,
    RefusalPacer,
)

CAPACITY_PER_S = 800
"""Of the simulated engine with one stream: batches of 8 rows in 10 ms."""


def measured(tokens_per_s: float, *, batches: int = 50, batch_s: float = 0.01, **options: float) -> AdmissionPolicy:
    """Return a policy that has seen an engine drain this many tokens a second, on a clock that is now at 0."""
    policy = AdmissionPolicy(**options)  # type: ignore[arg-type]
    for i in range(batches + 1):
        policy.batch_started((i - batches) * batch_s, round(tokens_per_s * batch_s), rows_left=True)
        policy.batch_ended(batch_s)
    return policy


@given(
    gaps=st.lists(st.floats(0, 0.05), min_size=1, max_size=150),
    streams=st.integers(1, 4),
    batch_rows=st.integers(1, 16),
    timeout_s=st.floats(0.3, 30),
    max_wait_s=st.none() | st.floats(0.3, 30),
)
@settings(max_examples=40)
def test_nothing_is_refused_that_would_be_answered_in_time(
    gaps: list[float], streams: int, batch_rows: int, timeout_s: float, max_wait_s: float | None
) -> None:
    def simulate(*, accepts_all: bool) -> SimulatedEngine:
        policy = AdmissionPolicy(streams=streams, batch_tokens=10 * batch_rows, max_wait_s=max_wait_s)
        engine = SimulatedEngine(policy, streams, batch_rows, accepts_all=accepts_all)
        times = [sum(gaps[: i + 1]) for i in range(len(gaps))]
        engine.run([Request(at, timeout_s) for at in times], until=1e9)
        return engine

    latest_s = max(request.seconds for request in simulate(accepts_all=True).answered())
    limit_s = min(timeout_s, max_wait_s or timeout_s)
    refused = simulate(accepts_all=False).refused()
    if latest_s <= RESUME_AT * limit_s - 0.03:  # the estimate is as precise as the time of a batch
        assert not refused
    assert all(request.answered_at is None for request in refused)


@pytest.mark.parametrize("load", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("streams", [1, 2, 4])
def test_nothing_is_refused_below_capacity(load: float, streams: int) -> None:
    policy = AdmissionPolicy(streams=streams, batch_tokens=80, max_wait_s=0.02)
    engine = SimulatedEngine(policy, streams)
    engine.run(at_rate(load * streams * CAPACITY_PER_S, 5, timeout_s=0.05), until=10)
    assert not engine.refused()


@given(timeout_s=st.floats(0.1, 0.5), load=st.floats(1.5, 4), streams=st.integers(1, 2))
@settings(max_examples=15)
def test_accepted_requests_meet_their_deadline_and_refusals_cost_no_goodput(
    timeout_s: float, load: float, streams: int
) -> None:
    engine = SimulatedEngine(AdmissionPolicy(streams=streams, batch_tokens=80), streams)
    engine.run(at_rate(load * streams * CAPACITY_PER_S, 2, timeout_s), until=2)
    assert engine.refused()
    settled = [each for each in engine.requests if timeout_s < each.at < 2 - timeout_s and not each.is_refused]
    in_time = [each for each in settled if each.answered_at and each.seconds <= timeout_s]
    assert len(in_time) >= 0.97 * len(settled)
    assert len(in_time) >= 0.95 * (2 - 2 * timeout_s) * streams * CAPACITY_PER_S


def test_an_engine_that_becomes_slower_does_not_work_for_answers_that_come_too_late() -> None:
    def seconds_of(now: float, rows: int) -> float:
        return 0.01 if now % 1 < 0.5 else 0.016

    engine = SimulatedEngine(AdmissionPolicy(batch_tokens=80), seconds_of=seconds_of)
    engine.run(at_rate(2 * CAPACITY_PER_S, 6, timeout_s=0.5), until=6)
    in_time = [each for each in engine.answered() if each.seconds <= 0.5]
    best = 6 * 8 * (0.5 / 0.01 + 0.5 / 0.016)
    assert len(in_time) >= 0.95 * best


def test_a_row_is_given_up_only_at_the_end_of_its_time() -> None:
    policy = measured(1000.0, batch_s=0.05)
    assert not policy.is_too_late(0.0, 0.0, 0.04)  # has just come
    assert not policy.is_too_late(0.94, 0.0, 1.0)
    assert policy.is_too_late(0.96, 0.0, 1.0)
    assert not AdmissionPolicy().is_too_late(0.99, 0.0, 1.0)
    assert AdmissionPolicy().is_too_late(1.0, 0.0, 1.0)


@pytest.mark.parametrize("pause_s", [0.02, 1.0], ids=["retry at once", "back off"])
@pytest.mark.parametrize(("max_wait_s", "clients"), [(None, 64), (0.05, 64), (0.001, 64), (0.05, 200)])
def test_goodput_and_latency_with_clients_that_retry(pause_s: float, max_wait_s: float | None, clients: int) -> None:
    """Closed-loop clients, twice as many as fill the engine or more."""
    engine = SimulatedEngine(AdmissionPolicy(batch_tokens=80, max_wait_s=max_wait_s))

    def again(request: Request, now: float) -> Request:
        return Request(now + (pause_s if request.is_refused else 0.0), 30.0, request.client)

    engine.run([Request(i / 10_000, 30.0, i) for i in range(clients)], 5, again)
    answered = list(engine.answered())
    assert len(answered) >= 0.95 * 5 * CAPACITY_PER_S
    assert bool(engine.refused()) == (max_wait_s is not None)
    settled = [request.seconds for request in answered if request.at > 1]
    if max_wait_s is not None:
        assert max(settled) <= max(2 * 0.01, max_wait_s) + 2.01 * 0.01


def test_after_a_refusal_the_estimate_must_fall_by_a_tenth() -> None:
    policy = measured(1000.0, max_wait_s=1.0)
    assert policy.check(0.0, Backlog(99, 990)) is None
    refusal = policy.check(0.0, Backlog(101, 1010))
    assert refusal
    assert (refusal.limit_s, refusal.is_deadline) == (1.0, False)
    assert refusal.retry_after_s == pytest.approx(0.11)
    assert policy.check(0.0, Backlog(99, 990))
    assert policy.check(0.0, Backlog(91, 910))
    assert policy.check(0.0, Backlog(90, 899)) is None
    assert policy.check(0.0, Backlog(99, 990)) is None


def test_a_request_that_cannot_be_answered_in_time_is_refused_at_once() -> None:
    policy = measured(1000.0)
    backlog = Backlog(10, 500)
    assert policy.check(0.0, backlog, time_left_s=0.6) is None
    refusal = policy.check(0.0, backlog, time_left_s=0.4)
    assert refusal
    assert refusal.is_deadline
    # Its own work counts, too, as soon as it is known.
    assert measured(1000.0).check(0.0, backlog, tokens=400, time_left_s=1.0) is None
    assert measured(1000.0).check(0.0, backlog, tokens=600, time_left_s=1.0)


def test_an_engine_without_a_backlog_refuses_nothing() -> None:
    policy = measured(1000.0, max_wait_s=0.1)
    policy.batch_started(0.0, 10, rows_left=True)
    assert policy.check(1e6, Backlog(5, 10_000))  # it seems to hang
    assert policy.check(1e6, Backlog(0, 0), tokens=10**9, time_left_s=0.001) is None


def test_one_batch_for_each_stream_may_wait_however_slow_the_engine_is() -> None:
    """A single-row variant, whose batches are limited to one token, is no exception."""
    for batch_tokens, rows, enough in ((80, 15, 16), (1, 1, 2)):
        policy = measured(1.0, streams=2, batch_tokens=batch_tokens, max_wait_s=0.001, batches=5, batch_s=10.0)
        assert policy.check(0.0, Backlog(rows, 10 * rows)) is None
        assert policy.check(0.0, Backlog(enough, 10 * enough))


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_the_estimate_follows_an_engine_that_changes_its_speed(factor: float) -> None:
    rate, now = DrainRate(), 0.0
    for speed, seconds in ((1000.0, 10), (factor * 1000.0, 10)):
        until = now + seconds
        while now < until:
            rate.batch_started(now, 100, rows_left=True)
            now += 100 / speed
        assert rate.tokens_per_s(now) == pytest.approx(speed, rel=0.1)


def test_a_batch_that_takes_longer_than_usual_lowers_the_estimate_at_once() -> None:
    rate = DrainRate()
    for i in range(200):
        rate.batch_started(i * 0.1, 100, rows_left=True)
    assert rate.tokens_per_s(20.0) == pytest.approx(1000.0)
    assert rate.tokens_per_s(22.0) == pytest.approx(500.0, rel=0.1)
    assert rate.tokens_per_s(40.0) < 110.0


def test_idle_time_does_not_make_an_engine_look_slow() -> None:
    rate = DrainRate()
    for start in (0.0, 1000.0, 2000.0):
        for i in range(10):
            rate.batch_started(start + i * 0.1, 100, rows_left=i < 9)
    assert rate.tokens_per_s(5000.0) == pytest.approx(1000.0)


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=300))
def test_refusals_are_spaced_and_none_is_held_for_long(gaps: list[float]) -> None:
    pacer, now, sent = RefusalPacer(), 0.0, []
    for gap in gaps:
        now += gap
        held_s = pacer.hold_s(now)
        assert 0 <= held_s <= MAX_HOLD_S
        sent.append(now + held_s)
    for i, first in enumerate(sent):
        assert sum(first <= each < first + 1 for each in sent[i:]) <= REFUSAL_BURST + REFUSALS_PER_S + 1


def test_the_first_refusals_are_sent_at_once() -> None:
    pacer = RefusalPacer()
    assert [pacer.hold_s(0.0) for _ in range(REFUSAL_BURST)] == [0.0] * REFUSAL_BURST
    assert pacer.hold_s(0.0) == pytest.approx(0.0)
    assert pacer.hold_s(0.0) == pytest.approx(1 / REFUSALS_PER_S)
    assert pacer.hold_s(100.0) == 0.0
