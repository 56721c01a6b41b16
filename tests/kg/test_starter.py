"""The starter slice holds together: its facts, its questions with their gold chains, and its N-Triples form."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kg import starter
from kg.endpoint import Endpoint
from kg.server import local_endpoint
from kg.statements import details
from store.types import Detail, Triple

ROOT = Path(__file__).resolve().parents[2]
EXTRACT = ROOT.parent / "shared" / "data" / "kg"
CHECK = Path(__file__).with_name("check_starter_against_extract.py")

KEYS = ["id", "split", "question", "answer_type", "hops", "question_entities", "answers", "gold"]
MONTHS = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]  # fmt: skip
RECORDS = starter.question_records()
TRAIN = [record for record in RECORDS if record["split"] == "train"]
TEST = [record for record in RECORDS if record["split"] == "test"]


def numbered(identifier: str) -> int:
    return int(identifier[1:])


def chains(gold: dict[str, Any]) -> list[dict[str, Any]]:
    """The chains of steps that a gold consists of."""
    if "compare" in gold:
        return list(gold["compare"])
    return [gold.get("ask", gold)]


def chain_keys(records: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    """What may not be shared by the splits: the start and steps of each question's gold."""
    return {tuple((chain["start"], *chain["steps"]) for chain in chains(record["gold"])) for record in records}


def in_words(date: str) -> str:
    """A date of the facts as a person writes it."""
    year, *rest = starter.date_parts(date)
    shown = str(year) if year > 0 else f"{-year} BCE"
    if not rest:
        return shown
    return " ".join([*(str(day) for day in rest[1:]), MONTHS[rest[0] - 1], shown])


def test_the_slice_is_large_enough() -> None:
    assert len(starter.facts()) >= 1700
    assert len(starter.entities()) >= 340
    assert len(TRAIN) >= 175
    assert len(TEST) >= 85


def test_every_file_is_sorted_and_every_id_used() -> None:
    facts = starter.facts()
    order = [(numbered(fact.subject), numbered(fact.property)) for fact in facts]
    assert order == sorted(order)
    for ids in (list(starter.entities()), list(starter.properties())):
        assert ids == sorted(ids, key=numbered)
    used = {fact.subject for fact in facts} | {fact.object for fact in facts if fact.datatype == "item"}
    assert used == set(starter.entities())
    assert {fact.property for fact in facts} == set(starter.properties())


def test_facts_are_multi_relational() -> None:
    pairs = Counter((fact.subject, fact.object) for fact in starter.facts() if fact.datatype == "item")
    assert sum(count > 1 for count in pairs.values()) >= 50, "parallel relations between the same two entities"
    values = Counter((fact.subject, fact.property) for fact in starter.facts())
    assert sum(count > 1 for count in values.values()) >= 100, "several values of one property"


def test_symmetric_and_inverse_facts_agree() -> None:
    known = {(fact.subject, fact.property, fact.object) for fact in starter.facts()}
    for subject, pid, value in known:
        if pid in {"P47", "P26"}:
            assert (value, pid, subject) in known
        if pid == "P1376":
            assert (subject, "P17", value) in known
    children = {(value, subject) for subject, pid, value in known if pid == "P40"}
    parents = {(subject, value) for subject, pid, value in known if pid in {"P22", "P25"}}
    assert children == parents


def test_nobody_dies_before_birth_and_nothing_precedes_its_author() -> None:
    dates = {
        (fact.subject, fact.property): starter.date_parts(fact.object)[0]
        for fact in starter.facts()
        if fact.datatype == "time"
    }
    people = {subject for subject, pid in dates if pid == "P569"} & {subject for subject, pid in dates if pid == "P570"}
    assert len(people) > 150
    assert [person for person in people if not 15 < dates[person, "P570"] - dates[person, "P569"] < 110] == []
    early = [
        fact
        for fact in starter.facts()
        if fact.property in {"P50", "P57", "P170"}
        and dates.get((fact.subject, "P577"), 9999) - dates.get((fact.object, "P569"), 0) < 15
    ]
    assert early == []


def test_atomic_numbers_are_unique() -> None:
    numbers = [fact.object for fact in starter.facts() if fact.property == "P1086"]
    assert len(numbers) == len(set(numbers)) >= 40


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("Q1\tP2\tQ1", "object"),
        ("q1\tP2\tQ1\tone, part, one", "subject"),
        ("Q1\tP9\tQ1\tone, part, one", "property"),
        ("Q1\tP2\tQ9\tone, part, nine", "object"),
        ("Q1\tP3\t1953-13\tone, born, 1953-13", "object"),
        ("Q1\tP3\t53\tone, born, 53", "object"),
        ("Q1\tP4\t1,000\tone, length, 1,000", "object"),
        ("Q1\tP2\tQ1\tone, part, two", "gloss"),
        ("Q1\tP4\t3\tone, length, 3\nQ1\tP4\t3\tone, length, 3", "subject"),
    ],
)
def test_a_malformed_fact_is_named(tmp_path: Path, row: str, field: str) -> None:
    path = tmp_path / "facts.tsv"
    path.write_text(f"subject\tproperty\tobject\tgloss\n{row}\n", encoding="utf-8")
    known = {"Q1": starter.Entity("one", ())}
    defined = {
        "P2": starter.Property("part", "item"),
        "P3": starter.Property("born", "time"),
        "P4": starter.Property("length", "quantity"),
    }
    line = row.count("\n") + 2
    with pytest.raises(ValueError, match=rf"facts\.tsv, line {line}, field '{field}'"):
        starter.read_facts(path, known, defined)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("id\tname\taliases\n", r"line 1, field 'id'"),
        ("id\tlabel\taliases\nQ1\t\t\n", r"line 2, field 'label'"),
        ("id\tlabel\taliases\nQ1\tone\ta |  | b\n", r"line 2, field 'aliases'"),
        ("id\tlabel\taliases\nQ1\tone\t\nQ1\tone\t\n", r"line 3, field 'id'"),
        ("id\tlabel\taliases\nQ1\tone\t\n\n", r"line 3, field 'id'"),
    ],
)
def test_a_malformed_entity_is_named(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "entities.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"entities\.tsv, {place}"):
        starter.read_entities(path)


def test_question_ids_and_keys() -> None:
    assert all(list(record) == KEYS for record in RECORDS)
    expected = [
        f"starter-{split}-{n:04d}"
        for split, part in (("train", TRAIN), ("test", TEST))
        for n in range(1, len(part) + 1)
    ]
    assert [record["id"] for record in RECORDS] == expected


def test_the_splits_are_disjoint() -> None:
    texts = Counter(" ".join(re.findall(r"\w+", record["question"].lower())) for record in RECORDS)
    assert [text for text, count in texts.items() if count > 1] == []
    assert chain_keys(TRAIN) & chain_keys(TEST) == set()


def test_the_mix_of_questions() -> None:
    hops = Counter(record["hops"] for record in RECORDS)
    kinds = Counter(record["answer_type"] for record in RECORDS)
    total = len(RECORDS)
    for n, share in ((1, 0.35), (2, 0.45), (3, 0.20)):
        assert abs(hops[n] / total - share) < 0.08, hops
    assert set(hops) == {1, 2, 3}
    for kind, share in (("entity", 0.60), ("date", 0.15), ("number", 0.12), ("boolean", 0.13)):
        assert abs(kinds[kind] / total - share) < 0.05, kinds


def test_the_first_questions_of_the_test_split_are_mixed() -> None:
    first = TEST[:30]
    assert {record["answer_type"] for record in first} == {"entity", "date", "number", "boolean"}
    hops = Counter(record["hops"] for record in first)
    assert [hops[1] >= 11, hops[2] >= 11, hops[3] >= 5] == [True] * 3, hops


@pytest.mark.parametrize("part", [TRAIN, TEST], ids=["train", "test"])
def test_booleans_are_balanced(part: list[dict[str, Any]]) -> None:
    answers = Counter(record["answers"][0]["text"] for record in part if record["answer_type"] == "boolean")
    assert set(answers) == {"yes", "no"}
    assert 0.4 <= answers["yes"] / answers.total() <= 0.6


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["id"])
def test_the_gold_chain_gives_exactly_the_answers(record: dict[str, Any]) -> None:
    solved, answers, kind = starter.solve(record["gold"]), record["answers"], record["answer_type"]
    assert 1 <= len(solved) <= 4
    assert len(answers) == len(solved)
    if kind == "entity":
        assert {answer["entity"] for answer in answers} == solved
        for answer in answers:
            entity = starter.entities()[answer["entity"]]
            assert (answer["text"], tuple(answer["aliases"])) == entity
        return
    assert all(answer["entity"] is None for answer in answers)
    if kind == "date":
        assert {answer["text"] for answer in answers} == {in_words(value) for value in solved}
        assert {value for answer in answers for value in (answer["text"], *answer["aliases"])} >= solved
    else:
        assert {answer["text"] for answer in answers} == solved
    if kind == "number":
        assert all(re.fullmatch(r"\d+(\.\d+)?", answer["text"]) for answer in answers)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["id"])
def test_a_question_fits_its_gold(record: dict[str, Any]) -> None:
    gold, parts = record["gold"], chains(record["gold"])
    steps = [step for chain in parts for step in chain["steps"]]
    assert record["hops"] == max(len(chain["steps"]) for chain in parts)
    assert {step.removeprefix("^") for step in steps} <= set(starter.properties())
    assert set(record["question_entities"]) <= set(starter.entities())
    assert {chain["start"] for chain in parts} <= set(record["question_entities"])
    assert len(record["question_entities"]) == len(set(record["question_entities"]))
    if set(gold) == {"start", "steps"}:
        last = steps[-1]
        value = "item" if last.startswith("^") else starter.properties()[last].datatype
        assert record["answer_type"] == {"item": "entity", "time": "date", "quantity": "number"}[value]
    else:
        assert set(gold) in ({"ask", "equals"}, {"compare", "op"})
        assert record["answer_type"] == "boolean"
        # a chain that leads nowhere would make every such question a "no"
        assert all(starter.follow(chain["start"], chain["steps"]) for chain in parts)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["id"])
def test_a_question_names_its_entities_and_not_its_answer(record: dict[str, Any]) -> None:
    text = record["question"].lower()
    for qid in record["question_entities"]:
        label, aliases = starter.entities()[qid]
        assert any(name.lower() in text for name in (label, *aliases)), f"{qid} is not named"
    if record["answer_type"] != "boolean":
        for answer in record["answers"]:
            assert not re.search(rf"(?<!\w){re.escape(answer['text'].lower())}(?!\w)", text), "the answer is given away"


def test_comparisons_refuse_what_cannot_be_compared() -> None:
    author = {"start": "Q41567", "steps": ["P50"]}
    with pytest.raises(ValueError, match="cannot be compared"):
        starter.solve({"compare": [author, author], "op": "<"})
    with pytest.raises(ValueError, match="one value"):
        starter.solve({"compare": [{"start": "Q39", "steps": ["P37"]}, author], "op": "<"})


# An independent reader: subject, predicate, then IRI, or literal with language or datatype.
TRIPLE = re.compile(r'<(\S+)> <(\S+)> (?:<(\S+)>|"((?:[^"\\\n]|\\["\\nrt])*)"(?:@(en)|\^\^<(\S+)>)) \.')


def parsed(path: Path) -> list[tuple[str, ...]]:
    matches = [TRIPLE.fullmatch(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert None not in matches
    return [tuple(part or "" for part in match.groups()) for match in matches if match is not None]


def test_ntriples_come_back_as_the_slice(tmp_path: Path) -> None:
    path = tmp_path / "starter.nt"
    digest = starter.write_ntriples(path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == starter.write_ntriples(tmp_path / "again.nt")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again.nt", "starter.nt"]
    triples = parsed(path)
    assert len(triples) == len(set(triples))

    labels = {s.removeprefix(starter.WD): text for s, p, _, text, *_ in triples if p == starter.RDFS_LABEL}
    assert labels == {
        **{pid: prop.label for pid, prop in starter.properties().items()},
        **{qid: entity.label for qid, entity in starter.entities().items()},
    }
    aliases = {(s.removeprefix(starter.WD), text) for s, p, _, text, *_ in triples if p == starter.SKOS_ALT_LABEL}
    assert aliases == {(qid, alias) for qid, entity in starter.entities().items() for alias in entity.aliases}
    types = {s.removeprefix(starter.WD): iri for s, p, iri, *_ in triples if p == f"{starter.WIKIBASE}propertyType"}
    names = {"item": "WikibaseItem", "time": "Time", "quantity": "Quantity"}
    assert types == {
        pid: f"http://wikiba.se/ontology#{names[prop.datatype]}" for pid, prop in starter.properties().items()
    }
    claims = {s.removeprefix(starter.WD): iri for s, p, iri, *_ in triples if p == f"{starter.WIKIBASE}directClaim"}
    assert claims == {pid: f"http://www.wikidata.org/prop/direct/{pid}" for pid in starter.properties()}

    read: Counter[tuple[str, str, str]] = Counter()
    for s, p, iri, text, _, datatype in triples:
        if p.startswith(starter.WDT):
            value = (
                iri.removeprefix("http://www.wikidata.org/entity/") if iri else f"{text}^{datatype.rpartition('#')[2]}"
            )
            read[s.removeprefix(starter.WD), p.removeprefix(starter.WDT), value] += 1
    assert read == Counter((fact.subject, fact.property, rdf_value(fact)) for fact in starter.facts())


def rdf_value(fact: starter.Fact) -> str:
    """A fact's object as the reader above shows it, derived apart from the writer."""
    if fact.datatype == "item":
        return fact.object
    if fact.datatype == "quantity":
        return f"+{fact.object}^decimal"
    padded = f"{fact.object}-01-01"[: len(fact.object.lstrip("-")[:4]) + 6 + fact.object.startswith("-")]
    if padded.startswith("-"):
        padded = f"-{int(padded[1:5]) - 1:04d}{padded[5:]}"
    return f"{padded}T00:00:00Z^dateTime"


def test_ntriples_of_known_facts(tmp_path: Path) -> None:
    path = tmp_path / "starter.nt"
    starter.write_ntriples(path)
    lines = set(path.read_text(encoding="utf-8").splitlines())
    wd, wdt, xsd = "http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/direct/", starter.XSD
    assert f"<{wd}Q142> <{wdt}P36> <{wd}Q90> ." in lines
    assert f'<{wd}Q937> <{wdt}P569> "1879-03-14T00:00:00Z"^^<{xsd}dateTime> .' in lines
    assert f'<{wd}Q480> <{wdt}P577> "1605-01-01T00:00:00Z"^^<{xsd}dateTime> .' in lines
    assert f'<{wd}Q1048> <{wdt}P570> "-0043-01-01T00:00:00Z"^^<{xsd}dateTime> .' in lines, "44 BCE in XSD 1.1"
    assert f'<{wd}Q513> <{wdt}P2044> "+8848.86"^^<{xsd}decimal> .' in lines
    assert f'<{wd}Q142> <{starter.RDFS_LABEL}> "France"@en .' in lines


def test_dates_are_known_to_their_precision(tmp_path: Path) -> None:
    starter.write_ntriples(tmp_path / "starter.nt")
    asked = {
        Triple("Q937", "P569", "1879-03-14", True): 11,
        Triple("Q480", "P577", "1605-01-01", True): 9,
        Triple("Q1048", "P570", "-0044-01-01", True): 9,
    }
    with local_endpoint([tmp_path / "starter.nt"], tmp_path / "kg") as url:
        found = details(Endpoint(url, snapshot="starter"), [*asked, Triple("Q142", "P36", "Q90")])
    assert found == {triple: (Detail(precision=precision),) for triple, precision in asked.items()}


def test_labels_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "entities", lambda: {"Q1": starter.Entity('a "b" \\ c', ("é\td",))})
    path = tmp_path / "starter.nt"
    starter.write_ntriples(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert f'<{starter.WD}Q1> <{starter.RDFS_LABEL}> "a \\"b\\" \\\\ c"@en .' in lines
    assert f'<{starter.WD}Q1> <{starter.SKOS_ALT_LABEL}> "é\\td"@en .' in lines


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        starter.write_ntriples(tmp_path / "starter.nt")
    assert list(tmp_path.iterdir()) == []


def test_the_extract_agrees() -> None:
    if not (EXTRACT / "wikidata_extract.nt.gz").is_file():
        reason = f"no extract of Wikidata in {EXTRACT}"
        print(reason)
        pytest.skip(reason)
    run = subprocess.run(
        [sys.executable, str(CHECK), "--extract", str(EXTRACT)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
