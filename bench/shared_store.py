"""The shared store under load: four writers, two readers, one writer killed, against the other design that was on the table.

    python -m bench.shared_store [--quick] [--check] [--minutes 10] [--keep FOLDER]

A real PostgreSQL is started. Four processes land units (256 thoughts, their traces, all texts) in a lake as fast as it goes, and
every fourth unit is one that all four land; two more read. In the middle one writer is killed with -9 while it holds the
lock. At the end every key is counted. Then the same processes use the other design for a shorter time: writers put
Parquet parts into a folder (temporary name, then rename), one process lands them in the keyed DuckDB file, readers read that
file. Rows are ready when a writer has drawn them; a reader that begins once they have landed sees them. Prints a table, then
one JSON object as its last line. With ``--check`` a missed bar is named and the exit status is 1:

- no key twice, no row without its unit, no unit that was landed and is gone, and nothing that a reader saw half of;
- another writer lands within 10 seconds of the kill;
- no reader waits longer than 2 seconds until it may read, and no reading takes longer than 30.

``--quick`` takes 40 seconds and 20. ``--keep`` leaves the stores in a folder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from bench import shared_store_load as load
from bench.outcome import finish
from bench.postgres import PASSWORD, Postgres, missing, postgres_server
from store.connection import Store
from store.lake_schema import reference
from store.types import InputError, RunError
from store.upkeep import SAFE_HOURS, compact, contents

WRITERS, READERS = 4, 2
QUICK_SECONDS = 40.0
PART_SHARE, LEAST_SECONDS = 0.05, 20.0  # of the time, for the other design: landing what was written takes far longer
LONGEST_WAIT, LONGEST_READ, TAKEN_OVER = 2.0, 30.0, 10.0
_SPAWN = multiprocessing.get_context("spawn")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit status: 0, 1 for a missed bar, 2 where there is no PostgreSQL."""
    parser = argparse.ArgumentParser(prog="python -m bench.shared_store", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SECONDS:.0f} seconds")
    parser.add_argument("--check", action="store_true", help="exit with status 1 where a bar is missed")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the lake is written")
    parser.add_argument("--keep", type=Path, help="leave the stores in this folder")
    given = parser.parse_args(arguments)
    if reason := missing():
        print(f"this needs a PostgreSQL server: {reason}", file=sys.stderr)
        return 2
    seconds = QUICK_SECONDS if given.quick else given.minutes * 60
    folder = given.keep or Path(tempfile.mkdtemp(prefix="factscale-shared-"))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PGPASSWORD"] = PASSWORD
    try:
        with postgres_server(durable=True) as server:
            figures = {"lake": lake(server, folder, seconds)}
        figures["parts"] = parts(folder, max(LEAST_SECONDS, seconds * PART_SHARE))
    except (InputError, RunError) as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        if given.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    _print(figures)
    missed = _missed(figures) if given.check else []
    return finish("shared_store", missed, check=given.check, quick=given.quick, **figures)


def lake(server: Postgres, folder: Path, seconds: float) -> dict[str, Any]:
    """The shipped design: all processes open the lake."""
    server.create("lake")
    store = Store(server.url("lake", folder / "lake"))
    store.query("SELECT 1")
    writer = store.lake.writer if store.lake else str
    crew = Crew(folder / "logs-lake", seconds)
    for place in range(WRITERS):
        crew.start("writer", load.write_into_store, store.address, place)
    for _ in range(READERS):
        crew.start("reader", load.read, store.address)
    crew.go()
    killed = crew.kill_one(lambda pid: writer().endswith(f":{pid}"))
    crew.wait()
    figures = {**crew.figures(killed), **_exact(store, crew)}
    before = contents(store)
    started = time.time()
    done = compact(store, SAFE_HOURS)
    figures |= {
        "bytes": sum(row["bytes"] for row in before.tables),
        "files": sum(row["files"] for row in before.tables),
        "catalog bytes": int(server.execute("SELECT pg_database_size('lake')")),
        "compaction seconds": round(time.time() - started, 1),
        "files merged": done.merged,
        "into files": done.into,
        "left of the killed": _orphans(store, folder / "lake"),
    }
    figures |= {f"{name} after compaction": value for name, value in _exact(store, crew).items()}
    store.close()
    return figures


def parts(folder: Path, seconds: float) -> dict[str, Any]:
    """The other design: parts in a folder, one process that lands them in the file."""
    parted = folder / "parts"
    parted.mkdir()
    store = Store(folder / "keyed.duckdb")
    store.query("SELECT 1")
    crew = Crew(folder / "logs-parts", seconds)
    for place in range(WRITERS):
        crew.start("writer", load.write_parts, parted, place)
    crew.start("ingest", load.ingest, str(store.path), parted)
    for _ in range(READERS):
        crew.start("reader", load.read, str(store.path))
    crew.go()
    killed = crew.kill_one(lambda pid: any(path.name.endswith(f".{pid}") for path in parted.iterdir()))
    crew.wait()
    figures = {**crew.figures(killed), **_exact(store, crew)}
    return {
        **figures,
        "bytes": store.path.stat().st_size,
        "files": 1,
        "left of the killed": len(list(parted.iterdir())),
    }


class Killed(NamedTuple):
    """The writer that was killed: its place, when, and whether it was inside a landing."""

    place: int
    at: float
    inside: bool


class Crew:
    """The processes of one design, and what they wrote into their logs."""

    def __init__(self, folder: Path, seconds: float) -> None:
        folder.mkdir()
        self._folder, self._seconds = folder, seconds
        self._go = folder / "go"
        self.until = 0.0
        self._members: list[tuple[str, BaseProcess]] = []

    def start(self, role: str, work: Callable[..., None], *arguments: Any) -> None:
        """Start a process; its work gets the arguments, the file that tells it to go, and its log."""
        log = self._log(role, sum(one == role for one, _ in self._members))
        process = _SPAWN.Process(target=work, args=(*arguments, self._go, log))
        process.start()
        self._members.append((role, process))

    def go(self) -> None:
        """Let them begin, once all are ready."""
        while len(list(self._folder.glob("*.ready"))) < len(self._members):
            if any(process.exitcode is not None for _, process in self._members):
                raise RunError("a process of the benchmark ended before it began")
            time.sleep(0.05)
        self.until = time.time() + self._seconds
        partial = self._go.with_suffix(".partial")
        partial.write_text(str(self.until), encoding="utf-8")
        partial.replace(self._go)

    def kill_one(self, inside: Callable[[int], bool]) -> Killed:
        """Half way, kill the first writer with -9 as soon as it is inside a landing."""
        time.sleep(max(0.0, self.until - self._seconds / 2 - time.time()))
        victim = next(process for role, process in self._members if role == "writer")
        pid = victim.pid or 0
        latest = time.time() + self._seconds / 4
        while not (found := inside(pid)) and time.time() < latest:
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        killed = Killed(0, time.time(), found)
        victim.join()
        return killed

    def wait(self) -> None:
        """Until all have ended."""
        for _, process in self._members:
            process.join()

    def logs(self, role: str) -> list[list[dict[str, Any]]]:
        """The lines of each process of this role."""
        count = sum(one == role for one, _ in self._members)
        return [load.told_lines(self._log(role, place)) for place in range(count)]

    def figures(self, killed: Killed) -> dict[str, Any]:
        """Rows a second, landings, readings, delays, and what followed the kill."""
        landed = [line for log in self.logs("ingest") or self.logs("writer") for line in log]
        written = [line for log in self.logs("writer") for line in log]
        readings = [line for log in self.logs("reader") for line in log]
        waits = [line["waited"] for line in readings]
        delays = [line["delay"] for line in landed]
        after = [line["at"] - killed.at for line in landed if line["at"] > killed.at]
        rows = sum(line["new"] for line in landed)
        took = max([self.until, *(line["at"] for line in landed)]) - self.until + self._seconds
        return {
            "seconds": round(self._seconds),
            "until all had landed, seconds": round(took, 1),
            "rows": rows,
            "rows a second": round(rows / took),
            "landings": len(written),
            "landing seconds, median": round(load.percentile([line["seconds"] for line in written], 0.5), 3),
            "landing seconds, longest": round(load.percentile([line["seconds"] for line in written], 1), 3),
            "landings refused": sum(line["refused"] for line in written),
            "landings that others had made": sum(line["new"] == 0 for line in written)
            - sum(line["refused"] for line in written),
            "readings": len(readings),
            "reading seconds, median": round(load.percentile([line["seconds"] for line in readings], 0.5), 3),
            "reading seconds, longest": round(load.percentile([line["seconds"] for line in readings], 1), 3),
            "reader's wait, median": round(load.percentile(waits, 0.5), 3),
            "reader's wait, longest": round(load.percentile(waits, 1), 3),
            "ready to landed seconds, median": round(load.percentile(delays, 0.5), 2),
            "ready to landed seconds, 95th": round(load.percentile(delays, 0.95), 2),
            "ready to landed seconds, longest": round(load.percentile(delays, 1), 2),
            "killed inside a landing": killed.inside,
            "next landing after the kill, seconds": round(min(after, default=-1.0), 2),
            "readings that saw half a unit": sum(line["wrong"] for line in readings),
        }

    def units(self) -> set[str]:
        """Units of which a writer was told that they are landed (or, of parts, written)."""
        return {line["unit"] for log in self.logs("writer") for line in log if not line["refused"]}

    def _log(self, role: str, place: int) -> Path:
        return self._folder / f"{role}-{place}.jsonl"


def _exact(store: Store, crew: Crew) -> dict[str, Any]:
    """Every key counted: units that are gone, rows that are missing or too many, keys that are there twice."""
    keys = {"thoughts": "thought_id", "thought_texts": "thought_id", "traces": "trace_id", "trace_texts": "trace_id"}
    names = {row["name"] for row in store.query("SELECT name FROM units")}
    twice = store.query("SELECT count(*) - count(DISTINCT unit_key) AS n FROM units")[0]["n"]
    off = 0
    for table, key in keys.items():
        (row,) = store.query(f"SELECT count(*) AS n, count(DISTINCT {key}) AS keys FROM {table}")  # noqa: S608 - our own names
        twice += row["n"] - row["keys"]
        wanted = load.THOUGHTS * (1 if key == "thought_id" else len(load.BUDGETS)) * len(names)
        off += abs(row["keys"] - wanted)
    return {
        "units": len(names),
        "units gone": len(crew.units() - names),
        "keys twice": twice,
        "rows missing or too many": off,
    }


def _orphans(store: Store, folder: Path) -> int:
    """Files that no landing refers to: of the writer that was killed, until a compaction finds them old enough."""
    with store.connection(read_only=True) as db:
        known = set()
        for table in reference().tables:
            found = db.execute(f"SELECT data_file FROM ducklake_list_files('store', '{table}')").fetchall()  # noqa: S608
            known |= {Path(row[0]).name for row in found}
        replaced = db.execute(
            "SELECT path FROM __ducklake_metadata_store.factscale.ducklake_files_scheduled_for_deletion"
        ).fetchall()
    known |= {Path(row[0]).name for row in replaced}
    # Folders keep the name that a table was made with.
    return sum(path.name not in known for path in folder.rglob("*.parquet"))


def _missed(figures: dict[str, dict[str, Any]]) -> list[str]:
    missed = []
    shipped = figures["lake"]
    for name, value in shipped.items():
        exact = name.removesuffix(" after compaction") in ("units gone", "keys twice", "rows missing or too many")
        if (exact or name in ("readings that saw half a unit", "landings refused")) and value:
            missed.append(f"{name}: {value}, none wanted")
    if not 0 <= shipped["next landing after the kill, seconds"] <= TAKEN_OVER:
        missed.append(
            f"next landing {shipped['next landing after the kill, seconds']} s after the kill, {TAKEN_OVER} at most"
        )
    if shipped["reader's wait, longest"] > LONGEST_WAIT:
        missed.append("a reader waited {} s, {} at most".format(shipped["reader's wait, longest"], LONGEST_WAIT))
    if shipped["reading seconds, longest"] > LONGEST_READ:
        missed.append(f"a reading of {shipped['reading seconds, longest']} s, {LONGEST_READ} at most")
    if not shipped["killed inside a landing"]:
        missed.append("the writer was killed outside a landing: that proves little")
    return missed


def _print(figures: dict[str, dict[str, Any]]) -> None:
    table = Table(title="The shared store under load", title_justify="left", box=None)
    table.add_column("figure")
    for design in figures:
        table.add_column(design, justify="right")
    names = dict.fromkeys(name for design in figures.values() for name in design)
    for name in names:
        table.add_row(name, *(_cell(design.get(name, "")) for design in figures.values()))
    Console().print(table)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.exit(main())
