"""The one lock of a lake, held while somebody writes: DuckLake has no keys, so two who insert the same rows at once both succeed.

It is an advisory lock of PostgreSQL, held by the transaction of a connection of its own, with which it ends: a writer that is
killed leaves it to the next at once. PostgreSQL gives it to whoever has waited longest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import duckdb

from store.sql import closing, literal, quiet
from store.types import RunError

_KEY = "19790, 1"  # one lock a database, since a database holds one lake
_LONGEST = 2_000_000.0  # seconds: PostgreSQL counts milliseconds in 32 bits
_TICK = 0.5  # seconds between two looks at whether this thread was interrupted


class LakeLock(NamedTuple):
    """The lock of the lake called ``name``, which is waited for up to ``timeout`` seconds."""

    name: str
    timeout: float

    @contextmanager
    def held(self, db: duckdb.DuckDBPyConnection, catalog: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """The connection that holds the lock. Raises RunError where another keeps it too long.

        ``catalog`` is the name under which ``db`` has PostgreSQL attached.
        """
        with closing(quiet(db.cursor())) as holder:
            self._take(db, holder, catalog)
            try:
                yield holder
            finally:
                with suppress(duckdb.Error):
                    holder.rollback()

    def holder(self, db: duckdb.DuckDBPyConnection, catalog: str) -> str:
        """Who holds the lock, as ``factscale host:process``; empty: nobody."""
        classid, objid = _KEY.split(", ")
        asked = (
            "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND granted "  # noqa: S608
            f"AND classid = {classid} AND objid = {objid} AND datname = current_database()"
        )
        with suppress(duckdb.Error):
            found = _asked(db, catalog, asked)
            return str(found[0]) if found else ""
        return ""

    def refusal(self, holder: str) -> RunError:
        """The error of one who has waited too long for ``holder``."""
        return RunError(
            f"the store {self.name} is locked by another writer and stayed so for {self.timeout:.0f} s "
            f"({holder or 'holder unknown'}): "
            "end that process, or wait longer with FACTSCALE_LOCK_TIMEOUT"
        )

    def _take(self, db: duckdb.DuckDBPyConnection, holder: duckdb.DuckDBPyConnection, catalog: str) -> None:
        seconds = min(max(0.001, self.timeout), _LONGEST)
        holder.begin()
        started = time.monotonic()
        try:
            setting = f"set_config('lock_timeout', '{seconds * 1000:.0f}ms', true)"
            process, _ = _asked(holder, catalog, f"SELECT pg_backend_pid() AS process, {setting} AS timeout") or (0, "")
            _wait(db, holder, catalog, int(process))
        except BaseException as error:
            waited = time.monotonic() - started
            with suppress(duckdb.Error):
                holder.rollback()
            # PostgreSQL says why in the language of its server, and DuckDB hands on no code: the clock tells it, and that
            # the server still answers. A hundredth, since the clocks are of two machines.
            if isinstance(error, duckdb.Error) and waited >= 0.99 * seconds and self._answers(holder, catalog):
                raise self.refusal(self.holder(holder, catalog)) from None
            raise

    def _answers(self, db: duckdb.DuckDBPyConnection, catalog: str) -> bool:
        with suppress(duckdb.Error):
            return _asked(db, catalog, "SELECT 1 AS one") == (1,)
        return False


def _wait(db: duckdb.DuckDBPyConnection, holder: duckdb.DuckDBPyConnection, catalog: str, process: int) -> None:
    """Wait for the lock in a thread: PostgreSQL's client, once it waits, hears of no Ctrl-C."""
    with ThreadPoolExecutor(1, thread_name_prefix="lake-lock") as pool:
        waiting = pool.submit(_asked, holder, catalog, f"SELECT pg_advisory_xact_lock({_KEY})::VARCHAR AS taken")
        try:
            while not waiting.done():
                wait([waiting], _TICK)
        except BaseException:
            _cancel(db, catalog, process, waiting)
            raise
        waiting.result()


def _cancel(db: duckdb.DuckDBPyConnection, catalog: str, process: int, waiting: Future[Any]) -> None:
    with closing(quiet(db.cursor())) as other:
        while not waiting.done():
            with suppress(duckdb.Error):
                _asked(other, catalog, f"SELECT pg_cancel_backend({process}) AS cancelled")
            wait([waiting], _TICK)


def _asked(db: duckdb.DuckDBPyConnection, catalog: str, sql: str) -> tuple[Any, ...] | None:
    """The first row of what PostgreSQL answers."""
    return db.execute(f"FROM postgres_query({literal(catalog)}, {literal(sql)})").fetchone()
