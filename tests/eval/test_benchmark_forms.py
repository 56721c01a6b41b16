"""The official form of each benchmark becomes questions; what is malformed is named by file, line and field."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_benchmarks import (
    HEAD,
    MERGED_ROW,
    array,
    cwq_record,
    exaqt_entity,
    exaqt_record,
    grailqa_record,
    merged_record,
    mintaka_answer,
    mintaka_record,
    simpleqa_row,
    table,
    webqsp_parse,
    webqsp_record,
    write,
)

from eval.benchmarks import count, load, read
from eval.benchmarks.freebase import cwq_hops
from eval.benchmarks.values import answer_type, timestamp
from eval.matching import match
from store.types import Answer, InputError, Link, Question


def mids(role: str, *entities: str) -> tuple[Link, ...]:
    return tuple(Link.model_validate({"entity": e, "role": role, "source": "gold_mid"}) for e in entities)


def test_cwq_form(tmp_path: Path) -> None:
    path = array(tmp_path, cwq_record(), name="ComplexWebQuestions_test.json")
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load("cwq", "test", path=path) == (
        Question(
            id="WebQTrn-1_abc",
            dataset="cwq",
            split="test",
            text="Who composed the opera that Sonnleithner wrote?",
            answers=(Answer(text="Ludwig van Beethoven", aliases=("Beethoven",)),),
            answer_type="entity",
            links=mids("question", "m.0aa") + mids("answer", "m.0bb"),
            hops=2,
            provenance=f"sha256:{checksum} record 1",
        ),
    )


def test_cwq_answers_of_ids_alone_need_names(tmp_path: Path) -> None:
    """The circulated copies: ``answer`` is a list of ids and values, or one text."""
    records = [cwq_record(1, answer=["m.0bb", "m.0cc"]), cwq_record(2, answer=["m.0cc"]), cwq_record(3, answer="Graz")]
    records.append(cwq_record(4, answer=["1805"]))
    for record in records:
        del record["answers"]
    path = array(tmp_path, *records, name="cwq_test.json")
    with pytest.raises(
        InputError, match=r"cwq_test.json: the answers of 2 questions are ids without a name; .*names.tsv"
    ):
        load("cwq", "test", path=path)
    counted = count("cwq", "test", path=path)
    assert (counted.records, counted.questions, counted.unnamed) == (4, 2, ("m.0bb", "m.0cc"))
    assert counted.left_out == {"its answers are ids without a name": 2}

    (tmp_path / "names.tsv").write_text("m.0bb\tBeethoven\r\n\nm.0zz\tx\n", encoding="utf-8")
    first, third, fourth = load("cwq", "test", path=path)
    assert first.gold == ("Beethoven",)
    assert first.freebase_ids("answer") == ("m.0bb", "m.0cc"), "an id without a name is still a link"
    assert (third.gold, third.answer_type, third.freebase_ids("answer")) == (("Graz",), "text", ())
    assert (fourth.gold, fourth.answer_type) == (("1805",), "date")
    assert [item.entity for item in read("cwq", "test", path=path).unnamed] == ["m.0cc", "m.0cc"]
    assert len(load("cwq", "test", path=path, names={"m.0cc": "Paër"})) == 4, "given names win over the table"

    (tmp_path / "names.tsv").write_text("m.0bb\tBeethoven\nm.0cc Paër\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"names.tsv, line 2: id, tab, name is expected"):
        load("cwq", "test", path=path)


@pytest.mark.parametrize(
    ("body", "hops"),
    [
        ("ns:m.0aa ns:a.b ?x .\n", 1),
        ("ns:m.0aa ns:a.b ?y .\n?y ns:a.c ?x .\n?x ns:a.d ns:m.0bb . \n", 2),
        ('?x ns:a.b ?c .\n?c ns:a.c ?d .\n?d ns:a.e "1.8"@en .\n', 3),
        ("ns:m.0aa ns:a.b ?x .\nFILTER(NOT EXISTS {?x ns:a.c ?z} || \nEXISTS {?x ns:a.c ?w . \nFILTER(?w > 1) })\n", 1),
        ("ns:m.0aa ns:a.b ?y .\n", None),  # the answer is not reached
        ("?x ns:a.b ?y .\n", None),  # no constant
        ("{\nns:m.0aa ns:a.b ?x .\n}\nUNION\n{\nns:m.0aa ns:a.c ?x .\n}\n", None),
        ("ns:m.0aa ns:a.b ?x ;\n ns:a.c ?y .\n", None),
    ],
)
def test_cwq_hops(body: str, hops: int | None) -> None:
    assert cwq_hops(f"{HEAD}{body}}}\nORDER BY DESC(?x)\nLIMIT 1\n") == hops


def test_webqsp_forms(tmp_path: Path) -> None:
    second = webqsp_parse(
        TopicEntityMid="m.0cc",
        Answers=[
            {"AnswerType": "Entity", "AnswerArgument": "m.0bb", "EntityName": "Vienna"},
            {"AnswerType": "Entity", "AnswerArgument": "g.0dd", "EntityName": ""},
            {"AnswerType": "Value", "AnswerArgument": "Wien", "EntityName": None},
        ],
    )
    bad = webqsp_parse(AnnotatorComment={"ParseQuality": "Partial", "QuestionQuality": "Good"}, TopicEntityMid="m.0ee")
    dates = [{"AnswerType": "Value", "AnswerArgument": "1805-11-20", "EntityName": None}]
    records = [
        webqsp_record(1, Parses=[webqsp_parse(), second, bad]),
        webqsp_record(2, Parses=[webqsp_parse(Answers=[])]),
        webqsp_record(3, Parses=[bad]),
        webqsp_record(4, Parses=[webqsp_parse(InferentialChain=None, Answers=dates)]),
    ]
    lines = write(tmp_path, *records, name="WebQSP.test.jsonl")
    first, last = load("webqsp", "test", path=lines)
    assert first.text == "where did fidelio open?"
    assert (first.gold, first.answer_type, first.hops) == (("Vienna", "Wien"), "entity", 2)
    assert first.links == mids("question", "m.0aa", "m.0cc") + mids("answer", "m.0bb", "g.0dd")
    assert (last.gold, last.answer_type, last.hops) == (("1805-11-20",), "date", None)
    assert last.provenance.endswith(" line 4")
    contents = read("webqsp", "test", path=lines)
    assert [(item.where.rpartition(" ")[2], item.reason) for item in contents.left_out] == [
        ("2", "no gold answer"),
        ("3", "no parse that its annotators call good and complete"),
    ]
    assert [item.entity for item in contents.unnamed] == ["g.0dd"]

    official = tmp_path / "WebQSP.test.json"
    for text in (
        json.dumps({"Version": "1.0", "Questions": records}),
        json.dumps({"Version": "1", "Questions": records}, indent=2),
    ):
        official.write_text(text, encoding="utf-8")
        wrapped = load("webqsp", "test", path=official)
        assert [q.model_dump(exclude={"provenance"}) for q in wrapped] == [
            q.model_dump(exclude={"provenance"}) for q in (first, last)
        ]
        assert wrapped[1].provenance.endswith(" record 4")


def test_grailqa_forms(tmp_path: Path) -> None:
    counted = grailqa_record(2, answer=[{"answer_type": "Value", "answer_argument": "1805"}])
    counted["graph_query"]["nodes"][0]["function"] = "count"
    twice = [{"answer_type": "Entity", "answer_argument": f"m.0b{n}", "entity_name": "Black Butte"} for n in range(2)]
    bare = {"qid": 3, "question": "q", "answer": twice}
    official = array(tmp_path, grailqa_record(1), counted, bare, name="grailqa_v1.0_dev.json")
    first, second, third = load("grailqa", "dev", path=official)
    assert (first.id, first.split, first.hops) == ("2100000000001", "dev", 2)
    assert (first.gold, first.answer_type) == (("Fidelio",), "entity")
    assert first.links == mids("question", "m.0aa") + mids("answer", "m.0bb")
    assert (second.gold, second.answer_type, second.freebase_ids("answer")) == (("1805",), "number", ())
    assert (third.gold, len(third.answers), third.hops) == (("Black Butte",), 1, None)
    assert third.freebase_ids("answer") == ("m.0b0", "m.0b1")

    explorer = {key: counted[key] for key in ("qid", "question", "answer", "graph_query")}
    lines = write(tmp_path, explorer, name="grailqa_dev_full.jsonl")
    assert load("grailqa", "dev", path=lines)[0] == second.model_copy(
        update={"provenance": f"sha256:{hashlib.sha256(lines.read_bytes()).hexdigest()} line 1"}
    )


def test_a_file_without_answers(tmp_path: Path) -> None:
    path = array(tmp_path, {"qid": 1, "question": "q"}, name="grailqa_v1.0_test_public.json")
    with pytest.raises(
        InputError, match=r"no question in split 'test'; .* no question at all; 1 left out \(no gold answer\)"
    ):
        load("grailqa", "test", path=path)


def test_exaqt_form(tmp_path: Path) -> None:
    places = [exaqt_entity(), exaqt_entity(page="Wien_(city)"), exaqt_entity("Graz", "\xa0Q13298", page="Graz")]
    path = array(
        tmp_path,
        exaqt_record(1),
        exaqt_record(2, Answer=places),
        exaqt_record(3, Answer=[{"AnswerType": "Value", "AnswerArgument": "1814"}]),
        exaqt_record(4, Answer=[*places, {"AnswerType": "Value", "AnswerArgument": "1805-01-01T00:00:00Z"}]),
        exaqt_record(5, Answer=[]),
        name="timequestions_test.json",
    )
    date, place, number, both = load("exaqt", "test", path=path)
    assert (date.id, date.text) == ("1", "when was the composer of fidelio baptised")
    assert date.answers == (Answer(text="1770-12-17", aliases=("17 December 1770",)),)
    assert (date.answer_type, date.links) == ("date", ())
    assert place.answers == (Answer(text="Vienna", entity="Q1741"), Answer(text="Graz", entity="Q13298"))
    assert place.links == (Link(entity="Q1741", role="answer"), Link(entity="Q13298", role="answer"))
    assert (place.answer_type, number.answer_type, number.gold) == ("entity", "number", ("1814",))
    assert (both.answer_type, both.gold) == ("text", ("Vienna", "Graz", "1805", "1805-01-01"))
    assert count("exaqt", "test", path=path).left_out == {"no gold answer": 1}


def test_exaqt_alias_is_the_page(tmp_path: Path) -> None:
    page = "united_states_presidential_election,_1860%27s_(x)"
    path = array(
        tmp_path, exaqt_record(Answer=[exaqt_entity("1860 election", "Q698073", page)]), name="timequestions.json"
    )
    assert load("exaqt", "test", path=path)[0].gold == ("1860 election", "united states presidential election, 1860's")


@pytest.mark.parametrize(
    ("value", "text", "aliases"),
    [
        ("1994-03-17T00:00:00Z", "1994-03-17", ["17 March 1994"]),
        ("1994-03-01T00:00:00Z", "1994-03-01", ["1 March 1994", "March 1994"]),
        ("1994-01-01T00:00:00Z", "1994", ["1994-01-01"]),
        ("1994-00-00T00:00:00Z", "1994", ["1994-01-01"]),
        ("1994-05-00T00:00:00Z", "1994-05", ["May 1994"]),
        ("1889-07-31 T00:00:00Z", "1889-07-31", ["31 July 1889"]),
        ("0079-08-24T00:00:00Z", "0079-08-24", ["24 August 79 CE"]),
        ("-0479-08-11T00:00:00Z", "-0480-08-11", ["11 August 480 BCE"]),
        ("-0003-01-01T00:00:00Z", "4 BCE", ["-0004-01-01"]),
        ("0000-01-01T00:00:00Z", "1 BCE", ["-0001-01-01"]),
        ("-0800-01-01T00:00:00Z", "800 BCE", ["-0800-01-01"]),
        ("-13000-01-01T00:00:00Z", "13000 BCE", ["-13000-01-01"]),
    ],
)
def test_timestamps(value: str, text: str, aliases: list[str]) -> None:
    """Every form given is one that the matcher reads as the same date."""
    answer = timestamp(value)
    assert answer == {"text": text, "aliases": aliases}
    dated = Question(id="q", dataset="d", split="test", text="?", answers=(Answer(text=text),), answer_type="date")
    assert all(match(alias, dated).correct for alias in aliases if alias.count(" ") != 1 or text.count("-") < 2)


@pytest.mark.parametrize(
    "value", ["1994", "1994-03-17", "1994-13-01T00:00:00Z", "1994-01-32T00:00:00Z", "9.5", "Vienna"]
)
def test_what_is_no_timestamp(value: str) -> None:
    assert timestamp(value) is None


def test_year_of_a_timestamp_is_matched_as_a_year(tmp_path: Path) -> None:
    record = exaqt_record(Answer=[{"AnswerType": "Value", "AnswerArgument": "1805-01-01T00:00:00Z"}])
    question = load("exaqt", "test", path=array(tmp_path, record, name="timequestions_test.json"))[0]
    assert [match(said, question).correct for said in ("1805", "in 1805", "20 November 1805", "1806")] == [True] * 3 + [
        False
    ]


@pytest.mark.parametrize(
    ("values", "entities", "years", "kind"),
    [
        (["1805-11-20"], False, True, "date"),
        (["1805", "1806"], False, True, "date"),
        (["1805"], False, False, "number"),
        (["3.048"], False, True, "number"),
        (["1,234,567"], False, True, "number"),
        (["2150"], False, True, "number"),
        (["1805", "3.5"], False, True, "text"),
        (["0.10.1"], False, True, "text"),
        (["Yes"], False, True, "boolean"),
        (["Wien"], False, True, "text"),
        ([], True, True, "entity"),
        (["Wien"], True, True, "entity"),
        (["1805"], True, True, "text"),
    ],
)
def test_type_by_form(values: list[str], entities: bool, years: bool, kind: str) -> None:
    assert answer_type(values, entities=entities, years=years) == kind


def test_mintaka_form(tmp_path: Path) -> None:
    singers = [{"name": "Q1", "label": {"en": "Anna", "de": "Änne"}}, {"name": "Q2", "label": {"en": "Bea"}}]
    records = [
        mintaka_record(1),
        mintaka_record(2, **mintaka_answer("boolean", [True], "Yes")),
        mintaka_record(3, **mintaka_answer("numerical", [2000000], "$2 million")),
        mintaka_record(4, **mintaka_answer("date", ["2001", "2003"], "2001, 2003")),
        mintaka_record(5, **mintaka_answer("string", ["CROSS STITCH"], "CROSS STITCH")),
        mintaka_record(6, **mintaka_answer("entity", None, "Better Off Dead")),
        mintaka_record(7, **mintaka_answer("entity", singers, "Anna, Bea", answerNum=5), complexityType="count"),
        mintaka_record(8, **mintaka_answer("entity", singers, "Anna, Bea", answerNum=5), complexityType="superlative"),
        mintaka_record(9, questionEntity=[{"name": None, "entityType": "entity", "mention": "x"}]),
        mintaka_record(10, **mintaka_answer("number", [], None)),
    ]
    questions = load("mintaka", "dev", path=array(tmp_path, *records, name="mintaka_dev.json"))
    assert [(q.answer_type, q.gold) for q in questions] == [
        ("entity", ("Ludwig van Beethoven", "Beethoven")),
        ("boolean", ("yes",)),
        ("number", ("2000000", "$2 million")),
        ("date", ("2001", "2003")),
        ("text", ("CROSS STITCH",)),
        ("entity", ("Better Off Dead",)),
        ("number", ("5",)),
        ("entity", ("Anna", "Bea")),
        ("entity", ("Ludwig van Beethoven", "Beethoven")),
    ]
    assert questions[0].links == (Link(entity="Q155973", role="question"), Link(entity="Q255", role="answer"))
    assert (questions[0].text, questions[0].answers[0].entity) == ("Who composed Fidelio?", "Q255")
    assert questions[6].entities("answer") == ("Q1", "Q2"), "what was counted stays as links"
    assert questions[8].entities("question") == ()
    assert match("Yes, it was.", questions[1]).correct
    assert match("2 million dollars", questions[2]).correct
    assert count("mintaka", "dev", path=tmp_path / "mintaka_dev.json").left_out == {"no gold answer": 1}


def test_simpleqa_form(tmp_path: Path) -> None:
    kinds = [
        ("Date", "1805. "),
        ("Number", "36"),
        ("Person", "Beethoven"),
        ("Place", "Vienna"),
        ("Other", "An opera, in 2"),
    ]
    rows = [simpleqa_row(kind, answer) for kind, answer in [*kinds, ("Other", " ")]]
    path = table(tmp_path, *rows, name="simple_qa_test_set.csv")
    questions = load("simpleqa", "test", path=path)
    assert [(q.id, q.answer_type, q.gold) for q in questions] == [
        ("0", "date", ("1805.",)),
        ("1", "number", ("36",)),
        ("2", "entity", ("Beethoven",)),
        ("3", "entity", ("Vienna",)),
        ("4", "text", ("An opera, in 2",)),
    ]
    assert (questions[0].text, questions[0].links, questions[0].hops) == ("When did Fidelio\nopen?", (), None)
    assert questions[1].provenance.endswith(" line 4"), "a row may be several lines long"
    assert count("simpleqa", "test", path=path).left_out == {"no gold answer": 1}


def test_merged_set_in_three_forms(tmp_path: Path) -> None:
    dated = merged_record(2, source_of_data="TimeQuestions", main_answers=["1805-01-01T00:00:00Z"], answer_aliases=None)
    empty = merged_record(3, main_answers=[], answer_aliases=[])
    alias = merged_record(4, main_answers=["A", "B", "A"], answer_aliases=["C"])
    records = [merged_record(1), dated, empty, alias]
    as_json = [{k: json.dumps(v) if isinstance(v, list) else v for k, v in record.items()} for record in records]
    as_python = [{k: str(v) if isinstance(v, list) else v for k, v in record.items()} for record in records]
    for path in (
        write(tmp_path, *records, name="fs1.jsonl"),
        array(tmp_path, *records, name="fs1.json"),
        table(tmp_path, *as_json, name="fs1_json.csv"),
        table(tmp_path, *as_python, name="fs1_python.csv"),
    ):
        questions = load("fs1", "test", path=path)
        assert [(q.id, q.dataset, q.split, q.answer_type, q.gold) for q in questions] == [
            ("f1", "Mintaka", "test", "text", ("Ludwig van Beethoven", "Beethoven")),
            ("f2", "TimeQuestions", "test", "date", ("1805", "1805-01-01")),
            ("f4", "Mintaka", "test", "text", ("A", "C", "B")),
        ], path.name
        assert count("fs1", "test", path=path).left_out == {"no gold answer": 1}


# Malformed files ------------------------------------------------------------------------------------------------------

NO_FIELD = object()
MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("cwq", {"ID": NO_FIELD}, r"'ID': a text is expected \(missing\)"),
    ("cwq", {"question": " "}, "'question': a text"),
    ("cwq", {"sparql": None}, "'sparql': a text"),
    ("cwq", {"answers": "Vienna"}, "'answers': a list of objects"),
    ("cwq", {"answers": [{"answer": 3}]}, r"'answers\.0\.answer': a text or null"),
    ("cwq", {"answers": [{"answer": "a", "aliases": "b"}]}, r"'answers\.0\.aliases': a list of strings"),
    ("webqsp", {"QuestionId": 7}, r"'QuestionId': a text is expected \(is '7'\)"),
    ("webqsp", {"RawQuestion": NO_FIELD}, "'RawQuestion'"),
    ("webqsp", {"Parses": None}, "'Parses': a list of objects"),
    ("webqsp", {"Parses": [webqsp_parse(Answers=NO_FIELD)]}, r"'Parses\.0\.Answers'"),
    ("webqsp", {"Parses": [webqsp_parse(Answers=[{"EntityName": "x"}])]}, r"'Parses\.0\.Answers\.0\.AnswerArgument'"),
    ("webqsp", {"Parses": [webqsp_parse(TopicEntityMid="/m/0aa")]}, r"'Parses \(TopicEntityMid\)\.0\.entity'.*/m/0aa"),
    ("webqsp", {"Parses": [webqsp_parse(AnnotatorComment={})]}, r"'Parses\.0\.AnnotatorComment\.QuestionQuality'"),
    ("grailqa", {"qid": True}, r"'qid': a text or whole number is expected \(is 'True'\)"),
    (
        "grailqa",
        {"answer": [{"answer_type": "Entity", "answer_argument": "x"}]},
        r"'answer\.0\.answer_argument': a Freebase",
    ),
    ("grailqa", {"answer": [{"answer_argument": "m.0aa"}]}, r"'answer\.0\.answer_type'"),
    ("grailqa", {"graph_query": []}, "'graph_query': an object"),
    ("grailqa", {"graph_query": {"nodes": [{}], "edges": []}}, r"'graph_query\.nodes\.0\.node_type'"),
    ("exaqt", {"Id": None}, "'Id': a text or whole number"),
    ("exaqt", {"Data set": "tests"}, "'Data set': train, development or test is expected"),
    ("exaqt", {"Answer": NO_FIELD}, "'Answer': a list of objects"),
    ("exaqt", {"Answer": [{"AnswerType": "Place"}]}, r"'Answer\.0\.AnswerType': Entity or Value"),
    ("exaqt", {"Answer": [exaqt_entity(qid="P31")]}, r"'Answer\.0\.WikidataQid': a QID"),
    ("exaqt", {"Answer": [exaqt_entity(label="")]}, r"'Answer\.0\.WikidataLabel': a text"),
    ("mintaka", {"answer": []}, "'answer': an object"),
    ("mintaka", mintaka_answer("place", ["x"]), r"'answer\.answerType': entity, boolean"),
    ("mintaka", mintaka_answer("boolean", ["yes"]), r"'answer\.answer': a list of true or false"),
    ("mintaka", mintaka_answer("date", [True]), r"'answer\.answer': a list of texts or numbers"),
    ("mintaka", mintaka_answer("numerical", [{"a": 1}]), r"'answer\.answer': a list of texts or numbers"),
    ("mintaka", mintaka_answer("entity", [{"name": "255", "label": "x"}]), r"'answer\.answer\.0\.name': a QID"),
    ("mintaka", {"questionEntity": [{"entityType": "entity", "name": "X1"}]}, r"'questionEntity\.0\.name': a QID"),
    ("mintaka", {"complexityType": NO_FIELD}, "'complexityType'"),
    ("fs1", {"ID": NO_FIELD}, "'ID'"),
    ("fs1", {"source_of_data": ""}, "'source_of_data'"),
    ("fs1", {"main_answers": "Vienna"}, "'main_answers': a list of strings"),
    ("fs1", {"answer_aliases": [["a"]]}, "'answer_aliases': a list of strings"),
]
RECORDS = {
    "cwq": cwq_record,
    "webqsp": webqsp_record,
    "grailqa": grailqa_record,
    "exaqt": exaqt_record,
    "mintaka": mintaka_record,
    "fs1": merged_record,
}


def without_missing(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_missing(item) for key, item in value.items() if item is not NO_FIELD}
    return [without_missing(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("name", "change", "message"), MALFORMED)
def test_malformed_official_record(tmp_path: Path, name: str, change: dict[str, Any], message: str) -> None:
    records = [RECORDS[name](1), without_missing(RECORDS[name](2, **change))]
    with pytest.raises(InputError, match=f"bad.json, record 2, field {message}"):
        load(name, "test", path=array(tmp_path, *records, name="bad.json"))
    with pytest.raises(InputError, match=f"bad.jsonl, line 2, field {message}"):
        load(name, "test", path=write(tmp_path, *records, name="bad.jsonl"))


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("simpleqa", [simpleqa_row(metadata="")], r"line 2, field 'metadata': a text is expected"),
        (
            "simpleqa",
            [simpleqa_row(), simpleqa_row(metadata="{'a")],
            r"line 4, field 'metadata': a JSON or Python list",
        ),
        ("simpleqa", [simpleqa_row(metadata="[1]")], r"line 2, field 'metadata': an object is expected"),
        ("simpleqa", [simpleqa_row("Thing")], r"line 2, field 'metadata\.answer_type': Person, Place"),
        ("simpleqa", [simpleqa_row(problem="")], r"line 2, field 'problem': a text"),
        ("simpleqa", [{"question": "q", "answer": "a"}], r"line 2, field 'metadata': a text is expected \(missing\)"),
        ("fs1", [{**MERGED_ROW, "main_answers": "['A' 'B']"}], r"line 2, field 'main_answers': a list with commas"),
        ("fs1", [{**MERGED_ROW, "main_answers": "Vienna"}], r"line 2, field 'main_answers': a JSON or Python list"),
        ("fs1", [{**MERGED_ROW, "main_answers": "{'a': 1}"}], r"line 2, field 'main_answers': a list of strings"),
    ],
)
def test_malformed_row(tmp_path: Path, name: str, rows: list[dict[str, str]], message: str) -> None:
    with pytest.raises(InputError, match=f"bad.csv, {message}"):
        load(name, "test", path=table(tmp_path, *rows, name="bad.csv"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("simpleqa", b"metadata,problem,answer\na,b\n", "line 2: 2 cells where the header has 3"),
        ("simpleqa", b'metadata,problem,answer\na,b,"c\nd,e,f\n', "line 2: not valid CSV"),
        ("simpleqa", b"metadata,problem,answer\n\xff,b,c\n", "not UTF-8"),
        ("cwq", b"[{]", "not valid JSON"),
        ("cwq", b"[1]", "record 1: a JSON int; an object is expected"),
        ("cwq", b'{"ID": "x"', "line 1: not valid JSON"),
        ("webqsp", b'{"Questions": {}}', "field 'Questions': a list of objects"),
        ("webqsp", b'{\n"Version": 1}', "field 'Questions': a list of objects"),
        ("webqsp", b'{\n"Questions": [', "not valid JSON"),
        ("webqsp", b'"Questions"', "line 1: a JSON str"),
        ("mintaka", b"", "no question at all"),
        ("simpleqa", b"", "no question at all"),
        ("fs1", b"", "no question at all"),
    ],
)
def test_files_of_another_form(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(name, "test", path=path)


def test_the_merged_set_as_parquet(tmp_path: Path) -> None:
    path = tmp_path / "test-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist([merged_record(1), merged_record(2, answer_aliases=None)]), path)
    first, second = load("fs1", "test", path=path)
    assert (first.id, first.gold, second.gold) == (
        "f1",
        ("Ludwig van Beethoven", "Beethoven"),
        ("Ludwig van Beethoven",),
    )
    assert second.provenance.endswith(" row 1")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a whole Parquet file"):
        load("fs1", "test", path=path)


def test_a_list_longer_than_csv_s_own_limit(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    aliases = [f"alias {number}" for number in range(20_000)]
    path = table(tmp_path, {**MERGED_ROW, "answer_aliases": json.dumps(aliases)}, name="fs1.csv")
    assert len(load("fs1", "test", path=path)[0].gold) == 20_002
    assert csv.field_size_limit() == limit
