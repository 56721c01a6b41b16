"""A file and a lake with the same rows: copied both ways, asked the same, compacted and looked into."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import made_retrieval
import made_study
import pytest
from made_study import STUDY
from postgres import PASSWORD, Postgres, missing, postgres_server

from store import exploring, queries, retrieval, single_question, upkeep
from store.connection import Store
from store.copying import Copied, copy_store
from store.exploring import RunAt, Search
from store.lake_schema import reference
from store.overlap import overlap_rows
from store.scores import score_study
from store.types import InputError

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


class Both(NamedTuple):
    """The same rows in a file and in a lake."""

    file: Store
    lake: Store
    copied: list[Copied]
    server: Postgres


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("stores")
    file = Store(folder / "made.duckdb")
    made_study.make(file)
    made_retrieval.make(file)
    score_study(file, STUDY)
    with postgres_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        server.create("lake")
        lake = Store(server.url("lake", folder / "lake"))
        copied = copy_store(file, lake)
        yield Both(file, lake, copied, server)
        lake.close()


def rows_of(store: Store) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, but for when the schema was made."""
    tables = [table for table in reference().tables if table != "schema_migrations"]
    return {table: store.query(f"FROM {table} ORDER BY ALL") for table in tables}


class TestCopying:
    def test_a_file_goes_into_a_lake_and_back_unchanged(self, both: Both, tmp_path: Path) -> None:
        wanted = rows_of(both.file)
        assert rows_of(both.lake) == wanted
        back = Store(tmp_path / "back.duckdb")
        copied = copy_store(both.lake, back)
        assert rows_of(back) == wanted
        assert {one.table: one.rows for one in copied} == {one.table: one.rows for one in both.copied}
        assert all(one.new == one.rows for one in copied)
        assert sum(one.rows for one in copied) > 1000

    def test_a_copy_that_was_cut_goes_on(self, both: Both, tmp_path: Path) -> None:
        target = Store(tmp_path / "cut.duckdb")
        seen: list[str] = []

        def cut(copied: Copied) -> None:
            seen.append(copied.table)
            if copied.table == "traces":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            copy_store(both.lake, target, cut)
        assert target.query("SELECT count(*) AS n FROM units") == [{"n": 0}], "units come last"
        again = {one.table: one for one in copy_store(both.lake, target)}
        assert again["traces"].new == 0
        assert again["units"].new == again["units"].rows > 0
        assert rows_of(target) == rows_of(both.file)
        assert sum(one.new for one in copy_store(both.lake, target)) == 0

    def test_a_store_is_not_copied_onto_itself(self, both: Both, tmp_path: Path) -> None:
        other_name = Store(both.lake.address.replace("127.0.0.1", "localhost"))
        try:
            with pytest.raises(InputError, match="are the same store"):
                copy_store(both.lake, other_name)
        finally:
            other_name.close()
        link = tmp_path / "link.duckdb"
        link.symlink_to(both.file.path)
        with pytest.raises(InputError, match="are the same store"):
            copy_store(both.file, Store(link))
        with pytest.raises(InputError, match=r"there is no store .*none\.duckdb"):
            copy_store(Store(tmp_path / "none.duckdb"), both.file)


def _first(store: Store, table: str, column: str, count: int = 3) -> list[str]:
    sql = f"SELECT DISTINCT {column} AS found FROM {table} ORDER BY 1 LIMIT {count}"  # noqa: S608
    return [row["found"] for row in store.query(sql)]


def _question(store: Store) -> Any:
    asked = single_question.question(store, STUDY, "q3")
    assert asked is not None
    traces = single_question.traces_of(store, exploring.study_runs(store, STUDY), asked)
    return (
        asked,
        traces,
        single_question.grades_of(
            store, STUDY, asked["gold_key"], [t["prediction_key"] for t in traces if t["prediction_key"]]
        ),
    )


SEARCH = Search((RunAt("run-3", None),), (RunAt("run-0", 48),), order="difference")
ASKED: dict[str, Callable[[Store], Any]] = {
    "study": lambda s: queries.study(s, STUDY),
    "runs": lambda s: [row | {"asked": sorted(map(str, row["asked"]))} for row in queries.run_rows(s, STUDY)],
    "score columns": lambda s: list(queries.score_columns(s, STUDY)),
    "lengths": lambda s: queries.length_rows(s, STUDY),
    "ballots": lambda s: sorted(map(str, queries.ballot_rows(s, STUDY))),
    "judges": lambda s: queries.judge_rows(s, STUDY),
    "units": lambda s: queries.units_of_study(s, STUDY),
    "training": lambda s: queries.training_rows(s, STUDY),
    "dev": lambda s: queries.dev_rows(s, STUDY),
    "training quality": lambda s: queries.training_quality_rows(s, STUDY),
    "examples": lambda s: queries.training_examples(s, STUDY),
    "overlap": lambda s: overlap_rows(s, STUDY),
    "found": lambda s: exploring.find_questions(s, STUDY, SEARCH),
    "words": lambda s: exploring.find_questions(s, STUDY, Search(words=("what",))),
    "neighbours": lambda s: exploring.neighbours(s, STUDY, Search(), "q3"),
    "kinds": lambda s: exploring.kinds_of_questions(s, STUDY),
    "question": _question,
    "links": lambda s: single_question.links_of(s, "q3"),
    "paths": lambda s: single_question.searched_paths(s, STUDY, "q3"),
    "thoughts": lambda s: single_question.thought_texts(s, _first(s, "thoughts", "thought_id")),
    "answers": lambda s: single_question.answer_texts(s, _first(s, "traces", "trace_id")),
    "prompts": lambda s: single_question.prompt_messages(s, _first(s, "prompts", "prompt_key")),
    "student": lambda s: [single_question.student(s, STUDY, key) for key in _first(s, "students", "student_key")],
    "retrieval": lambda s: retrieval.report_rows(s, made_retrieval.RETRIEVAL, _first(s, "retrievals", "question_key", 99)),
    "graphs": lambda s: queries.graphs_of(s, made_retrieval.RETRIEVAL, _first(s, "retrievals", "question_key")),
    "retrieval examples": lambda s: retrieval.example_rows(
        s, made_retrieval.RETRIEVAL, _first(s, "retrievals", "question_key", 99)
    ),
}  # fmt: skip


class TestAsking:
    @pytest.mark.parametrize("name", ASKED)
    def test_both_say_the_same(self, both: Both, name: str) -> None:
        ask = ASKED[name]
        assert ask(both.lake) == ask(both.file)

    def test_every_view_says_the_same(self, both: Both) -> None:
        for view in sorted(reference().views):
            lake, file = (store.query(f"FROM {view}") for store in (both.lake, both.file))
            assert sorted(map(_rounded, lake)) == sorted(map(_rounded, file)), view

    def test_scores_can_be_made_on_a_lake(self, both: Both) -> None:
        before = {
            table: both.lake.query(f"FROM {table} ORDER BY ALL") for table in ("question_scores", "length_scores")
        }
        with both.lake.transaction() as db:
            db.execute("DELETE FROM scored")
        assert score_study(both.lake, STUDY) > 0
        assert score_study(both.lake, STUDY) == 0
        after = {table: both.lake.query(f"FROM {table} ORDER BY ALL") for table in ("question_scores", "length_scores")}
        assert after == before


def _rounded(row: dict[str, Any]) -> str:
    # Sums of fractions depend on the order in which rows are read.
    return str({name: round(value, 9) if isinstance(value, float) else value for name, value in row.items()})


class TestUpkeep:
    def test_what_is_in_a_store_is_told(self, both: Both) -> None:
        lake, file = upkeep.contents(both.lake), upkeep.contents(both.file)
        assert (lake.kind, file.kind, lake.version) == ("lake", "file", file.version)
        counted = [{row["table"]: row["rows"] for row in one.tables} for one in (lake, file)]
        assert counted[0] == counted[1]
        assert sum(row["bytes"] for row in file.tables) > 100_000
        (traces,) = (row for row in lake.tables if row["table"] == "traces")
        assert traces["files"] > 0 or traces["waiting"] == traces["rows"]

    def test_a_compaction_makes_large_files_of_small_ones_and_moves_no_reader(self, both: Both) -> None:
        lake = Store(both.server.url("compacted", both.file.path.parent / "compacted"))
        both.server.create("compacted")
        try:
            for start in range(0, 1500, 500):  # three files, and rows in PostgreSQL
                lake.land(
                    {"labels": [{"snapshot": "s", "id": f"Q{n}", "label": "x"} for n in range(start, start + 500)]}
                )
            lake.land({"labels": [{"snapshot": "s", "id": f"Q{n}", "label": "x"} for n in range(1490, 1510)]})
            before = _labels(lake)
            assert (before["rows"], before["files"], before["waiting"]) == (1510, 3, 10)
            waiting = sum(row["waiting"] for row in upkeep.contents(lake).tables)
            orphan = _orphan(lake)
            with lake.connection(read_only=True) as reader:
                other = Store(lake.address)
                done = _elsewhere(lambda: upkeep.compact(other, 1))
                assert reader.execute("SELECT count(*) FROM labels").fetchone() == (1510,)
            assert (done.moved, done.merged, done.into) == (waiting, 4, 1)
            after = _labels(lake)
            assert (after["rows"], after["files"], after["waiting"]) == (1510, 1, 0)
            assert orphan.exists(), "as young as a file of a writer that has not committed"
            assert lake.land({"labels": [{"snapshot": "s", "id": "Q1509", "label": "x"}]}) == 0
            others = _files_of_others(orphan)
            os.utime(orphan, (0, 0))
            assert upkeep.compact(lake, 1).removed == 1
            assert not orphan.exists()
            assert all(file.exists() for file in others)
        finally:
            lake.close()

    def test_what_cannot_be_compacted(self, both: Both) -> None:
        with pytest.raises(InputError, match=r"is a file.*factscale db copy"):
            upkeep.compact(both.file)
        with pytest.raises(InputError, match="--keep-hours 0: a reader may need a file"):
            upkeep.compact(both.lake, 0)


def _labels(store: Store) -> dict[str, Any]:
    (row,) = (row for row in upkeep.contents(store).tables if row["table"] == "labels")
    return row


def _orphan(store: Store) -> Path:
    """A file as a killed writer leaves it."""
    folder = Path(store.address.split("data=")[1]) / "main" / "labels"
    whole = next(folder.glob("*.parquet"))
    orphan = folder / "ducklake-00000000-0000-7000-8000-000000000000.parquet"
    orphan.write_bytes(whole.read_bytes())
    return orphan


def _files_of_others(orphan: Path) -> list[Path]:
    """Old Parquet files below the lake's folder that no lake has written, or not this one."""
    labels, folder = orphan.parent, orphan.parent.parent.parent
    strange = folder / "training_sets" / "s1"
    strange.mkdir(parents=True)
    files = [labels / "train.parquet", strange / "train.parquet", strange / orphan.name, folder / orphan.name]
    for file in files:
        file.write_bytes(orphan.read_bytes())
        os.utime(file, (0, 0))
    return files


def _elsewhere(work: Callable[[], upkeep.Compacted]) -> upkeep.Compacted:
    """In a thread of its own: this one is inside a block that reads."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()
