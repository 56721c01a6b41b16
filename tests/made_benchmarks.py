"""Benchmark files in their official forms, with a few questions of our own; every maker takes fields to change."""

import csv
import io
import json
from pathlib import Path
from typing import Any


def write(folder: Path, *records: Any, name: str = "mine.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


HEAD = "PREFIX ns: <http://rdf.freebase.com/ns/>\nSELECT DISTINCT ?x\nWHERE {\nFILTER (?x != ?c)\n"


def cwq_record(number: int = 1, **changes: Any) -> dict[str, Any]:
    statements = (
        "?c ns:opera.opera.librettist ns:m.0aa . \n?c ns:opera.opera.composer ?x .\n"
        "?x ns:common.topic.notable_types ns:m.0class .\n"
    )
    answers = [{"answer": "Ludwig van Beethoven", "answer_id": "m.0bb", "aliases": ["Beethoven", "Beethoven"]}]
    return {
        "ID": f"WebQTrn-{number}_abc",
        "compositionality_type": "composition",
        "question": "Who composed the opera that Sonnleithner wrote?",
        "sparql": f"{HEAD}{statements}}}\nORDER BY ?x LIMIT 1\n",
        "answers": answers,
        **changes,
    }


def webqsp_parse(**changes: Any) -> dict[str, Any]:
    return {
        "AnnotatorComment": {"ParseQuality": "Complete", "QuestionQuality": "Good"},
        "TopicEntityMid": "m.0aa",
        "TopicEntityName": "Fidelio",
        "InferentialChain": ["opera.opera.premiere", "event.place"],
        "Constraints": [],
        "Answers": [{"AnswerType": "Entity", "AnswerArgument": "m.0bb", "EntityName": "Vienna"}],
        **changes,
    }


def webqsp_record(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "QuestionId": f"WebQTest-{number}",
        "RawQuestion": "where did fidelio open?",
        "ProcessedQuestion": "where did fidelio open",
        "Parses": [webqsp_parse()],
        **changes,
    }


def grailqa_record(number: int = 1, **changes: Any) -> dict[str, Any]:
    nodes = [
        {"nid": 0, "node_type": "class", "id": "opera.opera", "question_node": 1, "function": "none"},
        {"nid": 1, "node_type": "class", "id": "music.composer", "question_node": 0, "function": "none"},
        {"nid": 2, "node_type": "entity", "id": "m.0aa", "question_node": 0, "function": "none"},
    ]
    edges = [{"start": 0, "end": 1, "relation": "r"}, {"start": 2, "end": 1, "relation": "s"}]
    return {
        "qid": 2100000000000 + number,
        "question": "which operas are by a pupil of salieri?",
        "answer": [{"answer_type": "Entity", "answer_argument": "m.0bb", "entity_name": "Fidelio"}],
        "graph_query": {"nodes": nodes, "edges": edges},
        "sparql_query": "SELECT ...",
        "s_expression": "(AND opera.opera (JOIN ...))",
        "level": "i.i.d.",
        **changes,
    }


def exaqt_record(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "Id": number,
        "Question": "when was the composer of fidelio baptised ",
        "Temporal question type": ["Temp.Ans"],
        "Answer": [{"AnswerType": "Value", "AnswerArgument": "1770-12-17T00:00:00Z"}],
        "Data set": "test",
        **changes,
    }


def exaqt_entity(label: str = "Vienna", qid: str = "Q1741", page: str = "Vienna") -> dict[str, Any]:
    url = f"https://en.wikipedia.org/wiki/{page}"
    return {"AnswerType": "Entity", "WikidataQid": qid, "WikidataLabel": label, "WikipediaURL": url}


def mintaka_record(number: int = 1, **changes: Any) -> dict[str, Any]:
    entity = {"name": "Q155973", "entityType": "entity", "label": "Fidelio", "mention": "Fidelio", "span": [16, 23]}
    return {
        "id": f"m{number}",
        "question": "Who composed Fidelio?",
        "translations": {"de": "Wer komponierte Fidelio?"},
        "questionEntity": [entity, {"name": 1, "entityType": "ordinal", "mention": "first"}],
        "answer": {
            "answerType": "entity",
            "answer": [{"name": "Q255", "label": "Ludwig van Beethoven"}],
            "mention": "Beethoven",
        },
        "category": "music",
        "complexityType": "generic",
        **changes,
    }


def mintaka_answer(kind: str, answer: Any, mention: str | None = None, **more: Any) -> dict[str, Any]:
    return {"answer": {"answerType": kind, "answer": answer, "mention": mention, **more}}


def merged_record(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "ID": f"f{number}",
        "question": "Who composed Fidelio?",
        "source_of_data": "Mintaka",
        "main_answers": ["Ludwig van Beethoven"],
        "answer_aliases": ["Beethoven"],
        **changes,
    }


def array(folder: Path, *records: Any, name: str) -> Path:
    path = folder / name
    path.write_text(json.dumps(list(records), indent=1), encoding="utf-8")
    return path


def table(folder: Path, *rows: dict[str, str], name: str) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path = folder / name
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


def simpleqa_row(kind: str = "Date", answer: str = "1805.", **changes: str) -> dict[str, str]:
    metadata = f"{{'topic': 'Music', 'answer_type': '{kind}', 'urls': ['https://example.org/a,b']}}"
    return {"metadata": metadata, "problem": "When did Fidelio\nopen?", "answer": answer, **changes}


MERGED_ROW = {
    "ID": "f1",
    "question": "Who wrote it?",
    "source_of_data": "Mintaka",
    "main_answers": '["A", "B"]',
    "answer_aliases": "[]",
}
