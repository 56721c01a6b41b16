"""The shared store on a real PostgreSQL: many writers, keys that stay unique, readers that never wait, and clear errors."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest
from lake_process import Writer
from postgres import PASSWORD, Postgres, missing

from store import migrations as schema
from store.connection import Store, Unit
from store.lake_schema import lake_sql, reference
from store.migrations import migrate, migrations
from store.types import InputError, RunError

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
LABEL = {"snapshot": "s", "id": "Q90", "label": "Paris"}
WAIT = 30.0  # seconds: longer than any reader waits


def unit(key: str = "u") -> Unit:
    return Unit(key, "traces", "a unit", "{}", 1, 0.5, "{}", "host")


def labels(snapshot: str, ids: range) -> list[dict[str, str]]:
    return [{"snapshot": snapshot, "id": f"Q{number}", "label": "x" * 20} for number in ids]


def count(store: Store, snapshot: str) -> int:
    return int(store.query("SELECT count(*) AS n FROM labels WHERE snapshot = ?", [snapshot])[0]["n"])


HOLDING = """
with store.transaction() as db:
    store.insert(db, "labels", [{"snapshot": "%s", "id": f"Q{n}", "label": "never"} for n in range(1000)])
    print("inside", flush=True)
    time.sleep(120)
"""


class TestSchema:
    def test_a_lake_has_the_tables_of_a_file(self, lake: Store) -> None:
        columns = (
            "SELECT table_name, column_name, data_type, is_nullable FROM duckdb_columns() WHERE NOT internal AND "
            "schema_name = 'main' AND database_name = current_database() ORDER BY ALL"
        )
        macros = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE NOT internal AND function_type = 'macro' ORDER BY 1"
        with duckdb.connect() as db:
            migrate(db, "in memory")
            wanted = [db.execute(sql).fetchall() for sql in (columns, macros)]
        with lake.connection(read_only=True) as db:
            assert [db.execute(sql).fetchall() for sql in (columns, macros)] == wanted

    def test_no_key_is_left_in_the_sql_of_a_step(self) -> None:
        assert all("PRIMARY KEY" not in lake_sql(step.sql) for step in migrations())
        assert "UNIQUE" not in "".join(step.sql for step in migrations()), (
            "DuckLake has no UNIQUE either: take it out too"
        )

    def test_every_table_that_rows_land_in_has_a_key(self) -> None:
        assert {table for table, schema in reference().tables.items() if not schema.key} == {
            "question_scores",
            "length_scores",
        }

    def test_an_older_lake_is_brought_up_to_date_with_its_rows(
        self, server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.create("older")
        url = server.url("older", tmp_path)
        steps = migrations()
        with monkeypatch.context() as patch:
            patch.setattr(schema, "migrations", lambda: steps[:5])
            old = Store(url)
            with old.transaction() as db:
                db.execute("INSERT INTO labels VALUES ('s', 'Q90', 'Paris')")
            assert old.query("SELECT max(version) AS v FROM schema_migrations") == [{"v": 5}]
            assert old.query("SELECT 1 FROM duckdb_tables() WHERE table_name = 'flow_runs'") == []
            with Writer(old, 'store.query("SELECT 1"); print("newer", flush=True)') as newer:
                assert newer.said() == "newer"
            with pytest.raises(RunError, match=rf"schema version {steps[-1].version} after .* with 5: start again"):
                old.land({"labels": [{**LABEL, "id": "Q64"}]})
            assert old.query("SELECT count(*) AS n FROM labels") == [{"n": 1}]
            old.close()
        new = Store(url)
        try:
            assert new.query("SELECT max(version) AS v FROM schema_migrations") == [{"v": steps[-1].version}]
            assert new.query("SELECT label FROM labels") == [{"label": "Paris"}]
            assert new.query("SELECT count(*) AS n FROM flow_runs") == [{"n": 0}]
            self._newer(new, url)
        finally:
            new.close()

    @staticmethod
    def _newer(store: Store, url: str) -> None:
        with store.transaction() as db:
            db.execute("INSERT INTO schema_migrations (version, name) VALUES (9999, 'future')")
        store.close()
        with pytest.raises(InputError, match=r"has schema version 9999, this factscale knows \d+: update factscale"):
            Store(url).query("SELECT 1")


class TestLanding:
    def test_rows_and_unit_land_together_with_their_defaults(self, lake: Store) -> None:
        assert lake.land({"labels": [{**LABEL, "snapshot": "together"}]}, unit("together")) == 1
        assert lake.has_unit("together")
        (row,) = lake.query("SELECT now()::TIMESTAMP - landed_at AS age FROM units WHERE unit_key = 'together'")
        assert 0 <= row["age"].total_seconds() < 600
        lake.land({"retrievals": [_retrieval()]})  # whose default came by ALTER TABLE, which DuckLake cannot
        assert lake.query("SELECT landed_at IS NOT NULL AS known FROM retrievals") == [{"known": True}]

    def test_a_landed_row_is_never_changed(self, lake: Store) -> None:
        lake.land({"labels": [{**LABEL, "snapshot": "kept"}]})
        rows = [
            {**LABEL, "snapshot": "kept", "label": "Lutetia"},
            {**LABEL, "snapshot": "kept", "id": "Q64", "label": "Berlin"},
        ]
        assert lake.land({"labels": [*rows, rows[1]]}) == 1
        found = lake.query("SELECT label FROM labels WHERE snapshot = 'kept' ORDER BY id DESC")
        assert [row["label"] for row in found] == ["Paris", "Berlin"]

    def test_nothing_of_a_failed_landing_stays(self, lake: Store) -> None:
        with pytest.raises(duckdb.Error):
            lake.land(
                {"labels": labels("failed", range(3)), "prompts": [{"prompt_key": "k", "messages": None}]},
                unit("failed"),
            )
        assert count(lake, "failed") == 0
        assert not lake.has_unit("failed")
        with pytest.raises(duckdb.ConstraintException, match="NOT NULL"):
            lake.land({"labels": [{"snapshot": None, "id": "Q1", "label": "no key"}]})

    def test_large_and_small_landings_read_alike(self, lake: Store) -> None:
        lake.land({"labels": labels("sizes", range(5))})  # these wait in PostgreSQL
        assert lake.land({"labels": labels("sizes", range(3000))}) == 2995  # these become a file
        assert lake.land({"labels": labels("sizes", range(2990, 3010))}) == 10
        assert lake.query("SELECT count(*) AS n, count(DISTINCT id) AS ids FROM labels WHERE snapshot = 'sizes'") == [
            {"n": 3010, "ids": 3010}
        ]
        assert lake.known("labels", "id", ["Q3009", "Q99999"]) == {"Q3009"}

    def test_what_a_block_began_and_did_not_commit_is_undone(self, lake: Store) -> None:
        def leave(fails: bool) -> None:
            with lake.connection() as db:
                db.begin()
                lake.insert(db, "labels", labels("left", range(3)))
                if fails:
                    raise ZeroDivisionError

        leave(fails=False)
        with pytest.raises(ZeroDivisionError):
            leave(fails=True)
        assert count(lake, "left") == 0
        assert lake.land({"labels": labels("left", range(2))}) == 2

    def test_a_block_that_reads_is_of_one_moment_and_does_not_write(self, lake: Store) -> None:
        with lake.connection(read_only=True) as db:
            before = count(lake, "moment")
            other = threading.Thread(target=lake.land, args=({"labels": labels("moment", range(4))},))
            other.start()
            other.join()
            assert count(lake, "moment") == before == 0
            with pytest.raises(RuntimeError, match="of one moment"):
                lake.land({"labels": labels("moment", range(1))})
            with pytest.raises(duckdb.Error, match="read-only"):
                db.execute("DELETE FROM labels")
        assert count(lake, "moment") == 4


class TestOtherProcesses:
    def test_two_that_land_the_same_keys_at_once_leave_each_once(self, lake: Store) -> None:
        code = """
rows = [{"snapshot": "race", "id": f"Q{n}", "label": "x"} for n in range(400)]
print("ready", flush=True)
sys.stdin = None
new = 0
for start in range(0, 400, 50):
    new += store.land({"labels": rows[start:start + 50]})
print(new, flush=True)
"""
        with Writer(lake, code) as one, Writer(lake, code) as two:
            assert (one.said(), two.said()) == ("ready", "ready")
            new = [int(one.said()), int(two.said())]
        assert sum(new) == 400
        assert lake.query("SELECT count(*) AS n, count(DISTINCT id) AS ids FROM labels WHERE snapshot = 'race'") == [
            {"n": 400, "ids": 400}
        ]

    def test_threads_land_the_same_keys_once_too(self, lake: Store) -> None:
        threads = [
            threading.Thread(target=lake.land, args=({"labels": labels("threads", range(20 + n))},)) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert count(lake, "threads") == 23

    def test_readers_do_not_wait_for_a_writer_but_writers_do_and_say_for_whom(self, lake: Store) -> None:
        with Writer(lake, HOLDING % "held") as writer:
            assert writer.said() == "inside"
            started = time.monotonic()
            assert count(lake, "held") == 0
            assert lake.query_untrusted("SELECT count(*) AS n FROM labels WHERE snapshot = 'held'") == [{"n": 0}]
            assert time.monotonic() - started < WAIT
            impatient = Store(lake.address, lock_timeout=0.5)
            with pytest.raises(RunError, match=rf"is locked by another writer.*:{writer.process.pid}\)"):
                impatient.land({"labels": labels("held", range(1))})

    def test_a_killed_writer_leaves_nothing_and_its_lock(self, lake: Store) -> None:
        lake.land({"labels": labels("kill", range(3, 5))})
        with Writer(lake, HOLDING % "kill") as writer:
            assert writer.said() == "inside"
            writer.process.kill()
            writer.process.wait()
            assert lake.land({"labels": labels("kill", range(10))}) == 8
        assert lake.query("SELECT DISTINCT label FROM labels WHERE snapshot = 'kill'") == [{"label": "x" * 20}]

    def test_a_lock_that_is_lost_keeps_the_transaction_from_committing(self, lake: Store, server: Postgres) -> None:
        ended = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"

        def land() -> None:
            with lake.transaction() as db:
                lake.insert(db, "labels", labels("lost", range(3)))
                assert server.execute(ended, "lake") == "t"

        with pytest.raises(RunError, match="has lost its lock"):
            land()
        assert count(lake, "lost") == 0
        assert lake.land({"labels": labels("lost", range(3))}) == 3

    def test_a_server_that_was_restarted_is_found_again(self, lake: Store, server: Postgres) -> None:
        ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'lake' AND pid <> pg_backend_pid()"
        server.execute(ended)
        assert count(lake, "again") == 0
        server.execute(ended)
        assert lake.land({"labels": labels("again", range(2))}) == 2

    def test_a_child_that_was_forked_opens_the_lake_for_itself(self, lake: Store) -> None:
        code = """
import os
store.query("SELECT 1")
if (child := os.fork()) == 0:
    os._exit(store.land({"labels": [{"snapshot": "fork", "id": "Q1", "label": "x"}]}))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), store.query("SELECT count(*) AS n FROM labels WHERE snapshot = 'fork'"))
"""
        with Writer(lake, code) as writer:
            assert writer.said() == "1 [{'n': 1}]"


class TestWhatPeopleAsk:
    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT id FROM labels WHERE snapshot = 'asked'",
            "WITH l AS (FROM labels WHERE snapshot = 'asked') SELECT id FROM l, range(1)",
            "SELECT id FROM store.main.labels WHERE snapshot = 'asked' AND id NOT IN (SELECT question_id FROM results)",
            "FROM (VALUES ('Q0')) v(id)",
        ],
    )
    def test_tables_views_and_ranges_can_be_read(self, lake: Store, sql: str) -> None:
        lake.land({"labels": labels("asked", range(1))})
        assert lake.query_untrusted(sql) == [{"id": "Q0"}]

    def test_what_there_is_to_read_can_be_asked(self, lake: Store) -> None:
        assert {"name": "labels"} in lake.query_untrusted("SHOW TABLES")
        assert lake.query_untrusted("DESCRIBE labels")[0]["column_name"] == "snapshot"

    @pytest.mark.parametrize(
        "sql",
        [
            "DELETE FROM labels",
            "CREATE TABLE x (a INT)",
            "COPY labels TO '/tmp/out.csv'",
            "ATTACH '/tmp/other.duckdb'",
            "SET enable_external_access = true",
            "CALL ducklake_expire_snapshots('store', older_than => now())",
            "SELECT * FROM read_csv('/etc/passwd')",
            "SELECT * FROM '/etc/passwd'",
            "SELECT * FROM read_text('/etc/passwd')",
            "SELECT (SELECT content FROM read_text('/etc/passwd'))",
            "SELECT * FROM glob('/*')",
            "SELECT * FROM postgres_query('__ducklake_metadata_store', 'SELECT * FROM pg_shadow')",
            "SELECT * FROM postgres_scan('', 'pg_catalog', 'pg_shadow')",
            "SELECT * FROM __ducklake_metadata_store.factscale.ducklake_metadata",
            "SELECT * FROM __ducklake_metadata_store.pg_catalog.pg_shadow",
            "SELECT * FROM query('SELECT * FROM duckdb_secrets()')",
            "SELECT * FROM query_table('duckdb_settings')",
            "SELECT * FROM duckdb_secrets()",
            "SELECT * FROM duckdb_databases",
            "SELECT * FROM pg_catalog.pg_database",
            "SELECT * FROM information_schema.tables",
            "SELECT id FROM labels WHERE id IN (SELECT path FROM duckdb_databases())",
            "WITH x AS (SELECT * FROM duckdb_secrets()) SELECT 1 FROM x",
            "SELECT * FROM duckdb_databases, (WITH duckdb_databases AS (SELECT 1) SELECT 1)",
            "SELECT getenv('PGPASSWORD')",
            "SHOW DATABASES",
            "SHOW ALL TABLES",
            "PRAGMA database_list",
            "EXPLAIN ANALYZE SELECT * FROM read_text('/etc/passwd')",
            "SELECT * FROM labels; SELECT 1",
        ],
    )
    def test_nothing_else_can_be_done(self, lake: Store, sql: str) -> None:
        with pytest.raises((InputError, duckdb.Error)) as error:
            lake.query_untrusted(sql)
        assert PASSWORD not in str(error.value)
        assert not Path("/tmp/out.csv").exists()


class TestErrors:
    def test_a_password_in_the_url_is_never_shown(self, server: Postgres, lake: Store, tmp_path: Path) -> None:
        from urllib.parse import quote

        secret = quote(PASSWORD, safe="")
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("PGPASSWORD")
            patch.setenv("PGPASSFILE", str(tmp_path / "none"))
            told = Store(server.url("lake", _folder(lake), password=secret))
            assert told.query("SELECT 1 AS one") == [{"one": 1}]
            shown = [told.name, repr(told)]
            told.close()
            bad = Store(server.url("lake", _folder(lake), password="wr%40ng"))  # noqa: S106
            with pytest.raises(InputError, match=r"refuses factscale.*set PGPASSWORD") as error:
                bad.query("SELECT 1")
            shown += [str(error.value), bad.name]
            without = Store(server.url("lake", _folder(lake)))
            without.close()
            with pytest.raises(InputError, match=r"refuses factscale.*set PGPASSWORD"):
                without.query("SELECT 1")
        for text in shown:
            assert PASSWORD not in text
            assert secret not in text
            assert "wr%40ng" not in text
            assert "wr@ng" not in text
        assert all(":***@" in text for text in shown)

    def test_a_password_file_will_do(self, server: Postgres, lake: Store, tmp_path: Path) -> None:
        file = tmp_path / "pgpass"
        escaped = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
        file.write_text(f"127.0.0.1:{server.port}:*:factscale:{escaped}\n", encoding="utf-8")
        file.chmod(0o600)
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("PGPASSWORD")
            patch.setenv("PGPASSFILE", str(file))
            store = Store(server.url("lake", _folder(lake)))
            store.close()
            assert store.query("SELECT 1 AS one") == [{"one": 1}]

    def test_each_wrong_thing_is_one_clear_error(self, server: Postgres, lake: Store, tmp_path: Path) -> None:
        server.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
        folder = _folder(lake)
        cases = {
            server.url("nowhere", folder): r"there is no database nowhere: create it.*createdb -h 127\.0\.0\.1",
            server.url("lake", folder).replace(str(server.port), "9"): "cannot be reached.*Connection refused",
            server.url("lake", tmp_path): f"folder {tmp_path} does not hold this lake's files.*made in {folder}",
            server.url("lake", tmp_path / "gone"): "does not hold this lake's files.*mount that folder",
        }
        for url, message in cases.items():
            with pytest.raises((InputError, RunError), match=message):
                Store(url).query("SELECT 1")
        server.create("guests")
        guest = server.url("guests", tmp_path).replace("factscale@", "guest:guest@")
        with pytest.raises(InputError, match=r"guest may not do that.*make it the database's owner"):
            Store(guest).query("SELECT 1")
        second = server.url("guests", folder)
        with pytest.raises(InputError, match="holds the files of another lake: name another folder"):
            Store(second).query("SELECT 1")
        assert not Store(second).exists()

    def test_extensions_that_are_not_there(self, lake: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from store import extensions

        monkeypatch.setattr(extensions, "find_spec", lambda _: None)
        monkeypatch.setenv("HOME", str(tmp_path))
        lake.close()
        with pytest.raises(InputError, match=r"extension ducklake for 1\.5\.5.*pip install 'factscale\[shared\]'"):
            lake.query("SELECT 1")


def _folder(store: Store) -> Path:
    return Path(store.address.split("data=")[1])


def _retrieval() -> dict[str, Any]:
    counts = dict.fromkeys(("pairs", "connected", "paths", "truncated"), 0)
    return {"retrieval_key": "r", "question_key": "q", "snapshot": "s", "graph": "", **counts}
