"""Retrieval from a real SPARQL server through a proxy that spoils its answers: nothing lost, nothing falsely empty."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from fault_server import FaultProxy

from kg import pacing
from kg.endpoint import Endpoint, RequestRecord
from kg.neighbourhoods import Expansion, expand, labels
from kg.pacing import HostRefuses, Limits
from kg.server import local_endpoint
from kg.starter import entities, properties, write_ntriples
from store.types import RunError

IDS = sorted(entities())[:400]
ONE_AT_A_TIME = Limits(in_flight=1, rate=1e6, burst=1000, seconds_burst=1e6)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("facts")
    write_ntriples(place / "starter.nt")
    with local_endpoint([place / "starter.nt"], place) as url:
        yield url


@pytest.fixture(autouse=True)
def new_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports come again, holds and refusals must not."""
    monkeypatch.setattr(pacing, "_GATES", {})


def through(proxy: FaultProxy, **options: Any) -> Endpoint:
    """An endpoint whose own pauses (at least 0.375 s) are cut short; a Retry-After of the proxy is at most 0.1 s."""

    def sleep(seconds: float) -> None:
        time.sleep(seconds if seconds <= 0.11 else 0.01)

    return Endpoint(proxy.url, snapshot="s", timeout=0.5, sleep=sleep, **options)


def retrieved(endpoint: Endpoint) -> list[Future[Any]]:
    """Both directions and the labels, each in a thread of its own."""

    def neighbourhoods(direction: Any) -> list[Expansion]:
        return [one for batch in expand(endpoint, IDS, direction, cap=20, batch=40) for one in batch]

    with ThreadPoolExecutor(3) as pool:
        return [
            pool.submit(neighbourhoods, "out"),
            pool.submit(neighbourhoods, "in"),
            pool.submit(labels, endpoint, [*IDS, *properties()]),
        ]


def contents(endpoint: Endpoint) -> tuple[dict[str, Expansion], dict[str, Expansion], dict[str, str]]:
    out, into, names = (future.result() for future in retrieved(endpoint))
    assert sorted(one.entity for one in out) == sorted(one.entity for one in into) == IDS
    return {one.entity: one for one in out}, {one.entity: one for one in into}, names


@pytest.mark.parametrize("seed", [1, 2])
def test_all_faults_together_change_nothing(real: str, seed: int) -> None:
    expected = contents(Endpoint(real, snapshot="s"))
    assert len(IDS) == 400
    assert set(expected[2]) == {*IDS, *properties()}
    assert any(one.truncated for one in expected[1].values())

    proxy, records = FaultProxy(real, seed), list[RequestRecord]()
    endpoint = through(proxy, limits=ONE_AT_A_TIME, on_request=records.append)
    assert contents(endpoint) == expected
    proxy.close()

    assert len(proxy.faults) >= 12
    assert proxy.faults.total() == len(proxy.requests) == endpoint.requests
    assert sum(record.attempts for record in records) == endpoint.requests
    assert sum(record.bytes for record in records) == endpoint.bytes
    outcomes = Counter(record.outcome for record in records)
    assert outcomes.keys() == {"ok", "late"}
    assert outcomes["late"] >= 1  # the first query, which was then asked in halves

    assert len(proxy.holds) >= 5
    for since, until in proxy.holds:
        assert not [moment for moment in proxy.times if since < moment < until]


def test_a_refusal_stops_every_thread_at_once(real: str) -> None:
    proxy = FaultProxy(real, seed=3, slow=0, refuse_from=8)
    endpoint = through(proxy, limits=ONE_AT_A_TIME, user_agent="mine/1 (me@example.org)")
    for future in retrieved(endpoint)[:2]:  # the labels, of one request, may be there already
        with pytest.raises(HostRefuses, match=r"refuses this client: HTTP 403 \(banned\).*Check that user_agent"):
            future.result()
    assert len(proxy.requests) == 8

    with pytest.raises(HostRefuses, match="403"):
        labels(through(proxy, user_agent="mine/1 (me@example.org)"), ["Q1"])
    assert len(proxy.requests) == 8
    with pytest.raises(HostRefuses, match="403"):
        labels(through(proxy, user_agent="other/1 (me@example.org)"), ["Q1"])
    assert len(proxy.requests) == 9
    proxy.close()


def test_a_server_that_dies_is_an_error_and_no_empty_neighbourhood(real: str) -> None:
    proxy = FaultProxy(real, seed=4, slow=0)
    endpoint, seen = through(proxy), list[Expansion]()
    truth = {one.entity: one for batch in expand(Endpoint(real, snapshot="s"), IDS, "out") for one in batch}

    def dying() -> None:
        for batch in expand(endpoint, IDS, "out", batch=1):
            seen.extend(batch)
            if len(seen) == 8:
                proxy.close()

    with pytest.raises(RunError, match=r"cannot reach .* after 4 attempts"):
        dying()
    assert len(seen) == 8
    assert all(one == truth[one.entity] for one in seen)
