"""The lock of a lake: waited for, given up in any language, left at Ctrl-C; and what a writer can do that has lost it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import duckdb
import pytest
from lake_process import Writer
from postgres import Postgres, missing

from store.connection import Store
from store.lake import Lake
from store.types import RunError

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@pytest.fixture
def other(lake: Store) -> Iterator[Store]:
    """The same lake with connections of its own, as if in another process."""
    store = Store(lake.address.replace("127.0.0.1", "localhost"), lock_timeout=0.3)
    yield store
    store.close()


def label(snapshot: str) -> dict[str, list[dict[str, str]]]:
    return {"labels": [{"snapshot": snapshot, "id": "Q90", "label": "Paris"}]}


def test_a_lock_that_does_not_come_is_given_up_whatever_language_the_server_speaks(
    lake: Store, other: Store, server: Postgres
) -> None:
    server.execute("ALTER DATABASE lake SET lc_messages = 'C.UTF-8'")
    try:
        with lake.transaction():
            with pytest.raises(RunError, match=r"is locked by another writer and stayed so for 0 s \(factscale "):
                other.land(label("german"))
            with other.connection(read_only=True) as db, pytest.raises(duckdb.Error) as error:
                db.execute("FROM postgres_query('__ducklake_metadata_store', 'SELECT 1 / 0')")
    finally:
        server.execute("ALTER DATABASE lake RESET lc_messages")
    assert other.land(label("german")) == 1
    if "Division durch Null" not in str(error.value):
        pytest.skip("this PostgreSQL speaks no German, so the test shows nothing")


def test_ctrl_c_ends_the_waiting_at_once(lake: Store, server: Postgres) -> None:
    code = """
try:
    print(store.query("SELECT 1 AS one"), flush=True)
    sys.stdin.readline()
    store.land({})
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    with Writer(lake, code) as writer:
        assert writer.said() == "[{'one': 1}]"
        with lake.transaction():
            writer.go()
            latest = time.monotonic() + 30
            while server.execute(WAITING, "lake") != "1":
                assert time.monotonic() < latest
                time.sleep(0.05)
            started = time.monotonic()
            writer.process.send_signal(signal.SIGINT)
            assert writer.said() == "interrupted"
            assert time.monotonic() - started < 10
            assert server.execute(WAITING, "lake") == "0"


def test_a_writer_whose_lock_went_before_its_commit_does_not_double_a_key(
    lake: Store, other: Store, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lake, "before_commit", lambda _: None)  # it went just after the look

    def land() -> None:
        with lake.transaction() as db:
            lake.insert(db, "labels", label("fence")["labels"])
            server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted", "lake"
            )
            assert other.land(label("fence")) == 1

    with pytest.raises(RunError, match="another writer committed while this one had no lock"):
        land()
    assert lake.query("SELECT count(*) AS n FROM labels WHERE snapshot = 'fence'") == [{"n": 1}]
    assert lake.land(label("fence")) == 0
