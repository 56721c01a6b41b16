"""`kill -9` while neighbourhoods are fetched, then the same command: nothing that landed is asked for again, nothing differs.

A slow proxy stands before a real SPARQL server, so that a kill after so many requests is in the middle of them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from relay import Asked, Relay, expansions_of

from eval.benchmarks import load
from flows.orders import Orders
from flows.parameters import Retrieve
from kg.graphs import serve_graph
from store.connection import Store
from store.home import Home
from tasks.controls import land_control
from tasks.graphs import load_graph
from tasks.links import land_links
from tasks.paths import land_neighbourhoods, land_paths
from tasks.questions import register_questions

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

CAP, IN_FLIGHT = 500, 2
QUESTIONS, ENTITIES = 8, 5  # many ends, few tasks
DELAY = 0.15  # seconds: a kill comes long before the answer to the last request
# Requests of a command: the probe, out- and in-edges of all ends, of which a second batch of in-edges begins only when
# one of the others has landed, then the frontiers. The second command has one of them less to ask.
KILLED_AFTER = (4, 4)
TABLES = (
    *("edges", "expansions", "labels", "unlabelled", "degrees", "statements", "linkings", "resolved_links"),
    *("paths", "retrievals", "retrieval_pairs", "controls"),
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of the commands: one Prefect server for all of them, as a team has it."""
    from flows.server import prefect_api, prepare_environment

    home = Home(tmp_path_factory.mktemp("server"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home.folder / "prefect"))
        prepare_environment(home)
        with prefect_api(home) as url:
            yield {**os.environ, "PREFECT_API_URL": url, "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    with serve_graph("starter", tmp_path / "kg") as url:
        proxy = Relay(url, DELAY)
        yield proxy
        proxy.close()


def write_questions(file: Path) -> Path:
    """Questions that are several of the starter set in one: about all their entities, with all their answers."""
    given = [one for one in load("starter", "train") if one.answer_type == "entity"]
    with file.open("w", encoding="utf-8") as lines:
        for number in range(QUESTIONS):
            some = given[number * ENTITIES : (number + 1) * ENTITIES]
            links = {link.entity: link for one in some for link in one.links}.values()
            made = some[0].model_copy(
                update={
                    "text": " ".join(one.text for one in some),
                    "links": tuple(links),
                    "answers": tuple(answer for one in some for answer in one.answers),
                }
            )
            lines.write(made.model_dump_json(exclude={"dataset"}) + "\n")
    return file


class Retrieval:
    """A home in which one study's retrieval is run; its requests are known by its user agent."""

    def __init__(self, home: Path, relay: Relay, environment: dict[str, str]) -> None:
        self.folder, self._relay = home, relay
        self._agent = f"factscale-test/1 ({home.name}@example.org)"
        home.mkdir()
        self._environment = {**environment, "FACTSCALE_HOME": str(home)}
        chosen = {"endpoint": relay.url, "snapshot": "starter", "user_agent": self._agent, "similarity": "lexical"}
        chosen |= {"in_flight": IN_FLIGHT, "requests_per_second": 1000}
        train = {"dataset": "jsonl", "split": "train", "path": str(write_questions(home / "made.jsonl"))}
        self._study = {"name": "killed", "train": train, "retrieve": chosen}
        (home / "killed.yaml").write_text(yaml.safe_dump(self._study))

    @property
    def queries(self) -> list[str]:
        """What it has asked for so far."""
        return [query for headers, query in self._relay.requests if headers["user-agent"] == self._agent]

    def expansions(self, since: int = 0) -> list[Asked]:
        """The neighbourhoods that it has asked for since that many queries."""
        return [one for query in self.queries[since:] for one in expansions_of(query, CAP)]

    def landed(self) -> set[Asked]:
        """The neighbourhoods in its store."""
        found = Store(self.folder / "factscale.duckdb").query("SELECT entity, direction, cap FROM expansions")
        return {(row["entity"], row["direction"], row["cap"]) for row in found}

    def rows(self, table: str) -> set[str]:
        """The rows of a table, as text, but for when they landed."""
        found = Store(self.folder / "factscale.duckdb").query(f"SELECT * FROM {table}")  # noqa: S608
        return {json.dumps(row | {"landed_at": None}, default=str, sort_keys=True) for row in found}

    def said(self) -> str:
        """The end of what its commands have printed."""
        return (self.folder / "output.txt").read_text()[-2000:]

    def done_here(self) -> None:
        """All units of the retrieval, one after the other in this process and without Prefect."""
        home = Home(self.folder)
        orders = Orders(Retrieve.model_validate(self._study), home)
        questions = orders.searched_questions
        register_questions(home.store, questions)
        linking, order = orders.links(questions), orders.control()
        assert linking is not None
        assert order is not None
        land_links(linking, home)
        graph = load_graph(home.store, orders.retrieval.snapshot, orders.retrieval.cap)
        land_neighbourhoods(orders.neighbourhoods(questions), home, graph)
        for some in orders.paths(questions, each=False):
            land_paths(some, home.store, graph)
        land_control(order, home, graph)

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """The command; it is over when the block is."""
        command = [str(Path(sys.executable).with_name("factscale")), "study", "run"]
        command += [str(self.folder / "killed.yaml"), "--only", "retrieve"]
        with (self.folder / "output.txt").open("ab") as output:
            process = subprocess.Popen(command, env=self._environment, stdout=output, stderr=output)
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def killed_after(self, requests: int) -> int:
        """Kill the command once it has made so many requests; its exit code."""
        before = len(self.queries)
        with self.running() as process:
            while process.poll() is None and len(self.queries) < before + requests:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            return process.wait()


def test_a_killed_retrieval_ends_as_an_uninterrupted_one(
    environment: dict[str, str], relay: Relay, tmp_path: Path
) -> None:
    whole = Retrieval(tmp_path / "whole", relay, environment)
    killed = Retrieval(tmp_path / "killed", relay, environment)
    lost, kept = Counter[Asked](), set[Asked]()
    for number in KILLED_AFTER:
        start = len(killed.queries)
        assert killed.killed_after(number) == -signal.SIGKILL, killed.said()
        asked, now = killed.expansions(start), killed.landed()
        assert not kept.intersection(asked), "what had landed was asked for again"
        assert kept < now <= kept.union(asked)
        assert set(asked) - now, "the kill came too late to mean anything"
        lost.update(set(asked) - now)
        kept = now
    assert killed.rows("retrievals") == set()

    start = len(killed.queries)
    with killed.running() as process:
        whole.done_here()
        assert process.wait(120) == 0, killed.said()
    assert not kept.intersection(killed.expansions(start)), "what had landed was asked for again"
    assert set(killed.expansions()) == killed.landed()
    assert Counter(killed.expansions()) == Counter(killed.landed()) + lost, (
        "more than what the kills cut was asked again"
    )
    assert Counter(whole.expansions()) == Counter(whole.landed())
    for table in TABLES:
        assert killed.rows(table) == whole.rows(table), table
    assert len(killed.rows("retrievals")) == QUESTIONS
    assert killed.rows("paths")
