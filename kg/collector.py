"""One fetch for all who ask: neighbourhoods wanted by several threads, each requested once, in full batches.

Callers only wait. What they want stands in one queue for each direction; at most ``in_flight`` workers take full batches
off it, whoever asked. Workers are threads that start when something waits and end when nothing does, so that a caller
that is interrupted leaves at once and takes nothing with it that others wait for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context

from kg.endpoint import Endpoint, QueryTooHeavy, valid_id
from kg.neighbourhoods import BATCHES, BatchSize, Direction, Expansion, expand_once
from store.types import InputError

Known = Callable[[Direction, Collection[str]], set[str]]
Land = Callable[[Sequence[Expansion]], None]


class _Want:
    """A neighbourhood that is queued or under way. It is worth asking for while it has ``callers``."""

    def __init__(self, entity: str, direction: Direction) -> None:
        self.entity, self.direction = entity, direction
        self.callers = 0
        self.done = False
        self.error: BaseException | None = None


class Neighbourhoods:
    """The neighbourhoods of one graph snapshot, fetched into a cache. One instance is shared by all threads.

    ``known(direction, entities)`` says which of the entities stand in the cache; it is asked in the caller's thread, once
    a direction and call. ``land(expansions)`` stores one answered request; it is called in a worker's thread (with the
    context variables of a caller), by up to ``in_flight`` of them at once, and for each neighbourhood once: if it
    raises, the batch counts as failed. ``batches`` is the most entities a request; sizes adapt as
    :class:`kg.neighbourhoods.BatchSize` says. Raises InputError for a cap, batch or ``in_flight`` below 1.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        cap: int,
        known: Known,
        land: Land,
        in_flight: int = 2,
        batches: Mapping[Direction, int] = BATCHES,
    ) -> None:
        if cap < 1 or in_flight < 1:
            raise InputError(f"cap ({cap}) and in_flight ({in_flight}) of neighbourhoods must be at least 1")
        self._endpoint, self._cap, self._known, self._land = endpoint, cap, known, land
        self._in_flight = in_flight
        self._sizes: dict[Direction, BatchSize] = {
            "out": BatchSize(batches.get("out", BATCHES["out"])),
            "in": BatchSize(batches.get("in", BATCHES["in"])),
        }
        self._changed = threading.Condition()  # guards all below, and wakes the callers after each batch
        self._queues: dict[Direction, deque[_Want]] = {"out": deque(), "in": deque()}
        self._open: dict[tuple[Direction, str], _Want] = {}  # queued or under way
        self._workers = 0
        self._asking: dict[int, set[tuple[Direction, str]]] = {}  # what lands while a caller asks `known`

    def fetch(self, wanted: Mapping[Direction, Iterable[str]]) -> int:
        """Return when every wanted neighbourhood stands in the cache.

        Returns how many of the wanted ones did not when the call began and so were landed during it, by whichever
        caller's request; callers that share a neighbourhood both count it. Raises the error of the first request, or of
        its landing, that failed for an entity wanted here; what succeeded stays, what nobody else waits for is no longer
        asked, and a later call asks anew for what failed. A request that is too heavy is no failure before it is for a
        single entity. Raises InputError, before anything is asked, for an id that is no Wikidata id.
        """
        asked = {direction: {valid_id(one): None for one in ids} for direction, ids in wanted.items()}
        wants: list[_Want] = []
        try:
            landed = self._register(asked, wants)
            pending = wants
            with self._changed:
                while pending := [want for want in pending if not _finished(want)]:
                    self._changed.wait()
        finally:
            self._leave(wants)
        return len(wants) + landed

    def _register(self, asked: Mapping[Direction, Collection[str]], wants: list[_Want]) -> int:
        """Queue what the cache does not hold and add it to ``wants``; the number that landed while it was asked."""
        landed: set[tuple[Direction, str]] = set()
        with self._changed:
            self._asking[id(landed)] = landed
        try:
            unknown: list[tuple[Direction, str]] = []
            for direction, ids in asked.items():
                known = self._known(direction, ids) if ids else set()
                unknown += [(direction, one) for one in ids if one not in known]
        except BaseException:
            with self._changed:
                del self._asking[id(landed)]
            raise
        with self._changed:
            # What landed after `known` was asked is neither known nor open; without this it would be asked again.
            del self._asking[id(landed)]
            wants += [self._join(*key) for key in unknown if key not in landed]
            self._start_workers()
        return len(unknown) - len(wants)

    def _join(self, direction: Direction, entity: str) -> _Want:
        want = self._open.get((direction, entity))
        if want is None:
            want = self._open[direction, entity] = _Want(entity, direction)
            self._queues[direction].append(want)
        want.callers += 1
        return want

    def _leave(self, wants: Sequence[_Want]) -> None:
        with self._changed:
            for want in wants:
                want.callers -= 1

    def _start_workers(self) -> None:
        """A worker for each batch that waits, as far as there are slots."""
        batches = sum(-(-len(queue) // self._sizes[direction].now) for direction, queue in self._queues.items())
        for _ in range(min(batches, self._in_flight - self._workers)):
            work = copy_context().run  # loggers and trackers of the caller stay in reach of `land`
            thread = threading.Thread(target=work, args=(self._work,), name="neighbourhoods", daemon=True)
            thread.start()
            self._workers += 1  # after the start, which may fail; the worker's first step waits for the lock held here

    def _work(self) -> None:
        while batch := self._next():
            self._serve(batch)

    def _next(self) -> list[_Want]:
        """The next batch off the fuller queue; empty if nobody waits for anything, which ends the worker."""
        with self._changed:
            for direction, queue in sorted(self._queues.items(), key=lambda item: -len(item[1])):
                batch: list[_Want] = []
                while queue and len(batch) < self._sizes[direction].now:
                    want = queue.popleft()
                    if want.callers:
                        batch.append(want)
                    else:
                        del self._open[direction, want.entity]
                if batch:
                    return batch
            self._workers -= 1
            return []

    def _serve(self, batch: Sequence[_Want]) -> None:
        failure: BaseException | None = None
        try:
            answer = expand_once(self._endpoint, [want.entity for want in batch], batch[0].direction, self._cap)
        except QueryTooHeavy as error:
            if len(batch) > 1:
                self._put_back(batch)
                return
            failure = error
        except BaseException as error:  # whatever it is, who waits must hear of it
            failure = error
        else:
            try:
                self._land(answer)
            except BaseException as error:
                failure = error
        self._settle(batch, failure)

    def _put_back(self, batch: Sequence[_Want]) -> None:
        """Queue a batch that was too heavy again, first in line, to be asked in smaller ones."""
        direction = batch[0].direction
        with self._changed:
            self._sizes[direction].refused(len(batch))
            self._queues[direction].extendleft(reversed(batch))
            with suppress(RuntimeError):  # no thread to be had: this worker goes on alone
                self._start_workers()

    def _settle(self, batch: Sequence[_Want], failure: BaseException | None) -> None:
        direction = batch[0].direction
        with self._changed:
            for want in batch:
                want.done, want.error = failure is None, failure
                del self._open[direction, want.entity]
            if failure is None:
                self._sizes[direction].passed(len(batch))
                for landed in self._asking.values():
                    landed.update((direction, want.entity) for want in batch)
            self._changed.notify_all()


def _finished(want: _Want) -> bool:
    """Whether the neighbourhood is landed. Raises what went wrong with it."""
    if want.error is not None:
        raise want.error
    return want.done
