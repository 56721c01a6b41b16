"""The store: short transactions, untouched rows, one transaction a landing, and clear errors."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pytest

from store.connection import Store, Unit
from store.migrations import migrations
from store.types import InputError, RunError

LABEL = {"snapshot": "s", "id": "Q90", "label": "Paris"}


def unit(key: str = "u") -> Unit:
    return Unit(key, "traces", "a unit", "{}", 1, 0.5, "{}", "host")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home" / "results.duckdb", lock_timeout=5)


class TestLanding:
    def test_rows_and_unit_land_together(self, store: Store) -> None:
        assert store.land({"labels": [LABEL]}, unit()) == 1
        assert store.has_unit("u")
        assert store.query("SELECT id, label FROM labels") == [{"id": "Q90", "label": "Paris"}]

    def test_a_landed_row_is_never_changed(self, store: Store) -> None:
        store.land({"labels": [LABEL]})
        landed = store.land({"labels": [{**LABEL, "label": "Lutetia"}, {**LABEL, "id": "Q64", "label": "Berlin"}]})
        assert landed == 1
        assert store.query("SELECT label FROM labels ORDER BY id DESC") == [{"label": "Paris"}, {"label": "Berlin"}]

    def test_nothing_of_a_failed_landing_stays(self, store: Store) -> None:
        with pytest.raises(duckdb.Error):
            store.land({"labels": [LABEL], "prompts": [{"prompt_key": "k", "messages": None}]}, unit())
        assert store.query("SELECT count(*) AS n FROM labels") == [{"n": 0}]
        assert not store.has_unit("u")

    def test_known_is_the_anti_join(self, store: Store) -> None:
        store.land({"labels": [LABEL]})
        assert store.known("labels", "id", ["Q90", "Q64"]) == {"Q90"}
        assert store.known("labels", "id", []) == set()

    def test_text_is_data_and_never_sql(self, store: Store) -> None:
        hostile = "x'); DROP TABLE labels; --"
        store.land({"labels": [{**LABEL, "label": hostile}]})
        assert store.query("SELECT id FROM labels WHERE label = ?", [hostile]) == [{"id": "Q90"}]
        with pytest.raises(ValueError, match="not a table"):
            store.known("labels; DROP TABLE labels", "id", ["Q90"])

    def test_what_does_not_fit_in_memory_is_spilled_beside_the_file(self, store: Store) -> None:
        (row,) = store.query("SELECT current_setting('temp_directory') AS folder")
        assert row["folder"] == f"{store.path}.tmp"

    def test_threads_share_a_store(self, store: Store) -> None:
        def land(worker: int) -> None:
            for number in range(10):
                store.land({"labels": [{**LABEL, "id": f"Q{worker}{number:03d}"}]})

        threads = [threading.Thread(target=land, args=(worker,)) for worker in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.query("SELECT count(*) AS n FROM labels") == [{"n": 40}]


HOLD = "import duckdb, sys, time; c = duckdb.connect(sys.argv[1]); print('held', flush=True); time.sleep(float(sys.argv[2]))"


class TestOtherProcesses:
    def test_a_reader_waits_for_a_writer_to_finish(self, store: Store) -> None:
        store.land({"labels": [LABEL]})
        holder = subprocess.Popen([sys.executable, "-c", HOLD, str(store.path), "1.0"], stdout=subprocess.PIPE)
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            assert store.query("SELECT id FROM labels") == [{"id": "Q90"}]
        finally:
            holder.wait()
            holder.stdout.close()

    def test_a_file_that_stays_locked_is_one_clear_error(self, store: Store) -> None:
        store.land({"labels": [LABEL]})
        holder = subprocess.Popen([sys.executable, "-c", HOLD, str(store.path), "30"], stdout=subprocess.PIPE)
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            impatient = Store(store.path, lock_timeout=0.3)
            started = time.monotonic()
            with pytest.raises(RunError, match=r"is locked by another process.*PID \d+"):
                impatient.query("SELECT 1")
            assert time.monotonic() - started < 10
        finally:
            holder.kill()
            holder.wait()
            holder.stdout.close()


class TestBadFiles:
    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        path = tmp_path / "x.duckdb"
        path.write_bytes(b"this is not a database" * 1000)
        with pytest.raises(InputError, match=r"x\.duckdb is not a readable DuckDB database.*move the file away"):
            Store(path).query("SELECT 1")
        assert path.read_bytes().startswith(b"this is not")

    def test_a_database_of_something_else_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "x.duckdb"
        with duckdb.connect(str(path)) as db:
            db.execute("CREATE TABLE mine (a INTEGER)")
        with pytest.raises(InputError, match="database of something else"):
            Store(path).land({"labels": [LABEL]})

    def test_a_newer_schema_is_refused(self, store: Store) -> None:
        store.land({"labels": [LABEL]})
        with duckdb.connect(str(store.path)) as db:
            db.execute("INSERT INTO schema_migrations (version, name) VALUES (9999, 'future')")
        # Another name, since a process checks a file's schema once.
        moved = store.path.rename(store.path.with_name("moved.duckdb"))
        with pytest.raises(InputError, match="schema version 9999"):
            Store(moved).query("SELECT 1")

    def test_a_folder_is_no_store(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is a folder"):
            Store(tmp_path).query("SELECT 1")

    def test_a_damaged_database(self, store: Store) -> None:
        store.land({"labels": [LABEL]})
        content = bytearray(store.path.read_bytes())
        content[: 3 * 4096] = b"\xff" * (3 * 4096)
        store.path.write_bytes(bytes(content))
        with pytest.raises(InputError, match="not a readable DuckDB database"):
            Store(store.path).query("SELECT 1")


class TestUntrustedQueries:
    @pytest.mark.parametrize(
        "sql",
        [
            "DELETE FROM labels",
            "CREATE TABLE x (a INT)",
            "COPY labels TO '/tmp/leak.csv'",
            "SELECT * FROM read_text('/etc/passwd')",
        ],
    )
    def test_a_person_can_only_read_the_store(self, store: Store, sql: str) -> None:
        store.land({"labels": [LABEL]})
        with pytest.raises(duckdb.Error):
            store.query_untrusted(sql)
        assert store.query_untrusted("SELECT id FROM labels") == [{"id": "Q90"}]

    def test_one_statement_only(self, store: Store) -> None:
        with pytest.raises(InputError, match="exactly one"):
            store.query_untrusted("SELECT 1; SELECT 2")


class TestFullDisk:
    def test_a_landing_that_does_not_fit_leaves_nothing(self, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, check=False
        )
        if mount.returncode != 0:
            pytest.skip("a small file system cannot be mounted here (needs root)")
        try:
            store = Store(disk / "x.duckdb")
            store.land({"labels": [LABEL]})
            noise = random.Random(0)
            rows = [{"snapshot": "s", "id": f"Q{i}", "label": noise.randbytes(4000).hex()} for i in range(1000, 4000)]
            with pytest.raises(RunError, match=r"the disk of the store .* is full: nothing of this landing was kept"):
                store.land({"labels": rows}, unit())
            assert store.query("SELECT id FROM labels") == [{"id": "Q90"}]
            assert not store.has_unit("u")
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)


class TestTextsWithoutIndex:
    def test_a_text_lands_once_whatever_lands_beside_it(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "s.duckdb")
        rows = [
            {"trace_id": f"ab{number:03}", "answer_ids": [number], "answer_text": f"text {number}"}
            for number in range(50)
        ]
        assert store.land({"trace_texts": rows[:30]}) == 30
        changed = [{**row, "answer_text": "another"} for row in rows]
        assert store.land({"trace_texts": [*changed, *changed[40:]]}) == 20
        landed = store.query("SELECT trace_id, answer_text FROM trace_texts ORDER BY trace_id")
        assert [row["trace_id"] for row in landed] == [row["trace_id"] for row in rows]
        assert [row["answer_text"] for row in landed[:30]] == [row["answer_text"] for row in rows[:30]]

    def test_texts_of_an_older_store_are_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "old.duckdb"
        with duckdb.connect(str(path)) as db:
            for step in migrations()[:3]:
                db.execute(step.sql)
            db.execute(
                "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, name VARCHAR, applied_at TIMESTAMP)"
            )
            db.execute("INSERT INTO schema_migrations SELECT unnest([1, 2, 3]), 'old', now()")
            db.execute("INSERT INTO thought_texts VALUES ('t', [1, 2], 'thinking')")
        store = Store(path)
        assert store.query("SELECT * FROM thought_texts") == [
            {"thought_id": "t", "token_ids": [1, 2], "text": "thinking"}
        ]
        assert store.land({"thought_texts": [{"thought_id": "t", "token_ids": [3], "text": "other"}]}) == 0
