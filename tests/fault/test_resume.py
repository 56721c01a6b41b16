"""`kill -9` at random points, then the same command: nothing lost, nothing made twice, nothing changed.

Real processes, the real model, a real SPARQL server and a real Prefect server. The kills are drawn from a seed that is
printed; FACTSCALE_KILL_SEED repeats one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mini_study
import pytest

from store.connection import Store

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

# Columns that say when or where a row was made, and so differ between two runs of the same study.
ROWS = {
    "thoughts": "*",
    "thought_texts": "*",
    "traces": "*",
    "trace_texts": "*",
    "predictions": "*",
    "verdicts": "*",
    "retrievals": "* EXCLUDE (landed_at)",
    "paths": "*",
    "edges": "*",
    "expansions": "*",
    "labels": "*",
    "training_sets": "*",
    "training_rows": "*",
    "students": "student_key, name, base, recipe, training_set, weights_hash",
    "units": "unit_key, kind, name, spec, row_count, prompt_tokens, cached_tokens, generated_tokens",
    "study_runs": "*",
}


def content(home: Path) -> dict[str, set[str]]:
    """Every row of every table, as text."""
    store = Store(home / "factscale.duckdb", lock_timeout=20)
    if not store.path.exists():
        return {table: set() for table in ROWS}
    return {
        table: {json.dumps(row, default=str, sort_keys=True) for row in store.query(f"SELECT {columns} FROM {table}")}  # noqa: S608
        for table, columns in ROWS.items()
    }


def generated(home: Path) -> tuple[int, int]:
    """Tokens of the rows that ended, and a bound on those of rows that a kill cut."""
    ended = cut = 0
    begun: dict[str, int] = {}
    for line in generation_log(home):
        for identity in line.get("ids", []):
            cut += begun.get(identity, 0)  # begun before, and never ended
            begun[identity] = line["max_tokens"]
        for identity in line.get("ended", []):
            del begun[identity]
        ended += line.get("tokens", 0)
    return ended, cut + sum(begun.values())


def generation_log(home: Path) -> list[dict[str, Any]]:
    log = home / "logs" / "generation.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture(scope="module", autouse=True)
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Prefect server for all attempts, as a team has it; also it sees one study in two homes, and must not mix them."""
    from flows.server import prefect_api, prepare_environment
    from store.home import Home

    home = Home(tmp_path_factory.mktemp("server"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home.folder / "prefect"))
        prepare_environment(home)
        with prefect_api(home) as url:
            patch.setenv("PREFECT_API_URL", url)
            yield


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "FACTSCALE_HOME": str(home), "OMP_WAIT_POLICY": "PASSIVE"}


def run(command: list[str], home: Path, kill_after: float | None) -> int:
    """Run to the end (its exit code), or until a kill -9 after so many seconds (-9)."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "output.txt").open("ab") as output:
        process = subprocess.Popen(command, env=environment(home), stdout=output, stderr=output, start_new_session=True)
        try:
            return process.wait(timeout=kill_after)
        except subprocess.TimeoutExpired:
            # Only the flow's own process: its children must go with it by themselves.
            process.send_signal(signal.SIGKILL)
            return process.wait()


def survivors(home: Path) -> list[str]:
    """Processes that still work for this home, a moment after its command was killed."""
    found: list[str] = []
    for _ in range(50):
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if f"FACTSCALE_HOME={home}".encode() in variables and state not in "ZX":
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        if not found:
            return []
        time.sleep(0.1)
    return found


def until_done(command: list[str], home: Path, whole: float, kills: int, dice: random.Random) -> int:
    """Start again after each kill. What had landed before a kill must be there, unchanged, at every later look."""
    done = 0
    landed = content(home)
    for _ in range(kills):
        code = run(command, home, kill_after=dice.uniform(0.15, 0.75) * whole)
        if code == 0:
            break
        assert code == -signal.SIGKILL, (home / "output.txt").read_text()[-2000:]
        done += 1
        assert survivors(home) == []
        now = content(home)
        assert all(landed[table] <= now[table] for table in ROWS), "a landed row was lost or changed"
        landed = now
    assert run(command, home, None) == 0, (home / "output.txt").read_text()[-2000:]
    now = content(home)
    assert all(landed[table] <= now[table] for table in ROWS), "a landed row was lost or changed"
    return done


@pytest.fixture
def dice() -> random.Random:
    seed = int(os.environ.get("FACTSCALE_KILL_SEED", str(random.randrange(10**6))))
    print(f"FACTSCALE_KILL_SEED={seed}")
    return random.Random(seed)


@pytest.mark.slow
def test_a_killed_study_ends_as_an_uninterrupted_one(tmp_path: Path, dice: random.Random) -> None:
    study = mini_study.write(tmp_path, mini_study.mini())
    command = [str(Path(sys.executable).with_name("factscale")), "study", "run", str(study)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    started = time.monotonic()
    assert run(command, whole, None) == 0, (whole / "output.txt").read_text()[-2000:]
    seconds = time.monotonic() - started
    kills = until_done(command, killed, seconds, 3, dice)
    assert kills >= 1, "the kills came too late to mean anything"
    expected, found = content(whole), content(killed)
    for table in ROWS:
        assert found[table] == expected[table], table
    assert {row["thoughts"] for row in counts(killed)} == {mini_study.TRAIN + 2 * mini_study.TEST}
    tokens, _ = generated(whole)
    ended, cut = generated(killed)
    room = mini_study.ANSWER
    row = max(mini_study.TEACH + room, mini_study.THINK + len(mini_study.BUDGETS) * room)
    assert ended + cut <= tokens + kills * mini_study.CHUNK * row


def counts(home: Path) -> list[dict[str, Any]]:
    return Store(home / "factscale.duckdb").query("SELECT count(*) AS thoughts FROM thoughts")


SAMPLED = """
import sys
from pathlib import Path
from flows.orders import Orders
from flows.parameters import load_study
from store.home import Home
from tasks.questions import register_questions
from tasks.traces import land_traces
home = Home.current()
study = load_study(Path(sys.argv[1]))
orders = Orders(study, home)
run = orders.run(*orders.run_names()[0])
register_questions(home.store, run.predictions.questions)
land_traces(run.traces, home)
"""


@pytest.mark.slow
def test_ctrl_c_leaves_at_once_and_takes_its_children_along(tmp_path: Path) -> None:
    study = mini_study.write(tmp_path, mini_study.mini())
    home = tmp_path / "home"
    home.mkdir()
    command = [str(Path(sys.executable).with_name("factscale")), "study", "run", str(study)]
    with (home / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, env=environment(home), stdout=output, stderr=output, start_new_session=True)
    log = home / "logs" / "generation.jsonl"
    deadline = time.monotonic() + 120
    while not log.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    assert process.wait(timeout=30) == 130
    assert "what landed is kept" in (home / "output.txt").read_text()
    assert survivors(home) == []


def killed_while_generating(command: list[str], home: Path, dice: random.Random) -> None:
    """Run, and kill -9 at a random point after the model has begun to generate."""
    home.mkdir(parents=True, exist_ok=True)
    before = len(generation_log(home))
    with (home / "output.txt").open("ab") as output:
        process = subprocess.Popen(command, env=environment(home), stdout=output, stderr=output, start_new_session=True)
    wanted = dice.randint(1, 5)
    deadline = time.monotonic() + 120
    while len(generation_log(home)) < before + wanted and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(dice.uniform(0, 0.3))
    assert process.poll() is None, (home / "output.txt").read_text()[-2000:]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert survivors(home) == []


@pytest.mark.parametrize(
    ("kills", "questions"),
    [(2, 1), pytest.param(10, mini_study.TEST, marks=pytest.mark.slow)],
    ids=["twice", "ten times"],
)
def test_sixteen_samples_at_temperature_are_made_once(
    tmp_path: Path, dice: random.Random, kills: int, questions: int
) -> None:
    window = 4
    warm = mini_study.mini(
        evaluate={
            "settings": ["instruct"],
            "datasets": [{"split": "test", "limit": questions}],
            "samples": 16,
            "sampling": {"temperature": 1.0, "top_p": 0.95},
        },
        generation={"chunk": window, "batch_size": window},
    )
    study = mini_study.write(tmp_path, warm)
    command = [sys.executable, "-c", SAMPLED, str(study)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(command, whole, None) == 0, (whole / "output.txt").read_text()[-2000:]
    landed = content(killed)
    for _ in range(kills):
        killed_while_generating(command, killed, dice)
        now = content(killed)
        assert all(landed[table] <= now[table] for table in ROWS), "a landed row was lost or changed"
        landed = now
    assert run(command, killed, None) == 0, (killed / "output.txt").read_text()[-2000:]
    assert all(rows <= content(killed)[table] for table, rows in landed.items()), "a landed row was lost or changed"
    # A seeded sample depends on its batch, so the texts may differ between the two; the rows may not.
    for table, key in (("thoughts", "thought_id"), ("traces", "trace_id")):
        keys = [
            {row[key] for row in Store(home / "factscale.duckdb").query(f"SELECT {key} FROM {table}")}  # noqa: S608
            for home in (whole, killed)
        ]
        assert keys[0] == keys[1]
    assert len(keys[0]) == questions * 16 * len(mini_study.BUDGETS)
    thoughts = [i for line in generation_log(killed) for i in line.get("ids", []) if "/" not in i]
    assert len(thoughts) - len(set(thoughts)) <= kills * window
