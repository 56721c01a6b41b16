"""How fast a host may be asked: what keeps this machine polite towards a public endpoint.

Every request to a host passes the host's :class:`Gate`, which keeps to its :class:`Limits`. For a public host the gate's
state lies in a folder of small files, so that all processes of this user on this machine keep to the limits together:
requests in flight, the rate of requests, the budget of query time, and the time until which a server's Retry-After holds.
Not shared are a refusal (403; each process asks once to learn of it), and anything between users, machines, or containers
with a temporary folder of their own.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from store.types import Frozen, RunError

LONGEST_WAIT = 900.0  # seconds of Retry-After that are waited for; asked to wait longer, the run stops and says so
REFUSED_SECONDS = 3600.0  # a host that refused a client is not asked again for so long
SLOT_SECONDS = 3600.0  # waited for the requests of other processes, which a stopped process would never end
SLOT_PAUSE = 0.05
STATE_BYTES = 200  # four numbers and padding


class Limits(Frozen):
    """What a host may be asked for. The defaults suit the Wikidata Query Service.

    ``in_flight`` requests at once; ``burst`` requests, then ``rate`` a second; ``seconds_burst`` seconds of query time,
    then ``seconds_rate`` seconds of it a second. The wall time of a request is charged once it has ended, so that the
    budget can be overdrawn; the next request then waits until it is positive again.
    """

    in_flight: int = Field(default=2, ge=1)
    rate: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    burst: int = Field(default=4, ge=1)
    seconds_burst: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    seconds_rate: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    def stricter(self, other: Limits) -> Limits:
        """Of each limit the lower one of the two."""
        mine, theirs = self.model_dump(), other.model_dump()
        return Limits(**{name: min(mine[name], theirs[name]) for name in mine})


PUBLIC = Limits()
LOCAL = Limits(in_flight=64, rate=1e6, burst=1000, seconds_burst=1e9, seconds_rate=1e6)


class HostRefuses(RunError):
    """The host has refused this client (403): it is not asked again for a while."""


class _State(NamedTuple):
    """What is left at the time ``at``: request tokens (below 0: promised to those that wait) and seconds of query time.

    Nobody may pass before ``closed``. Times are in seconds of the wall clock, which processes and reboots share.
    """

    tokens: float
    seconds: float
    at: float
    closed: float = 0.0

    def refilled(self, limits: Limits, now: float) -> _State:
        passed = max(0.0, now - self.at)
        tokens = min(float(limits.burst), self.tokens + passed * limits.rate)
        return _State(tokens, min(limits.seconds_burst, self.seconds + passed * limits.seconds_rate), now, self.closed)

    def opens(self, limits: Limits) -> float:
        """The time from which there is query time left and no hold."""
        return max(self.closed, self.at - self.seconds / limits.seconds_rate if self.seconds < 0 else 0.0)


class Gate:
    """What every request to one host passes. ``shared`` is the folder through which processes share it, or None."""

    def __init__(self, host: str, limits: Limits, shared: Path | None = None) -> None:
        self.host, self.limits = host, limits
        self._files = _Files(shared, host) if shared is not None else None
        self._kept: _State | None = None
        self._lock = threading.Lock()
        self._room = threading.Condition()
        self._under_way = 0
        self._refused: dict[str, tuple[str, float]] = {}

    @contextmanager
    def entered(self, sleep: Callable[[float], None], agent: str = "") -> Iterator[float]:
        """Hold a place for the block, once the limits and any hold allow it; yields the seconds that this took.

        Raises HostRefuses if the host has refused this user agent, RunError if it asked for a longer wait than
        :data:`LONGEST_WAIT`, or if the shared folder cannot be used.
        """
        came = time.monotonic()
        with self._place(sleep):
            self._wait(sleep)
            self._check_refusal(agent)
            began = time.monotonic()
            try:
                yield began - came
            finally:
                self._charge(time.monotonic() - began)

    def hold(self, seconds: float) -> None:
        """Let nobody pass for this long: what a server's Retry-After asks for."""
        self._update(lambda now: now._replace(closed=max(now.closed, now.at + seconds)))

    def refuse(self, agent: str, message: str) -> None:
        """Let this user agent pass no more for :data:`REFUSED_SECONDS`; ``message`` is what it is told."""
        self._refused[agent] = message, time.monotonic() + REFUSED_SECONDS

    @contextmanager
    def _place(self, sleep: Callable[[float], None]) -> Iterator[None]:
        with self._room:
            self._room.wait_for(lambda: self._under_way < self.limits.in_flight)
            self._under_way += 1
        try:
            with self._files.slot(self.limits.in_flight, sleep) if self._files else nullcontext():
                yield
        finally:
            with self._room:
                self._under_way -= 1
                self._room.notify()

    def _wait(self, sleep: Callable[[float], None]) -> None:
        state = self._update(lambda now: now._replace(tokens=now.tokens - 1))
        token, waited = state.at + max(0.0, -state.tokens / self.limits.rate), 0.0
        while True:
            now = time.time()
            if state.closed - now > LONGEST_WAIT:
                until = datetime.fromtimestamp(state.closed, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
                raise RunError(
                    f"{self.host} has asked not to be asked again before {until}. Run again after that time."
                )
            opens = max(token, state.opens(self.limits))
            if opens <= waited or opens <= now:
                return
            sleep(opens - now)
            waited = opens  # waited for again only if somebody made it longer meanwhile
            state = self._update(lambda now: now)

    def _check_refusal(self, agent: str) -> None:
        message, until = self._refused.get(agent, ("", 0.0))
        if time.monotonic() < until:
            raise HostRefuses(message)

    def _charge(self, seconds: float) -> None:
        self._update(lambda now: now._replace(seconds=now.seconds - seconds))

    def _update(self, change: Callable[[_State], _State]) -> _State:
        """The state after a change, which is given it as it is now."""

        def changed(before: _State | None) -> _State:
            now = time.time()
            full = _State(float(self.limits.burst), self.limits.seconds_burst, now)
            return change(before.refilled(self.limits, now) if before else full)

        with self._lock:
            self._kept = self._files.update(changed) if self._files else changed(self._kept)
            return self._kept


class _Files:
    """The state of one host in a folder of this user: a file to hold locked for each request in flight, one of numbers.

    The kernel drops the locks of a process that ends, however it ends.
    """

    def __init__(self, folder: Path, host: str) -> None:
        self._folder, self._name = folder, re.sub(r"[^a-z0-9.-]", "_", host.lower())

    @contextmanager
    def slot(self, count: int, sleep: Callable[[float], None]) -> Iterator[None]:
        """Hold one of ``count`` slots for the block."""
        file = self._free_slot(count, sleep)
        try:
            yield
        finally:
            # Closing is not enough: a process forked meanwhile would still hold it.
            fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)

    def _free_slot(self, count: int, sleep: Callable[[float], None]) -> int:
        deadline = time.monotonic() + SLOT_SECONDS
        while time.monotonic() < deadline:
            for number in range(count):
                file = self._opened(f"slot-{number}")
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return file
                except OSError as error:
                    os.close(file)
                    if not isinstance(error, BlockingIOError):
                        raise RunError(f"{self._folder} does not allow locks ({error}): {_ELSEWHERE}") from error
            sleep(SLOT_PAUSE)
        raise RunError(
            f"other processes have held all {count} places at {self._name} for {SLOT_SECONDS:.0f} s: "
            f"end the ones that hang (fuser {self._folder}/* shows them)"
        )

    def update(self, change: Callable[[_State | None], _State]) -> _State:
        """The state after the change, of which there is one at a time."""
        file = self._opened("state")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            state = change(_parsed(os.pread(file, STATE_BYTES, 0)))
            # One write of a fixed length: a process killed here leaves the old state or the new one.
            os.pwrite(file, json.dumps(state).ljust(STATE_BYTES).encode(), 0)
            return state
        except OSError as error:
            raise RunError(f"the pacing state in {self._folder} cannot be kept ({error}): {_ELSEWHERE}") from error
        finally:
            os.close(file)

    def _opened(self, kind: str) -> int:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = os.lstat(self._folder)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
                raise RunError(f"{self._folder} is not a folder that only you can write to: remove it, or {_ELSEWHERE}")
            return os.open(self._folder / f"{self._name}.{kind}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise RunError(f"the pacing folder {self._folder} cannot be used ({error}): {_ELSEWHERE}") from error


_YEAR = 366 * 86400.0
_ELSEWHERE = "set TMPDIR to a folder of yours on a local disk"


def _parsed(data: bytes) -> _State | None:
    """The state in a file, or None if it holds none."""
    try:
        state = _State(*json.loads(data))
        return state if all(map(math.isfinite, state)) else None
    except (ValueError, TypeError):
        return None


def shared_folder() -> Path:
    """Where processes of this user share the state of public hosts unless told otherwise."""
    return Path(tempfile.gettempdir()) / f"factscale-{os.getuid()}"


_GATES: dict[tuple[str, Path | None], tuple[Gate, bool]] = {}
_GATES_LOCK = threading.Lock()


def gate_of(host: str, public: bool, limits: Limits | None = None, shared: Path | None = None) -> Gate:
    """This process's one gate of a host and port; a public one is shared by processes, in ``shared`` or the default.

    Without ``limits`` a public host has :data:`PUBLIC`, this machine :data:`LOCAL`. Limits given later replace such
    defaults; if limits were given before, the stricter of each counts from then on, for everybody at the gate.
    """
    folder = shared or (shared_folder() if public else None)
    with _GATES_LOCK:
        gate, given = _GATES.get((host, folder), (None, False))
        if gate is None:
            gate = Gate(host, limits or (PUBLIC if public else LOCAL), folder)
        elif limits is not None:
            gate.limits = gate.limits.stricter(limits) if given else limits
        _GATES[host, folder] = gate, given or limits is not None
        return gate


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, at most a year: a number or an HTTP date (RFC 9110, 10.2.3).

    None if there is no header, or none that can be read.
    """
    if value is None:
        return None
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value, re.ASCII):
        return min(float(value), _YEAR)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - datetime.now(UTC)).total_seconds()), _YEAR)
