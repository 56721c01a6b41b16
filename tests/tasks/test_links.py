"""Linking as a unit, against a real SPARQL server: where each link comes from, and that nothing is asked for twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from relay import Relay

from kg.graphs import load_graph, serve_graph
from kg.linking import LINKER_VERSION
from store.home import Home
from store.types import Answer, InputError, Link, Question
from tasks.graphs import Source
from tasks.keys import LinkingSpec
from tasks.links import LinksOrder, land_links, linked_questions, mapping_hash, unlinked_questions
from tasks.questions import question_key, register_questions

pytestmark = pytest.mark.real

WD, WDT = "http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/direct/"
LABEL, ALIAS = "http://www.w3.org/2000/01/rdf-schema#label", "http://www.w3.org/2004/02/skos/core#altLabel"
FACTS = f"""<{WD}Q42> <{LABEL}> "Douglas Adams"@en .
<{WD}Q42> <{WDT}P646> "/m/0282x" .
<{WD}Q42> <{WDT}P19> <{WD}Q350> .
<{WD}Q350> <{LABEL}> "Cambridge"@en .
<{WD}Q350> <{ALIAS}> "Cambridge, England"@en .
<{WD}Q350> <{WDT}P2671> "/g/11cam" .
<{WD}Q25169> <{LABEL}> "Life, the Universe and Everything"@en .
<{WD}Q25169> <{WDT}P50> <{WD}Q42> .
<{WD}Q25169> <{WDT}P577> "1982-08-01T00:00:00Z"^^<http://www.w3.org/2001/XMLSchema#dateTime> .
"""


def question(number: int, text: str = "Where?", *answers: str, **more: Any) -> Question:
    fields = {"id": f"q{number}", "dataset": "made", "split": "test", "text": text}
    given = tuple(Answer(text=one) for one in answers or ("somewhere",))
    return Question.model_validate({**fields, "answers": given, **more})


def gold(entity: str, role: str) -> Link:
    return Link.model_validate({"entity": entity, "role": role, "source": "gold_mid" if "." in entity else "gold_qid"})


GOLD = question(1, "Where was he born?", links=(gold("Q42", "question"), gold("Q350", "answer"), gold("Q84", "answer")))
MIDS = question(
    2,
    "Where was the writer born?",
    links=(gold("m.0282x", "question"), gold("m.0none", "question"), gold("g.11cam", "answer")),
)
NAMED = question(3, "Where was Douglas Adams born?", "nowhere", "Cambridge, England")
DATED = question(4, "When did Life, the Universe and Everything appear?", "1982", answer_type="date")
NOTHING = question(5, "Why is it so?", "because")
ALL = (GOLD, MIDS, NAMED, DATED, NOTHING)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with the facts under the name ``made``."""
    home = Home(tmp_path_factory.mktemp("loaded"))
    file = home.folder / "made.nt"
    file.write_text(FACTS)
    load_graph([file], "made", home.kg)
    return home


@pytest.fixture(scope="module")
def url(loaded: Home) -> Iterator[str]:
    with serve_graph("made", loaded.kg) as served:
        yield served


@pytest.fixture
def relay(url: str) -> Iterator[Relay]:
    proxy = Relay(url)
    yield proxy
    proxy.close()


@pytest.fixture
def home(loaded: Home, tmp_path: Path) -> Home:
    """An empty store beside the loaded facts."""
    (tmp_path / "kg").symlink_to(loaded.kg)
    return Home(tmp_path)


def order(
    *questions: Question, relay: Relay | None = None, labels: str = "off", mid_map: Path | None = None
) -> LinksOrder:
    """Links by name are off unless a test is about them."""
    snapshot = "made#1"
    return LinksOrder(
        name="links",
        spec=LinkingSpec(
            snapshot=snapshot,
            mids=mapping_hash(mid_map) if mid_map else "endpoint",
            labels=labels,
            linker=LINKER_VERSION,
        ),
        source=Source(graph="made", url=relay.url if relay else None, snapshot=snapshot),
        mid_map=mid_map,
        questions=questions,
    )


def rows(home: Home, question: Question) -> list[tuple[Any, ...]]:
    """Role, entity, source and mention of a question's links, as they are ordered."""
    found = home.store.query(
        "SELECT role, entity, source, mention FROM resolved_links WHERE question_key = ? ORDER BY role DESC, position",
        [question_key(question)],
    )
    return [tuple(row.values()) for row in found]


def count(home: Home, table: str) -> int:
    return int(home.store.query(f"SELECT count(*) AS n FROM {table}")[0]["n"])  # noqa: S608


class TestGold:
    def test_the_ids_of_the_dataset_need_no_endpoint(self, home: Home) -> None:
        nowhere = order(GOLD, DATED.model_copy(update={"links": (gold("Q25169", "question"),)}))
        nowhere = nowhere.model_copy(update={"source": Source(graph="not-loaded", snapshot="made#1")})
        assert land_links(nowhere, home) == 4
        assert rows(home, GOLD) == [
            ("question", "Q42", "gold_qid", ""),
            ("answer", "Q350", "gold_qid", ""),
            ("answer", "Q84", "gold_qid", ""),
        ]
        assert count(home, "endpoint_requests") == 0

    def test_the_entity_of_an_answer_is_a_link(self, home: Home) -> None:
        answered = GOLD.model_copy(
            update={"links": GOLD.links[:1], "answers": (Answer(text="Cambridge", entity="Q350"),)}
        )
        land_links(order(answered), home)
        assert rows(home, answered)[1:] == [("answer", "Q350", "gold_qid", "Cambridge")]


class TestFreebaseIds:
    def test_the_endpoint_is_asked_once_for_each(self, home: Home, relay: Relay) -> None:
        assert land_links(order(MIDS, relay=relay), home) == 2
        assert rows(home, MIDS) == [("question", "Q42", "mid_map", ""), ("answer", "Q350", "mid_map", "")]
        [first] = relay.queries
        assert all(f'"/{one}"' in first for one in ("m/0282x", "m/0none", "g/11cam"))
        landed = home.store.query("SELECT foreign_id, entity FROM foreign_ids ORDER BY 1")
        assert [tuple(row.values()) for row in landed] == [("g.11cam", "Q350"), ("m.0282x", "Q42"), ("m.0none", None)]

        other = MIDS.model_copy(update={"id": "other"})
        assert land_links(order(other, relay=relay), home) == 2
        assert rows(home, other) == rows(home, MIDS)
        assert relay.queries == [first]

        new = MIDS.model_copy(update={"id": "new", "links": (*MIDS.links, gold("m.0new", "answer"))})
        land_links(order(new, relay=relay), home)
        [_, second] = relay.queries
        assert '"/m/0new"' in second
        assert "0282x" not in second
        assert "0none" not in second

    def test_requests_are_kept_with_their_purpose(self, home: Home, relay: Relay) -> None:
        land_links(order(MIDS, NAMED, relay=relay, labels="lookup"), home)
        kept = home.store.query("SELECT snapshot, purpose, outcome FROM endpoint_requests")
        assert [tuple(row.values()) for row in kept] == [("made#1", "linking", "ok")] * len(relay.queries)
        assert len(kept) == 2

    def test_a_mapping_file_is_used_in_place_of_the_endpoint(self, home: Home, relay: Relay, tmp_path: Path) -> None:
        mapping = tmp_path / "map.tsv"
        mapping.write_text("mid\tqid\nm.0282x\tQ5\n/m/0none\tQ6\n")
        mapped = order(MIDS, relay=relay, mid_map=mapping)
        assert mapped.spec.key != order(MIDS).spec.key
        assert land_links(mapped, home) == 2
        assert rows(home, MIDS) == [("question", "Q5", "mid_map", ""), ("question", "Q6", "mid_map", "")]
        assert relay.queries == []
        assert count(home, "foreign_ids") == 0

    def test_what_was_mapped_before_a_failure_is_not_asked_for_again(
        self, home: Home, relay: Relay, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_arguments: object) -> None:
            raise InputError("no names today")

        with monkeypatch.context() as patch:
            patch.setattr("tasks.links.lookup", fails)
            with pytest.raises(InputError, match="no names today"):
                land_links(order(MIDS, NAMED, relay=relay, labels="lookup"), home)
        assert (count(home, "linkings"), count(home, "resolved_links")) == (0, 0)
        assert (count(home, "foreign_ids"), count(home, "endpoint_requests")) == (3, 1)
        land_links(order(MIDS, NAMED, relay=relay, labels="lookup"), home)
        assert [query for query in relay.queries if "0282x" in query] == relay.queries[:1]


class TestNames:
    @pytest.mark.parametrize("labels", ["index", "lookup"])
    def test_links_by_name_say_which_and_where(self, home: Home, labels: str) -> None:
        land_links(order(NAMED, DATED, labels=labels), home)
        assert rows(home, NAMED) == [
            ("question", "Q42", "label", "Douglas Adams"),
            ("answer", "Q350", "label", "Cambridge, England"),
        ]
        assert rows(home, DATED) == [("question", "Q25169", "label", "Life, the Universe and Everything")]
        found = home.store.query("SELECT * FROM resolved_links WHERE role = 'question'")
        texts = {question_key(one): one.text for one in (NAMED, DATED)}
        for row in found:
            assert texts[row["question_key"]][row["span_start"] : row["span_end"]] == row["mention"]
            assert 0 < row["score"] < 1

    @pytest.mark.parametrize("labels", ["index", "lookup"])
    def test_the_links_of_a_question_do_not_depend_on_its_company_or_answer(self, home: Home, labels: str) -> None:
        asked = question(6, "is cambridge where douglas adams was born?", "Life, the Universe and Everything")
        told = question(7, "is the answer to life, the universe and everything known?", "Douglas Adams")
        alone = {}
        for one in (asked, told):
            other = one.model_copy(update={"id": f"{one.id} alone"})
            land_links(order(other, labels=labels), home)
            alone[one.id] = rows(home, other)
        land_links(order(asked, told, NAMED, labels=labels), home)
        assert {one.id: rows(home, one) for one in (asked, told)} == alone
        unlike = told.model_copy(update={"id": "unlike", "answers": (Answer(text="Cambridge"),)})
        land_links(order(unlike, labels=labels), home)
        assert [row for row in rows(home, unlike) if row[0] == "question"] == [
            row for row in rows(home, told) if row[0] == "question"
        ]

    def test_the_whole_index_is_read_only_if_a_question_needs_it(self, home: Home, relay: Relay) -> None:
        land_links(order(GOLD, MIDS, relay=relay, labels="index"), home)
        assert [query for query in relay.queries if "rdfs:label" in query] == []
        land_links(order(GOLD, NAMED, relay=relay, labels="index"), home)
        assert [query for query in relay.queries if "rdfs:label" in query] != []

    def test_off_finds_nothing_and_asks_nothing(self, home: Home, relay: Relay) -> None:
        assert land_links(order(NAMED, DATED, NOTHING, relay=relay), home) == 0
        assert relay.queries == []
        assert unlinked_questions(home.store, order().spec, ALL) == (GOLD, MIDS)


class TestLanding:
    def test_a_question_without_any_link_counts_as_looked_at(self, home: Home) -> None:
        everything = order(*ALL, labels="index")
        assert unlinked_questions(home.store, everything.spec, ALL) == ALL
        assert land_links(everything, home) == 8
        assert unlinked_questions(home.store, everything.spec, ALL) == ()
        assert rows(home, NOTHING) == []
        assert count(home, "linkings") == len(ALL)
        assert unlinked_questions(home.store, order(labels="lookup").spec, ALL) == ALL

    def test_questions_stay_as_their_dataset_gives_them(self, home: Home) -> None:
        keys = [question_key(one) for one in ALL]
        everything = order(*ALL, labels="index")
        register_questions(home.store, ALL)
        before = home.store.query("SELECT * FROM links ORDER BY ALL")
        land_links(everything, home)
        assert home.store.query("SELECT * FROM links ORDER BY ALL") == before
        linked = linked_questions(home.store, everything.spec, ALL)
        assert [question_key(one) for one in ALL] == keys
        assert [one.model_copy(update={"links": ()}) for one in linked] == [
            one.model_copy(update={"links": ()}) for one in ALL
        ]

    def test_linked_questions_have_their_links_in_order(self, home: Home) -> None:
        everything = order(*ALL, labels="index")
        land_links(everything, home)
        linked = linked_questions(home.store, everything.spec, ALL[::-1])
        assert [one.id for one in linked] == [one.id for one in ALL[::-1]]
        found = {one.id: (one.entities("question"), one.entities("answer")) for one in linked}
        assert found == {
            "q1": (("Q42",), ("Q350", "Q84")),
            "q2": (("Q42",), ("Q350",)),
            "q3": (("Q42",), ("Q350",)),
            "q4": (("Q25169",), ()),
            "q5": ((), ()),
        }
        assert {link.source for one in linked for link in one.links} == {"gold_qid", "mid_map", "label"}
        other = order(labels="lookup").spec
        assert [one.links for one in linked_questions(home.store, other, ALL)] == [()] * len(ALL)

    def test_a_second_landing_changes_nothing(self, home: Home) -> None:
        everything = order(*ALL, labels="index")
        land_links(everything, home)
        before = home.store.query("SELECT * FROM resolved_links ORDER BY ALL")
        land_links(everything, home)
        assert home.store.query("SELECT * FROM resolved_links ORDER BY ALL") == before
        assert count(home, "linkings") == len(ALL)
