"""The gate of a host: within one process on a made clock, and between real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from kg import pacing
from kg.pacing import LOCAL, PUBLIC, Gate, HostRefuses, Limits, gate_of, retry_after
from store.types import RunError

ROOT = Path(pacing.__file__).parent.parent


class Clock:
    """Time that passes only in its sleeps."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.pauses: list[float] = []

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.pauses.append(round(seconds, 6))
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pacing, "time", made)
    return made


@pytest.fixture(params=["one process", "shared"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Where the state is kept; the limits are the same."""
    return tmp_path / "slots" if request.param == "shared" else None


@pytest.fixture(autouse=True)
def new_gates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pacing, "_GATES", {})
    monkeypatch.setattr(pacing, "shared_folder", lambda: tmp_path / "default")


def pass_through(gate: Gate, clock: Clock, seconds: float = 0.0) -> float:
    """One request of so many seconds; returns how long the gate made it wait."""
    with gate.entered(clock.sleep) as waited:
        clock.now += seconds
    return waited


class TestRetryAfter:
    def test_forms(self) -> None:
        assert retry_after("120") == 120.0
        later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
        assert 57 < (retry_after(later) or 0) <= 60
        assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0

    @pytest.mark.parametrize("value", [None, "", "soon", "-5", "٣", "Wed, 99 Oct 2015"])
    def test_unreadable(self, value: str | None) -> None:
        assert retry_after(value) is None

    @pytest.mark.parametrize("value", ["9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
    def test_for_ever_is_a_year(self, value: str) -> None:
        assert retry_after(value) == 366 * 86400


class TestLimits:
    @pytest.mark.parametrize("field", ["in_flight", "rate", "burst", "seconds_burst", "seconds_rate"])
    def test_above_nothing(self, field: str) -> None:
        with pytest.raises(ValidationError, match=field):
            Limits(**{field: 0})

    def test_no_infinity(self) -> None:
        with pytest.raises(ValidationError, match="rate"):
            Limits(rate=float("inf"))

    def test_requests_are_spaced_once_the_burst_is_used_up(self, clock: Clock, folder: Path | None) -> None:
        gate = Gate("h", Limits(rate=2.0, burst=3), folder)
        assert [pass_through(gate, clock) for _ in range(5)] == [0, 0, 0, 0.5, 0.5]
        clock.now += 60
        assert [pass_through(gate, clock) for _ in range(4)] == [0, 0, 0, 0.5]

    def test_query_time_is_charged_after_each_request(self, clock: Clock, folder: Path | None) -> None:
        gate = Gate("h", Limits(rate=1e6, burst=1000, seconds_burst=120, seconds_rate=1.0), folder)
        # A request earns while it runs what it costs: one at a time never empties the budget.
        assert [pass_through(gate, clock, 60) for _ in range(5)] == [0] * 5
        half = Gate("half", Limits(rate=1e6, burst=1000, seconds_burst=120, seconds_rate=0.5), folder)
        # Left are 60, 30, 0, and then -30, which takes 60 s.
        assert [pass_through(half, clock, 60) for _ in range(6)] == [0, 0, 0, 0, 60, 60]

    def test_query_time_of_two_at_once_counts_twice(self, clock: Clock, folder: Path | None) -> None:
        gate = Gate("h", Limits(rate=1e6, burst=1000), folder)
        waits = []
        for _ in range(4):
            with gate.entered(clock.sleep) as first, gate.entered(clock.sleep) as second:
                clock.now += 60
            waits += [first, second]
        assert waits == [0, 0, 0, 0, 60, 0, 60, 0]

    def test_no_more_in_flight_than_allowed(self, folder: Path | None) -> None:
        gate, now, most = Gate("h", Limits(in_flight=2, rate=1e6, burst=100), folder), [0], [0]
        lock = threading.Lock()

        def work() -> None:
            with gate.entered(time.sleep):
                with lock:
                    now[0] += 1
                    most[0] = max(most[0], now[0])
                time.sleep(0.02)
                with lock:
                    now[0] -= 1

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most[0] == 2

    def test_a_failed_request_gives_its_place_back(self, folder: Path | None) -> None:
        gate = Gate("h", Limits(in_flight=1), folder)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError), gate.entered(time.sleep):
                raise ZeroDivisionError


class TestHold:
    def test_is_for_everybody(self, clock: Clock, folder: Path | None) -> None:
        gate = Gate("h", Limits(rate=1e6, burst=100), folder)
        gate.hold(5)
        gate.hold(2)  # a shorter one does not end it
        assert pass_through(gate, clock) == pytest.approx(5)
        assert pass_through(gate, clock) == 0

    def test_made_longer_while_somebody_waits(self, clock: Clock, folder: Path | None) -> None:
        gate = Gate("h", Limits(rate=1e6, burst=100), folder)
        gate.hold(5)

        def sleep(seconds: float) -> None:
            if not clock.pauses:
                gate.hold(7)
            clock.sleep(seconds)

        with gate.entered(sleep) as waited:
            assert waited == pytest.approx(7)

    def test_longer_than_one_waits_is_an_error_for_all_until_then(self, clock: Clock, folder: Path | None) -> None:
        gate = Gate("h.org", Limits(), folder)
        gate.hold(86_400)
        for _ in range(2):
            with pytest.raises(
                RunError, match=r"h\.org has asked not to be asked again before 1970-01-13 13:46:40 UTC"
            ):
                pass_through(gate, clock)
        assert clock.pauses == []
        clock.now += 86_400
        assert pass_through(gate, clock) == 0

    def test_a_refusal_is_for_one_user_agent_and_an_hour(self, clock: Clock, folder: Path | None) -> None:
        gate = Gate("h", Limits(), folder)
        gate.refuse("mine", "go away")
        with pytest.raises(HostRefuses, match="go away"), gate.entered(clock.sleep, "mine"):
            pass
        with gate.entered(clock.sleep, "other"):
            pass
        clock.now += 3601
        with gate.entered(clock.sleep, "mine"):
            pass


class TestOneGateForAHost:
    def test_defaults(self, tmp_path: Path) -> None:
        assert gate_of("query.wikidata.org", True).limits == PUBLIC == Limits()
        assert (PUBLIC.in_flight, PUBLIC.seconds_burst, PUBLIC.seconds_rate) == (2, 120, 1.0)
        assert gate_of("127.0.0.1:7878", False).limits == LOCAL
        with gate_of("query.wikidata.org", True).entered(time.sleep):
            assert {file.name for file in (tmp_path / "default").iterdir()} == {
                "query.wikidata.org.slot-0",
                "query.wikidata.org.state",
            }

    def test_given_limits_replace_the_defaults_and_then_the_stricter_count(self) -> None:
        gate = gate_of("h", True)
        assert gate_of("h", True, Limits(in_flight=8, rate=1.0)) is gate
        assert gate.limits == Limits(in_flight=8, rate=1.0)
        gate_of("h", True, Limits(in_flight=4, rate=9.0))
        gate_of("h", True)
        assert gate.limits == Limits(in_flight=4, rate=1.0)

    def test_hosts_are_apart(self, clock: Clock) -> None:
        gate_of("a", True).hold(5)
        assert pass_through(gate_of("b", True), clock) == 0
        assert pass_through(gate_of("a", True), clock) == pytest.approx(5)


WORKER = """
import sys, time
from pathlib import Path
from kg.pacing import Gate, Limits
gate = Gate("h", Limits(in_flight=int(sys.argv[2]), rate=1e6, burst=1000), Path(sys.argv[1]))
print("ready", flush=True)
for seconds in map(float, sys.stdin.readline().split()):
    with gate.entered(time.sleep):
        start = time.monotonic()
        print(f"in {start}", flush=True)
        time.sleep(seconds)
        print(start, time.monotonic(), flush=True)
"""


class Worker:
    """A process that passes the gate of a folder, once for each number of seconds."""

    def __init__(self, folder: Path, in_flight: int) -> None:
        command = [sys.executable, "-c", WORKER, str(folder), str(in_flight)]
        self.process = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=ROOT)

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def work(self, *seconds: float) -> None:
        assert self.read() == "ready"
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, seconds)) + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Worker]]:
    made: list[Worker] = []
    yield made
    for worker in made:
        worker.end()


class TestProcesses:
    def test_no_more_in_flight_on_the_machine_than_allowed(self, tmp_path: Path, workers: list[Worker]) -> None:
        workers += [Worker(tmp_path / "s", 2) for _ in range(3)]
        for worker in workers:
            worker.work(*[0.1] * 4)
        spans = []
        for worker in workers:
            output, _errors = worker.process.communicate(timeout=20)
            lines = [line.split() for line in output.splitlines() if not line.startswith("in")]
            spans += [(float(start), float(end)) for start, end in lines]
        assert len(spans) == 12
        most = max(sum(start <= moment < end for start, end in spans) for moment, _end in spans)
        assert most == 2

    def test_a_killed_process_frees_its_place(self, tmp_path: Path, workers: list[Worker]) -> None:
        workers.append(Worker(tmp_path / "s", 1))
        workers[0].work(60)
        assert workers[0].read().startswith("in")
        gate, passed = Gate("h", Limits(in_flight=1), tmp_path / "s"), threading.Event()

        def wait_for_it() -> None:
            with gate.entered(time.sleep):
                passed.set()

        thread = threading.Thread(target=wait_for_it)
        thread.start()
        assert not passed.wait(0.3)
        os.kill(workers[0].process.pid, signal.SIGKILL)
        assert passed.wait(5)
        thread.join()

    def test_a_hold_holds_the_other_processes(self, tmp_path: Path, workers: list[Worker]) -> None:
        workers.append(Worker(tmp_path / "s", 2))
        Gate("h", Limits(), tmp_path / "s").hold(2)
        until = time.monotonic() + 2
        workers[0].work(0)
        assert float(workers[0].read().split()[1]) >= until - 0.01

    def test_a_place_that_never_comes_free_is_an_error(
        self, tmp_path: Path, workers: list[Worker], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        workers.append(Worker(tmp_path / "s", 1))
        workers[0].work(60)
        assert workers[0].read().startswith("in")
        monkeypatch.setattr(pacing, "SLOT_SECONDS", 0.2)
        with (
            pytest.raises(RunError, match="held all 1 places at h for"),
            Gate("h", Limits(in_flight=1), tmp_path / "s").entered(time.sleep),
        ):
            pass


class TestFolder:
    def test_two_gates_share_tokens_query_time_and_holds(self, clock: Clock, tmp_path: Path) -> None:
        limits = Limits(rate=1.0, burst=2, seconds_burst=10, seconds_rate=0.1)
        one, two = Gate("h", limits, tmp_path / "s"), Gate("h", limits, tmp_path / "s")
        assert [pass_through(gate, clock) for gate in (one, two, one, two)] == [0, 0, 1, 1]
        pass_through(one, clock, 20)  # 10 - 20 = -10, at 0.1 a second
        assert pass_through(two, clock) == pytest.approx(100)

    def test_is_for_its_user_alone(self, tmp_path: Path) -> None:
        with Gate("h:80/../x", Limits(), tmp_path / "s").entered(time.sleep):
            assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
            assert {file.name for file in (tmp_path / "s").iterdir()} == {"h_80_.._x.slot-0", "h_80_.._x.state"}

    def test_one_that_others_can_write_to(self, tmp_path: Path) -> None:
        (tmp_path / "s").mkdir()
        (tmp_path / "s").chmod(0o777)
        self.refuses(tmp_path / "s", r"not a folder that only you can write to.*TMPDIR")

    def test_a_link_to_one(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir(mode=0o700)
        (tmp_path / "s").symlink_to(tmp_path / "real")
        self.refuses(tmp_path / "s", "not a folder that only you can write to")

    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "s").write_text("")
        self.refuses(tmp_path / "s", "cannot be used.*TMPDIR")

    def refuses(self, folder: Path, match: str) -> None:
        with pytest.raises(RunError, match=match), Gate("h", Limits(), folder).entered(time.sleep):
            pass

    @pytest.mark.parametrize("content", ["", "[1, 2", "{}", "[1, 2, 3, NaN]", "[1]", '["a", 1, 1, 1]', "x" * 5000])
    def test_a_broken_state_is_a_fresh_one(self, clock: Clock, tmp_path: Path, content: str) -> None:
        gate = Gate("h", Limits(), tmp_path / "s")
        (tmp_path / "s").mkdir(mode=0o700)
        (tmp_path / "s" / "h.state").write_text(content)
        assert pass_through(gate, clock) == 0
        gate.hold(5)
        assert pass_through(Gate("h", Limits(), tmp_path / "s"), clock) == pytest.approx(5)

    def test_a_clock_set_back_costs_nothing(self, clock: Clock, tmp_path: Path) -> None:
        (tmp_path / "s").mkdir(mode=0o700)
        (tmp_path / "s" / "h.state").write_text(json.dumps([4.0, 120.0, clock.now + 3600, 0.0]))
        gate = Gate("h", Limits(), tmp_path / "s")
        assert [pass_through(gate, clock) for _ in range(5)] == [0, 0, 0, 0, 0.5]

    def test_removed_meanwhile(self, tmp_path: Path) -> None:
        gate = Gate("h", Limits(), tmp_path / "s")
        for _ in range(2):
            with gate.entered(time.sleep):
                pass
            for file in (tmp_path / "s").iterdir():
                file.unlink()
            (tmp_path / "s").rmdir()
