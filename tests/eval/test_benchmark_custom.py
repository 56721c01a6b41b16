"""Sets of your own: column maps over files, folders through ``datasets``, and a hub dataset at a commit over a socket."""

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from file_server import Hub
from made_benchmarks import array, table, write

from eval.benchmarks import Columns, Custom, load, read
from store.types import Answer, InputError, Link, Question

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FULL = Columns(
    id="key",
    question="ask",
    answers="gold.value",
    aliases="gold.also",
    answer_type="kind",
    question_entities="about",
    answer_entities="gold.qid",
    hops="steps",
)
NESTED = Columns(question="q", answers="a.text")


def row(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A row for ``FULL``."""
    gold = {"value": ["Ludwig van Beethoven"], "also": ["Beethoven"], "qid": ["Q255"]}
    base = {"key": f"k{number}", "ask": "Who composed Fidelio?", "gold": gold, "kind": "entity", "about": ["Q155973"]}
    return {**base, "steps": 1, **changes}


def nested(text: str = "Vienna", **changes: Any) -> dict[str, Any]:
    """A row for ``NESTED``."""
    return {"q": "Where did Fidelio open?", "a": {"text": [text]}, **changes}


def loaded(path: Path, columns: Columns = FULL, split: Any = "test", **custom: Any) -> tuple[Question, ...]:
    return load("mine", split, path=path, custom=Custom(columns=columns, **custom))


def parquet(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


# What a map makes of a row -------------------------------------------------------------------------------------------


def test_every_field(tmp_path: Path) -> None:
    [question] = loaded(write(tmp_path, row()))
    assert question == Question(
        id="k1",
        dataset="mine",
        split="test",
        text="Who composed Fidelio?",
        answers=(Answer(text="Ludwig van Beethoven", entity="Q255", aliases=("Beethoven",)),),
        links=(Link(entity="Q155973", role="question"), Link(entity="Q255", role="answer")),
        hops=1,
        provenance=question.provenance,
    )
    assert question.provenance.endswith(" line 1")


def test_the_same_from_every_form(tmp_path: Path) -> None:
    rows = [row(1), row(2, steps=None)]
    cells = [
        {name: value if isinstance(value, str) else json.dumps(value) for name, value in one.items()} for one in rows
    ]
    cells[1]["steps"] = ""
    paths = [
        write(tmp_path, *rows),
        array(tmp_path, *rows, name="mine.json"),
        table(tmp_path, *cells, name="mine.csv"),
        parquet(tmp_path / "mine.parquet", *rows),
        parquet(tmp_path / "folder" / "test.parquet", *rows).parent,
    ]
    first, *others = [[question.model_copy(update={"provenance": ""}) for question in loaded(path)] for path in paths]
    assert [question.hops for question in first] == [1, None]
    assert all(other == first for other in others)


def test_without_a_column_of_ids_the_row_is_the_id(tmp_path: Path) -> None:
    path = write(tmp_path, nested(), nested(a={"text": []}), nested("Prague"))
    contents = read("mine", "test", path=path, custom=Custom(columns=NESTED))
    assert [question.id for question in contents.questions] == ["0", "2"]
    assert [(item.reason, item.where.rpartition(", ")[2]) for item in contents.left_out] == [
        ("no gold answer", "line 2")
    ]


@pytest.mark.parametrize(
    ("answers", "gold", "kind"),
    [
        ("Vienna", ("Vienna",), "text"),
        (["Vienna", " Wien ", "", None, "Vienna"], ("Vienna", "Wien"), "text"),
        ([["Vienna"], ["Wien"]], ("Vienna", "Wien"), "text"),
        (3, ("3",), "number"),
        (3.0, ("3",), "number"),
        (0.25, ("0.25",), "number"),
        (True, ("yes",), "boolean"),
        ("1805-11-20T00:00:00Z", ("1805-11-20", "20 November 1805"), "date"),
    ],
)
def test_answers(tmp_path: Path, answers: Any, gold: tuple[str, ...], kind: str) -> None:
    [question] = loaded(write(tmp_path, {"question": "?", "answers": answers}), Columns())
    assert (question.gold, question.answer_type) == (gold, kind)


def test_days_of_a_table(tmp_path: Path) -> None:
    times = (datetime.datetime(1805, 11, 20), datetime.date(1805, 11, 20))
    for number, value in enumerate(times):
        path = parquet(tmp_path / f"{number}.parquet", {"question": "?", "answers": value})
        assert loaded(path, Columns())[0].gold == ("1805-11-20",)


@pytest.mark.parametrize(
    ("aliases", "gold"),
    [
        (["c", "d"], (("a", "c", "d"), ("b",))),
        ([["c"], ["d", "e"]], (("a", "c"), ("b", "d", "e"))),
        ("c", (("a", "c"), ("b",))),
        (None, (("a",), ("b",))),
    ],
)
def test_aliases(tmp_path: Path, aliases: Any, gold: tuple[tuple[str, ...], ...]) -> None:
    path = write(tmp_path, {"question": "?", "answers": ["a", "b"], "more": aliases})
    [question] = loaded(path, Columns(aliases="more"))
    assert tuple(answer.forms for answer in question.answers) == gold


@pytest.mark.parametrize(
    ("given", "link"),
    [
        ("http://www.wikidata.org/entity/Q255", "Q255"),
        ("wd:Q255", "Q255"),
        ("m.0bb", "m.0bb"),
        ("/m/0bb", "m.0bb"),
        ("http://rdf.freebase.com/ns/m.0bb", "m.0bb"),
    ],
)
def test_entities(tmp_path: Path, given: str, link: str) -> None:
    path = write(tmp_path, {"question": "?", "answers": ["a"], "ids": given})
    [question] = loaded(path, Columns(answer_entities="ids"))
    assert [one.entity for one in question.links] == [link]
    assert question.links[0].source == ("gold_qid" if link.startswith("Q") else "gold_mid")
    assert question.answers[0].entity == (link if link.startswith("Q") else None)


def test_names_with_dots_and_optional_columns_that_some_rows_lack(tmp_path: Path) -> None:
    path = write(tmp_path, {"a.b": "first?", "answers": "x", "n": 2}, {"a.b": "second?", "answers": "y"})
    questions = loaded(path, Columns(question="a.b", hops="n"))
    assert [(question.text, question.hops) for question in questions] == [("first?", 2), ("second?", None)]


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ask": ""}, "column 'ask' has 0 texts: one is expected"),
        ({"ask": ["a", "b"]}, "column 'ask' has 2 texts: one is expected"),
        ({"ask": {"en": "?"}}, r"column 'ask' holds a dict .*: name a field inside it: ask\.en, for example"),
        ({"key": None}, "column 'key' has 0 texts"),
        (
            {"gold": {}},
            r"column 'gold\.value' \('value' is not there\): name another in columns\.answers; there are key, ",
        ),
        ({"gold": "x"}, r"column 'gold\.value' \('value' is not there\)"),
        (
            {"kind": "place"},
            "column 'kind' holds 'place': entity, number, date, boolean, text are known; leave the column",
        ),
        ({"about": ["Vienna"]}, "column 'about' holds 'Vienna': a QID such as Q42 or a Freebase id"),
        ({"gold": {"value": "x", "qid": "P31"}}, r"column 'gold\.qid' holds 'P31': a QID"),
        ({"steps": 0}, "column 'steps' holds '0': a whole number from 1 is expected"),
        ({"steps": "two"}, "column 'steps' holds 'two'"),
    ],
)
def test_bad_values_name_row_column_and_mend(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path, row(1), row(2, **change))
    with pytest.raises(InputError, match=rf"mine\.jsonl, line 2, {message}"):
        loaded(path)


def test_columns_that_no_row_has(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "?", "answers": "a"})
    with pytest.raises(
        InputError, match=r"column 'ask' \('ask' is not there\): name another in columns\.question; there are"
    ):
        loaded(path, Columns(question="ask"))
    message = r"mine\.jsonl: no row has the column 'more': name another in columns\.aliases, or leave it out; there are question"
    with pytest.raises(InputError, match=message):
        loaded(path, Columns(aliases="more"))


def test_ids_that_are_used_twice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset 'mine': id 'k1' is used twice \(.* line 1 and .* line 2\)"):
        loaded(write(tmp_path, row(1), row(1)))


def test_a_cell_that_is_no_list(tmp_path: Path) -> None:
    path = table(tmp_path, {"question": "?", "answers": "['a' 'b']"}, name="mine.csv")
    with pytest.raises(InputError, match=r"mine\.csv, line 2, field 'answers': a list with commas is expected"):
        loaded(path, Columns())


def test_splits_of_files(tmp_path: Path) -> None:
    path = write(tmp_path, nested(), name="mine_dev.jsonl")
    assert loaded(path, NESTED, "dev")[0].split == "dev"
    with pytest.raises(InputError, match=r"no question in split 'test'; the file has dev \(1\)"):
        loaded(path, NESTED)
    with pytest.raises(InputError, match="config and hub_split are for hub datasets and folders; leave them out"):
        loaded(path, NESTED, "dev", hub_split="train")


def test_names_of_loaders_are_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dataset 'cwq': it has a loader of its own; give your set another name"):
        load("cwq", "test", path=tmp_path, custom=Custom())
    with pytest.raises(InputError, match="for a set of your own name its columns"):
        load("mine", "test", path=tmp_path)


# Folders --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sets") / "mine"
    parquet(made / "train.parquet", nested("Prague"), nested("Graz"))
    parquet(made / "validation.parquet", nested("Wien", picture=b"..."))
    parquet(made / "test.parquet", nested("Vienna"), nested("Linz"), nested("Baden"))
    return made


@pytest.mark.parametrize(
    ("split", "theirs", "first"),
    [("train", "train", "Prague"), ("dev", "validation", "Wien"), ("test", "test", "Vienna")],
)
def test_a_folder_has_its_splits_apart(folder: Path, split: str, theirs: str, first: str) -> None:
    questions = loaded(folder, NESTED, split)
    assert (questions[0].gold, {question.split for question in questions}) == ((first,), {split})
    assert questions[-1].provenance.endswith(f" {theirs} row {len(questions) - 1}")


def test_a_folder_s_own_name_of_a_split(folder: Path) -> None:
    assert {question.split for question in loaded(folder, NESTED, "test", hub_split="train")} == {"test"}
    with pytest.raises(InputError, match="mine: hub_split 'all' is not there; it has train, validation, test"):
        loaded(folder, NESTED, hub_split="all")


def test_a_folder_without_the_split(tmp_path: Path) -> None:
    path = parquet(tmp_path / "only" / "part.parquet", nested()).parent
    with pytest.raises(InputError, match="only: no split is called 'test'; it has train: name one in hub_split"):
        loaded(path, NESTED)
    assert len(loaded(path, NESTED, hub_split="train")) == 1


def test_errors_of_a_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"mine, split 'test': no column 'ask': name another in columns\.question; there are q, a"
    ):
        loaded(folder, Columns(question="ask"))
    with pytest.raises(
        InputError, match=r"mine, split 'test', row 0, column 'a' holds a dict .*: a\.text, for example"
    ):
        loaded(folder, Columns(question="q", answers="a"))
    with pytest.raises(InputError, match=r"mine: BuilderConfig 'other' not found\. Available: "):
        loaded(folder, NESTED, config="other")
    with pytest.raises(InputError, match=r"none: cannot be read \(No such file or directory\); check the path"):
        loaded(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes", b"", "bad: No .supported. data files found"),
        ("test.jsonl", b'{"q": "a"}\n{"q": [1}\n', "bad: .*(decoding|parse|JSON)"),
        ("test.parquet", b"PAR1 cut", "bad: .*Parquet magic bytes"),
        ("bad.py", b"raise SystemExit(7)", r"bad: Dataset scripts are no longer supported, but found bad\.py"),
    ],
)
def test_folders_that_are_no_dataset(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        loaded(tmp_path / "bad", NESTED)
    assert "\n" not in str(caught.value)


def test_a_folder_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    custom = Custom(columns=NESTED)
    assert load("mine", "test", path=folder, custom=custom, folder=tmp_path / "data")
    assert not (tmp_path / "data").exists()


# The hub --------------------------------------------------------------------------------------------------------------

SCRIPT = f"""
import sys
from eval.benchmarks import Columns, Custom, load
from eval.benchmarks.hub import hub_file
from eval.benchmarks.registry import Place
columns = Columns(question="q", answers="a.text")
def own(hub="owner/mine", revision={COMMIT!r}, split="test", **more):
    try:
        found = load("mine", split, custom=Custom(hub, revision, columns=columns, **more))
    except Exception as error:
        print(type(error).__name__, error)
    else:
        print([question.gold[0] for question in found], found[-1].provenance)
own(); own(); own(split="dev"); own(hub="owner/none"); own(revision="f" * 40); own(hub_split="all")
print(hub_file(Place(hub="owner/mine", revision={COMMIT!r}, file="data/train.jsonl")))
try:
    hub_file(Place(hub="owner/mine", revision={COMMIT!r}, file="none.json"))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_hub_dataset_at_its_commit(tmp_path: Path) -> None:
    """In a process of its own, since the library reads the hub's address when it is imported."""
    files = {
        f"data/{split}.jsonl": "".join(json.dumps(nested(text)) + "\n" for text in texts).encode()
        for split, texts in {"train": ["Prague"], "validation": ["Wien"], "test": ["Vienna", "Linz"]}.items()
    }
    with Hub("owner/mine", COMMIT, {"README.md": b"---\nlicense: mit\n---\n", **files}) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        environment["FACTSCALE_CACHE"] = str(tmp_path / "cache")
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        f"['Vienna', 'Linz'] owner/mine@{COMMIT} test row 1",
        f"['Vienna', 'Linz'] owner/mine@{COMMIT} test row 1",
        f"['Wien'] owner/mine@{COMMIT} validation row 0",
    ]
    assert lines[3].startswith("InputError owner/none@0123456789ab: Dataset 'owner/none' doesn't exist on the Hub")
    assert lines[4].startswith(f"InputError owner/mine@{'f' * 12}: Revision '{'f' * 40}' doesn't exist")
    assert (
        lines[5] == "InputError owner/mine@0123456789ab: hub_split 'all' is not there; it has train, validation, test"
    )
    assert lines[6] == repr(files["data/train.jsonl"])
    assert lines[7].startswith(
        f"RunError https://huggingface.co/datasets/owner/mine/resolve/{COMMIT}/none.json cannot be"
    )
    assert not [path for path in hub.asked if "/main" in path]
    # What was kept of a commit is not asked for again, nor are splits that nobody wants.
    heads_and_bodies = {file: sum(path.endswith(f"{COMMIT}/{file}") for path in hub.asked) for file in files}
    assert heads_and_bodies == {"data/train.jsonl": 2, "data/validation.jsonl": 2, "data/test.jsonl": 2}
    kept = tmp_path / "cache" / "data" / "hub" / "owner--mine" / COMMIT / "default"
    assert sorted(path.name for path in kept.iterdir()) == ["as-dev", "as-test"]


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:12]])
def test_an_unpinned_hub_dataset_is_refused(revision: str | None) -> None:
    message = (
        f"revision {revision!r} does not pin the hub dataset owner/mine; set the commit hash .40 hex digits. that https"
    )
    with pytest.raises(InputError, match=message):
        load("mine", "test", custom=Custom("owner/mine", revision))
