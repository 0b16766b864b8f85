"""Which calls a client sends again, and when: against a service that is busy, and against answers of a broken one."""

import email.utils
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from kit.clients import BUSY, Call, call_sync
from kit.engines import StalledEngine, wait_until
from kit.scripted import Answer, scripted_server
from kit.serving import LocalService

from tuneport import errors
from tuneport.client.retries import Attempts
from tuneport.errors import RequestError


def rejections(service: LocalService) -> float:
    page = service.admission.metrics.page()[0].decode()
    return sum(map(float, re.findall(r"^tuneport_rejected_requests_total\{.*\} (\S+)$", page, re.M)))


def test_a_refused_request_is_sent_again_when_the_service_says(call: Call, service: LocalService) -> None:
    engine = StalledEngine.of(service.runner, stalled=True)
    refused = rejections(service)
    first = service.post_in_background()
    wait_until(lambda: engine.calls)
    with pytest.raises(errors.Overloaded) as caught:
        call(service.url, "predict", ["bank"], max_retries=0)
    assert caught.value.retry_after_s == 1
    with pytest.raises(errors.Overloaded):  # at once: what the service asks for is longer than what is left
        call(service.url, "predict", ["bank"], timeout_s=0.9)
    wait_until(lambda: rejections(service) == refused + 2)  # a refusal is counted after it was sent
    with ThreadPoolExecutor() as pool:
        began = time.monotonic()
        answer = pool.submit(call, service.url, "predict", ["bank"])
        wait_until(lambda: rejections(service) == refused + 3)
        engine.resume()
        assert len(answer.result(30)) == 1
        assert time.monotonic() - began >= 1
    first.join()


def test_no_answer_in_time_is_not_sent_again(call: Call, service: LocalService) -> None:
    engine = StalledEngine.of(service.runner, stalled=True)
    with pytest.raises(errors.DeadlineExceeded, match=r"no answer within 0\.2 s") as caught:
        call(service.url, "predict", ["bank"], timeout_s=0.2)
    assert caught.value.request_id
    engine.resume()
    assert len(engine.calls) == 1


DONE = Answer(200, b'{"predictions": [1], "model": {"name": "m", "version": "v", "variant": "fp32"}}')


@pytest.mark.parametrize(
    "failure",
    [
        BUSY,
        Answer(429, b"<html>busy</html>"),
        Answer(502, b"<html>bad gateway</html>"),
        Answer(None),
        Answer(200, b'{"predictions"', missing=9),
    ],
)
def test_what_may_pass_is_tried_again_under_one_id(call: Call, failure: Answer) -> None:
    with scripted_server(failure, failure, DONE) as server:
        assert list(call(server.url, "predict", ["a"])) == [1]
    assert len(server.request_ids) == 3
    assert len(set(server.request_ids)) == 1


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (Answer(500, b'{"error": {"code": "internal", "message": "failed", "remedy": "r"}}'), errors.ServiceFailed),
        (Answer(503, b'{"error": {"code": "timeout", "message": "late", "remedy": "r"}}'), errors.DeadlineExceeded),
        (Answer(422, b'{"error": {"code": "wrong_input", "message": "no", "remedy": "r"}}'), errors.InputError),
        (Answer(418, b"[]"), errors.MalformedRequest),
        (Answer(200, b"<html>"), errors.ServiceFailed),
        (Answer(200, b"[]"), errors.ServiceFailed),
    ],
)
def test_what_another_try_cannot_cure_is_raised_at_once(call: Call, failure: Answer, kind: type[RequestError]) -> None:
    with scripted_server(failure) as server:
        with pytest.raises(kind) as caught:
            call(server.url, "predict", ["a"])
        assert type(caught.value) is kind
    assert len(server.request_ids) == 1


def test_retries_are_bounded(call: Call) -> None:
    with scripted_server(BUSY) as server:
        with pytest.raises(errors.Unavailable, match="stopping"):
            call(server.url, "predict", ["a"], max_retries=2)
        assert len(server.request_ids) == 3
        with pytest.raises((errors.Unavailable, errors.DeadlineExceeded)):  # the last attempt may run out of time
            call(server.url, "predict", ["a"], max_retries=100, timeout_s=0.3)
    assert len(server.request_ids) < 12


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_may_be_a_number_or_a_date(as_date: bool) -> None:
    value = email.utils.formatdate(time.time() + 60, usegmt=True) if as_date else "60"
    with scripted_server(Answer(429, headers={"Retry-After": value})) as server:
        with pytest.raises(errors.Overloaded) as caught:
            call_sync(server.url, "predict", ["a"])  # not again: 60 s are more than the call has
    assert caught.value.retry_after_s == pytest.approx(60, abs=3)
    assert len(server.request_ids) == 1


def test_delays_grow_and_never_undercut_retry_after() -> None:
    attempts = Attempts(timeout_s=1000, max_retries=20)
    busy = errors.Unavailable("p", "r")
    delays = [attempts.delay_s(busy) for _ in range(12)]
    assert all(0.05 * 2**n <= delay <= 0.1 * 2**n for n, delay in enumerate(delays[:5]))
    assert all(2.5 <= delay <= 5 for delay in delays[6:])
    busy.retry_after_s = 7
    assert attempts.delay_s(busy) == 7
