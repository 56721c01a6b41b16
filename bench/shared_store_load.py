"""The load of ``bench.shared_store``: processes that land made-up units, read them, or bring parts into a file.

A unit is :data:`THOUGHTS` thoughts with their traces and all texts. It is drawn from its own name, so that two writers that
land the same unit land the same rows under the same keys. Each process writes what it did into a log of its own, a JSON line
at a time, which is what is left of one that is killed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.store_rows import Maker, Run, Shape, Tables
from store.connection import Store, Unit
from store.types import Answer, Question, RunError

THOUGHTS, BUDGETS = 256, (512, 2048)
TABLES = ("thoughts", "thought_texts", "traces", "trace_texts")
ROWS = THOUGHTS * (2 + 2 * len(BUDGETS))  # of a unit, without its own row
SHARED = 4  # every so manyth unit of a writer is one that all of them land
_QUESTIONS = 32
READ_PAUSE = 0.2  # seconds between two readings of a reader

Land = Callable[[Tables, Unit], int]


def begin(go: Path, log: Path) -> float:
    """Say that this process is ready, and wait for the others. Returns when the load ends (epoch seconds)."""
    log.with_suffix(".ready").touch()
    while not go.exists():
        time.sleep(0.02)
    return float(go.read_text(encoding="utf-8"))


def unit_names(writer: int) -> Iterator[str]:
    """The units of a writer, in its order."""
    place = 0
    while True:
        yield f"all-{place // SHARED}" if place % SHARED == SHARED - 1 else f"writer-{writer}-{place}"
        place += 1


def made(name: str) -> tuple[Tables, Unit]:
    """The rows of a unit and its own row, whose spec says when they were ready."""
    seed = int.from_bytes(name.encode(), "big") % 2**32
    maker = Maker({"bench": _questions()}, Shape(THOUGHTS // _QUESTIONS, BUDGETS), seed=seed)
    tables = maker.traces(Run(0, "student", name, None, "fs1", "bench", 0.5))
    spec = json.dumps({"ready": time.time()})
    unit = Unit(f"unit-{name}", "traces", name, spec, ROWS, 0.0, "{}", "host")
    return {table: tables[table] for table in TABLES}, unit


def ready(spec: str) -> float:
    """When the unit with this spec was drawn (epoch seconds)."""
    return float(json.loads(spec)["ready"])


def write(writer: int, go: Path, log: Path, land: Land) -> None:
    """Land units as fast as it goes, between the times that the file ``go`` says."""
    until = begin(go, log)
    with log.open("a", encoding="utf-8") as told:
        for name in unit_names(writer):
            tables, unit = made(name)
            started = time.time()
            if started >= until:
                return
            try:
                new, refused = land(tables, unit), 0
            except RunError as error:
                new, refused = 0, 1
                print(error, flush=True)
            now = time.time()
            _tell(
                told, unit=name, new=new, seconds=now - started, at=now, delay=now - ready(unit.spec), refused=refused
            )


def write_into_store(address: str, writer: int, go: Path, log: Path) -> None:
    """A writer of a store."""
    store = Store(address)
    store.query("SELECT 1")
    write(writer, go, log, lambda tables, unit: store.land(tables, unit))


def write_parts(folder: Path, writer: int, go: Path, log: Path) -> None:
    """A writer of the other design: Parquet files of a unit in a folder that gets its name when all of them are there."""

    def land(tables: Tables, unit: Unit) -> int:
        partial = folder / f".{unit.name}.{os.getpid()}"
        partial.mkdir()
        for table, rows in {**tables, "units": pa.Table.from_pylist([unit._asdict()])}.items():
            pq.write_table(rows, partial / f"{table}.parquet", compression="zstd")
        try:
            partial.rename(folder / unit.name)
        except OSError:  # another writer has written this unit
            shutil.rmtree(partial)
            return 0
        return ROWS

    write(writer, go, log, land)


def ingest(address: str, folder: Path, go: Path, log: Path) -> None:
    """The one process of the other design that lands parts: in the keyed store, and then the part is removed."""
    store = Store(address)
    until = begin(go, log)
    with log.open("a", encoding="utf-8") as told:
        while True:
            parts = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
            if not parts and time.time() >= until:
                return
            for part in parts:
                started = time.time()
                tables = {table: pq.read_table(part / f"{table}.parquet") for table in (*TABLES, "units")}
                new = store.land(tables)
                shutil.rmtree(part)
                now, spec = time.time(), tables["units"].column("spec")[0].as_py()
                _tell(told, unit=part.name, new=new, seconds=now - started, at=now, delay=now - ready(spec), refused=0)
            if not parts:
                time.sleep(0.05)


def read(address: str, go: Path, log: Path) -> None:
    """A reader: counts what is there, looks into one unit, and says how long it took and whether all of it belonged together."""
    store = Store(address)
    store.query("SELECT 1")
    until = begin(go, log)
    chance = random.Random(os.getpid())  # noqa: S311 - which unit is looked at
    with log.open("a", encoding="utf-8") as told:
        while time.time() < until:
            started = time.time()
            with store.connection(read_only=True):
                waited = time.time() - started
                units = store.query("SELECT unit_key FROM units")
                counts = store.query(" UNION ALL ".join(f"SELECT count(*) AS n FROM {table}" for table in TABLES))  # noqa: S608
                one = chance.choice(units)["unit_key"] if units else None
                found = store.query(_ONE, [made_key(one.removeprefix("unit-"))]) if one else []
            now = time.time()
            wrong = sum(row["n"] for row in counts) != ROWS * len(units) or (
                one and found[0]["n"] != THOUGHTS * len(BUDGETS)
            )
            _tell(told, seconds=now - started, waited=waited, at=now, wrong=int(bool(wrong)))
            time.sleep(READ_PAUSE)


_ONE = "SELECT count(*) AS n, avg(thinking_tokens) AS tokens FROM traces WHERE thought_key = ?"


def made_key(name: str) -> str:
    """The key that the thoughts of a unit have in common."""
    return Run(0, "student", name, None, "fs1", "bench", 0.5).thought_key


def told_lines(log: Path) -> list[dict[str, Any]]:
    """What a process wrote into its log; a line that was cut is left out."""
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def percentile(values: list[float], share: float) -> float:
    """The value that this share of ``values`` does not exceed; 0 of none."""
    return float(np.quantile(values, share)) if values else 0.0


def _tell(told: Any, **fields: Any) -> None:
    told.write(json.dumps(fields) + "\n")
    told.flush()


def _questions() -> tuple[Question, ...]:
    return tuple(
        Question(
            id=f"q{number}",
            dataset="bench",
            split="test",
            text=f"What is the capital of country number {number}?",
            answers=(Answer(text=f"City {number}"),),
            answer_type="entity",
        )
        for number in range(_QUESTIONS)
    )
