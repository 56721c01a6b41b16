"""Callers in threads that share their fetches: against a real SPARQL server, and a stub that waits or fails on cue."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar

import pytest

from kg.collector import Neighbourhoods
from kg.endpoint import Endpoint, QueryTooHeavy, Term
from kg.neighbourhoods import Direction, Expansion, expand
from kg.server import local_endpoint
from kg.starter import entities, write_ntriples
from store.types import InputError, RunError

pytestmark = pytest.mark.timeout(60)


class Cache:
    """Where expansions land, and how often each did."""

    def __init__(self) -> None:
        self.landed: Counter[tuple[Direction, str]] = Counter()
        self.expansions: list[Expansion] = []
        self._lock = threading.Lock()

    def known(self, direction: Direction, asked: Collection[str]) -> set[str]:
        return {one for one in asked if (direction, one) in self.landed}

    def land(self, some: Sequence[Expansion]) -> None:
        with self._lock:
            self.landed.update((one.direction, one.entity) for one in some)
            self.expansions += some


class Stub(Endpoint):
    """Answers that nothing is there, once ``act`` returns; it is given the ids of each request, and may raise."""

    def __init__(self, act: Callable[[list[str]], None] = lambda ids: None) -> None:
        super().__init__("http://127.0.0.1:9/", snapshot="stub")
        self.act, self.asked = act, list[list[str]]()

    def select(self, query: str) -> list[dict[str, Term]]:
        ids = re.findall(r"wd:(Q\d+)", query)
        self.asked.append(ids)
        self.act(ids)
        return []


class Held:
    """An action that waits until it is let go; ``entered`` counts who came."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, ids: list[str]) -> None:
        self.entered.release()
        assert self.go.wait(30)


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def collector(endpoint: Endpoint, cache: Cache, *, in_flight: int = 2, out: int = 100) -> Neighbourhoods:
    return Neighbourhoods(
        endpoint,
        cap=500,
        known=cache.known,
        land=cache.land,
        in_flight=in_flight,
        batches={"out": out, "in": 50},
    )


def until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def queued(one: Neighbourhoods) -> int:
    return sum(len(queue) for queue in one._queues.values())


def workers() -> int:
    return sum(thread.name == "neighbourhoods" for thread in threading.enumerate())


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("starter")
    write_ntriples(place / "starter.nt")
    with local_endpoint([place / "starter.nt"], place) as address:
        yield address


@pytest.mark.real
class TestRealServer:
    def test_many_callers_with_common_wants(self, url: str, callers: ThreadPoolExecutor) -> None:
        """12 callers, each entity wanted by three of them: each landed once, in no more requests than one caller takes."""
        ids, cache, endpoint = list(entities())[:300], Cache(), Endpoint(url, snapshot="starter")
        one = collector(endpoint, cache, out=50)
        parts = [(ids + ids)[start : start + 75] for start in range(0, 300, 25)]
        counts = list(callers.map(lambda part: one.fetch({"out": part, "in": part}), parts))
        assert cache.landed == Counter({(way, entity): 1 for way in ("out", "in") for entity in ids})
        assert all(0 <= count <= 150 for count in counts)
        assert sum(counts) >= 600
        plain = Endpoint(url, snapshot="starter")
        whole = [found for way in ("out", "in") for part in expand(plain, ids, way) for found in part]  # type: ignore[arg-type]
        assert sorted(cache.expansions) == sorted(whole)

    def test_the_second_time_asks_nothing(self, url: str) -> None:
        ids, cache, endpoint = list(entities())[:120], Cache(), Endpoint(url, snapshot="starter")
        one = collector(endpoint, cache)
        assert one.fetch({"out": [*ids, *ids], "in": ids[:7]}) == 127
        assert endpoint.requests == 2 + 1
        assert one.fetch({"out": ids, "in": ids[:7]}) == 0
        assert one.fetch({"in": ids[:8], "out": []}) == 1
        assert endpoint.requests == 4

    def test_no_thread_is_left(self, url: str) -> None:
        one = collector(Endpoint(url, snapshot="starter"), Cache(), out=5)
        one.fetch({"out": list(entities())[:60]})
        until(lambda: workers() == 0)


class TestSharing:
    def test_what_waits_while_all_slots_are_busy_is_one_request(self, callers: ThreadPoolExecutor) -> None:
        held, cache = Held(), Cache()
        stub = Stub(held)
        one = collector(stub, cache, in_flight=1)
        first = callers.submit(one.fetch, {"out": ["Q1"]})
        assert held.entered.acquire(timeout=10)
        rest = [callers.submit(one.fetch, {"out": [f"Q{n}", f"Q{n + 1}", "Q1"]}) for n in range(2, 8)]
        until(lambda: queued(one) == 7)
        held.go.set()
        assert first.result(10) == 1
        assert [future.result(10) for future in rest] == [3] * 6
        assert [sorted(ids) for ids in stub.asked] == [["Q1"], [f"Q{n}" for n in range(2, 9)]]
        assert set(cache.landed.values()) == {1}

    def test_each_landing_is_counted_once_however_quick_it_is(self) -> None:
        one = collector(Stub(), Cache())
        assert [one.fetch({"out": [f"Q{n}"]}) for n in range(1, 301)] == [1] * 300

    def test_one_caller_keeps_all_slots_busy_and_no_more(self, callers: ThreadPoolExecutor) -> None:
        held = Held()
        stub = Stub(held)
        one = collector(stub, Cache(), in_flight=2, out=3)
        future = callers.submit(one.fetch, {"out": [f"Q{n}" for n in range(1, 13)]})
        assert held.entered.acquire(timeout=10)
        assert held.entered.acquire(timeout=10)
        assert not held.entered.acquire(timeout=0.1)
        held.go.set()
        assert future.result(10) == 12
        assert sorted(map(len, stub.asked)) == [3, 3, 3, 3]

    def test_what_lands_while_a_caller_looks_at_the_cache_is_not_asked_again(self, callers: ThreadPoolExecutor) -> None:
        """The look began before the landing and so knows nothing of it; at its end the entity is not open any more."""
        stub, cache, looking, landed = Stub(), Cache(), threading.Event(), threading.Event()

        def late(direction: Direction, asked: Collection[str]) -> set[str]:
            if "Q2" in asked:
                looking.set()
                assert landed.wait(10)
                return set()
            return cache.known(direction, asked)

        one = Neighbourhoods(stub, cap=500, known=late, land=cache.land)
        future = callers.submit(one.fetch, {"out": ["Q1", "Q2"]})
        assert looking.wait(10)
        assert one.fetch({"out": ["Q1"]}) == 1
        landed.set()
        assert future.result(10) == 2
        assert stub.asked == [["Q1"], ["Q2"]]

    def test_landing_has_the_context_of_a_caller(self) -> None:
        name: ContextVar[str] = ContextVar("name", default="nobody")
        seen: list[str] = []
        one = Neighbourhoods(
            Stub(), cap=500, known=lambda direction, asked: set(), land=lambda some: seen.append(name.get())
        )
        name.set("caller")
        one.fetch({"out": ["Q1"]})
        assert seen == ["caller"]


class TestTooHeavy:
    def test_a_batch_is_halved_and_nobody_is_hurt(self, callers: ThreadPoolExecutor) -> None:
        def act(ids: list[str]) -> None:
            if len(ids) > 2:
                raise QueryTooHeavy("too large")

        stub, cache = Stub(act), Cache()
        one = collector(stub, cache, out=8)
        parts = [[f"Q{n}" for n in range(start, start + 6)] for start in (1, 4, 7)]
        counts = list(callers.map(lambda part: one.fetch({"out": part}), parts))
        assert 12 <= sum(counts) <= 18
        assert cache.landed == Counter({("out", f"Q{n}"): 1 for n in range(1, 13)})

    def test_a_single_entity_that_is_too_heavy_fails_alone(self, callers: ThreadPoolExecutor) -> None:
        held = Held()

        def act(ids: list[str]) -> None:
            if ids == ["Q100"]:
                held(ids)
            elif "Q3" in ids:
                raise QueryTooHeavy("a hub")

        cache = Cache()
        one = collector(Stub(act), cache, in_flight=1)
        first = callers.submit(one.fetch, {"out": ["Q100"]})  # so that the two wait and make one batch
        assert held.entered.acquire(timeout=10)
        hurt = callers.submit(one.fetch, {"out": ["Q1", "Q2", "Q3", "Q4"]})
        fine = callers.submit(one.fetch, {"out": ["Q4", "Q5", "Q6"]})
        until(lambda: queued(one) == 6)
        held.go.set()
        with pytest.raises(QueryTooHeavy, match="a hub"):
            hurt.result(10)
        assert fine.result(10) == 3
        assert first.result(10) == 1
        assert {entity for _way, entity in cache.landed} >= {"Q4", "Q5", "Q6"}
        assert ("out", "Q3") not in cache.landed


class TestFailure:
    def test_only_those_who_want_what_failed_hear_of_it_and_it_may_be_asked_again(
        self, callers: ThreadPoolExecutor
    ) -> None:
        broken = True

        def act(ids: list[str]) -> None:
            if broken and "Q2" in ids:
                raise RunError("the endpoint is dead")

        cache = Cache()
        one = collector(Stub(act), cache, out=1)
        results: list[Future[int]] = [
            callers.submit(one.fetch, {"out": part}) for part in (["Q1", "Q3"], ["Q2"], ["Q2", "Q4"])
        ]
        assert results[0].result(10) == 2
        for future in results[1:]:
            with pytest.raises(RunError, match="dead"):
                future.result(10)
        assert ("out", "Q2") not in cache.landed
        broken = False
        assert one.fetch({"out": ["Q2", "Q1"]}) == 1

    def test_what_cannot_be_landed_has_failed(self) -> None:
        full = True
        cache = Cache()

        def land(some: Sequence[Expansion]) -> None:
            if full:
                raise OSError("no space left")
            cache.land(some)

        one = Neighbourhoods(Stub(), cap=500, known=cache.known, land=land)
        with pytest.raises(OSError, match="no space"):
            one.fetch({"in": ["Q1"]})
        full = False
        assert one.fetch({"in": ["Q1"]}) == 1
        until(lambda: workers() == 0)

    def test_what_nobody_waits_for_any_more_is_not_asked(self) -> None:
        def act(ids: list[str]) -> None:
            if ids == ["Q1"]:
                raise RunError("dead")
            time.sleep(0.05)

        stub = Stub(act)
        one = collector(stub, Cache(), in_flight=1, out=1)
        with pytest.raises(RunError, match="dead"):
            one.fetch({"out": [f"Q{n}" for n in range(1, 200)]})
        until(lambda: workers() == 0)
        assert len(stub.asked) <= 2
        assert one._open == {}

    def test_even_an_interrupt_of_a_worker_reaches_who_waits(self) -> None:
        def act(ids: list[str]) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            collector(Stub(act), Cache()).fetch({"out": ["Q1"]})

    def test_a_cache_that_cannot_be_read_is_an_error(self) -> None:
        def known(direction: Direction, asked: Collection[str]) -> set[str]:
            raise OSError("locked")

        stub = Stub()
        one = Neighbourhoods(stub, cap=500, known=known, land=Cache().land)
        with pytest.raises(OSError, match="locked"):
            one.fetch({"out": ["Q1"]})
        assert stub.asked == []
        assert one._asking == {}


def test_an_interrupted_caller_leaves_at_once_and_the_others_go_on(callers: ThreadPoolExecutor) -> None:
    held, cache = Held(), Cache()
    stub = Stub(held)
    one = collector(stub, cache, in_flight=1)
    others: list[Future[int]] = []

    def press() -> None:
        assert held.entered.acquire(timeout=10)  # the request of the main thread's caller is under way
        others.append(callers.submit(one.fetch, {"out": ["Q1", "Q2", "Q3"]}))
        until(lambda: queued(one) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    with pytest.raises(KeyboardInterrupt):
        one.fetch({"out": ["Q1"]})
    pressing.join(10)
    held.go.set()
    assert others[0].result(10) == 3
    assert cache.landed == Counter({("out", name): 1 for name in ("Q1", "Q2", "Q3")})


class TestInput:
    def test_a_bad_id_is_refused_before_anything_is_asked(self) -> None:
        stub = Stub()
        one = collector(stub, Cache())
        with pytest.raises(InputError, match="Q42"):
            one.fetch({"out": ["Q1"], "in": ["Q2 } #"]})
        assert stub.asked == []

    @pytest.mark.parametrize(("cap", "in_flight", "batch"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
    def test_limits(self, cap: int, in_flight: int, batch: int) -> None:
        cache = Cache()
        with pytest.raises(InputError, match="at least 1"):
            Neighbourhoods(
                Stub(), cap=cap, known=cache.known, land=cache.land, in_flight=in_flight, batches={"out": batch}
            )
