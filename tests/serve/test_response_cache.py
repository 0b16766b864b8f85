"""The cache of responses: what it keeps, how much, and that a cached answer is the model's."""

import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from kit.engines import StalledEngine, wait_until
from kit.serving import LocalService, assert_error, local_service

from tuneport.stages.serve.inference import InferenceResult
from tuneport.stages.serve.response_cache import ENTRY_BYTES, ResponseCache


def result(text: str, *, truncated: bool = False) -> InferenceResult:
    return InferenceResult({"label": text, "score": 0.5}, 7, 0, truncated)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2000)), max_size=60), st.integers(1, 5000))
def test_it_never_exceeds_its_bytes_and_returns_what_was_put(puts: list[tuple[int, int]], max_bytes: int) -> None:
    cache, values = ResponseCache(max_bytes, "a"), {}
    for number, size in puts:
        [key] = cache.keys([number], None)
        values.setdefault(number, result("x" * size))
        cache.put(key, values[number])
        assert cache.bytes == sum(entry.size for entry in cache._entries.values()) <= max_bytes
    for number, value in values.items():
        assert cache.get(cache.keys([number], None)[0]) in (None, value)


def test_what_was_not_used_for_longest_leaves_first() -> None:
    cache = ResponseCache(2 * ENTRY_BYTES + 100, "a")
    first, second, third = cache.keys([1, 2, 3], None)
    cache.put(first, result("1"))
    cache.put(second, result("2"))
    assert cache.get(first)
    cache.put(third, result("3"))
    assert [cache.get(key) is not None for key in (first, second, third)] == [True, False, True]


def test_a_key_is_of_input_parameters_and_artifact() -> None:
    cache, other = ResponseCache(10_000, "a:1"), ResponseCache(10_000, "a:2")
    inputs = ["bank", "bank ", {"text": "bank"}, {"text": "a", "text_pair": "b"}, 1, 1.0, True, None, [], '"bank"']
    keys = [*cache.keys(inputs, None), *cache.keys(inputs, {"top_k": 2}), *other.keys(inputs, None)]
    assert len(set(keys)) == len(keys)
    assert cache.keys(["bank"], {}) == cache.keys(["bank"], None)
    assert cache.keys([{"a": 1, "b": 2}], {"c": 3, "d": 4}) == cache.keys([{"b": 2, "a": 1}], {"d": 4, "c": 3})
    assert cache.keys([b"audio", 2**70, "bank"], None)[:2] == [None, None]
    assert cache.keys(["bank"], {"x": b""}) == [None]


def test_an_answer_from_the_cache_is_the_model_s_and_runs_nothing(tiny_artifact: Path) -> None:
    with local_service(tiny_artifact, response_cache_mib=1) as service:
        engine = StalledEngine.of(service.runner)
        first = service.post(["bank fell", "team won"]).json()
        calls = len(engine.calls)
        assert service.post(["team won", "bank fell"]).json()["predictions"] == first["predictions"][::-1]
        assert len(engine.calls) == calls
        mixed = service.post(["bank fell", "the game", "team won"]).json()["predictions"]
        assert [mixed[0], mixed[2]] == first["predictions"]
        assert len(engine.calls) == calls + 1
        assert_error(service.post(7), 422)
        assert_error(service.post(7), 422)
        page = service.get("/metrics").text
    assert count(page, "tuneport_cache_hits_total") == 4
    assert count(page, "tuneport_cache_misses_total") == 2 + 1 + 2
    assert count(page, "tuneport_inputs_total") == 7


def test_without_the_setting_there_is_none(tiny_artifact: Path) -> None:
    with local_service(tiny_artifact) as service:
        engine = StalledEngine.of(service.runner)
        for _ in range(2):
            service.post("bank")
        assert len(engine.calls) == 2


def test_an_answer_in_the_cache_is_given_however_full_the_queue_is(tiny_artifact: Path) -> None:
    with local_service(tiny_artifact, response_cache_mib=1, max_queue_inputs=1) as service:
        service.post("bank")
        engine = StalledEngine.of(service.runner, stalled=True)
        busy = fill(service, engine)
        try:
            assert service.post("bank").status_code == 200
            assert_error(service.post("team"), 429)
        finally:
            engine.resume()
            for thread in busy:
                thread.join()


def test_its_size_is_in_the_metrics(tiny_artifact: Path) -> None:
    with local_service(tiny_artifact, response_cache_mib=1) as service:
        service.post("bank")
        assert ENTRY_BYTES < count(service.get("/metrics").text, "tuneport_cache_bytes") < ENTRY_BYTES + 200


def fill(service: LocalService, engine: StalledEngine) -> list[threading.Thread]:
    """Occupy every stream and the queue's only place."""
    threads: list[threading.Thread] = []
    for number in range(service.runner.streams + 1):
        threads.append(threading.Thread(target=service.post, args=(f"team {number}",)))
        threads[-1].start()
        if number < service.runner.streams:
            wait_until(lambda: len(engine.calls) == len(threads))
    wait_until(lambda: service.inference.batcher.waiting == 1)
    return threads


def count(page: str, start: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(start))
