"""``factscale publish`` as a person meets it: exports that load, dry runs that write nothing, a hub behind a socket."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub, hub
from huggingface_hub import DatasetCard, ModelCard
from made_study import STUDY, Made, make
from mini_study import mini, write
from safetensors.numpy import save

from eval.card_columns import COLUMNS
from flows.cli import main
from flows.evaluate import study_key
from flows.orders import Orders
from flows.parameters import load_study
from models.finetune import Hyperparameters, StudentManifest, TrainResult, _weights, verify
from models.training_text import Dropped
from store.home import Home
from tasks import exports, shards
from tasks.examples import examples_of
from tasks.exports import dataset_facts, find_study, write_dataset
from tasks.student_exports import find_student, write_card
from tasks.targets import MARKER, deliver, target_named

SECRET = "hf_do_not_tell"
HUB_BASE = "org/tiny@" + "a" * 40


class Done(NamedTuple):
    """What a command has left behind."""

    code: int
    out: str
    err: str


class Published(NamedTuple):
    """A home with the made study, and what is known of it."""

    home: Home
    made: Made

    def call(self, *arguments: str, **variables: str) -> Done:
        out, err = io.StringIO(), io.StringIO()
        environment = {**os.environ, "FACTSCALE_HOME": str(self.home.folder), "COLUMNS": "200", **variables}
        with (
            patch.dict(os.environ, environment, clear=True),
            patch.object(sys, "argv", ["factscale", "publish", *arguments]),
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())

    def refused(self, *arguments: str, code: int = 2, **variables: str) -> str:
        """The one error of a command that does nothing."""
        done = self.call(*arguments, **variables)
        assert done.code == code, done
        lines = [line for line in done.err.splitlines() if line.strip()]
        assert len(lines) == 1
        return lines[0]


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    home = Home(tmp_path_factory.mktemp("home"))
    made = make(home.store)
    for recipe, base_key, kind in (("fs1", HUB_BASE, "lora"), ("rt", "embedded:tiny:0:c1", "full")):
        student(home, f"student-{recipe}", base_key, kind)
    return Published(home, made)


def student(home: Home, key: str, base_key: str, kind: Any) -> Path:
    """A folder as training leaves it, with paths of this machine in its configuration."""
    folder = home.students / key
    folder.mkdir(parents=True)
    tensors = {"a.weight": np.zeros((2, 2), dtype=np.float32)}
    name = "adapter_model.safetensors" if kind == "lora" else "model.safetensors"
    (folder / name).write_bytes(save(tensors))
    config = {"peft_type": "LORA", "base_model_name_or_path": "/root/base", "revision": None}
    if kind == "full":
        config = {"model_type": "llama", "_name_or_path": "/root/base"}
    (folder / ("adapter_config.json" if kind == "lora" else "config.json")).write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text('{"name_or_path": "/root/base", "is_local": true, "eos_token": "x"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "train_log.jsonl").write_text("{}\n")
    (folder / "train.log").write_text("loaded /root/base\n")
    result = TrainResult(
        steps=8, tokens=100, seconds=3.0, train_loss=1.0, base_loss=3.25, held_out_loss=2.5, examples=2,
        held_out_examples=1, dropped=Dropped(), precision="fp32", device="cpu", threads=1,
    )  # fmt: skip
    manifest = StudentManifest(
        key=key, kind=kind, base_key=base_key, format="blocks", hyperparameters=Hyperparameters(method=kind),
        training_set="set", held_out_set=None, result=result, versions={"torch": "2.13.0"}, weights=_weights(folder),
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def loaded(folder: Path, config: str) -> dict[str, list[dict[str, Any]]]:
    found = datasets.load_dataset(str(folder), config)
    return {split: rows.to_list() for split, rows in found.items()}


class TestDataset:
    def test_training_sets_load_as_students_saw_them(self, published: Published, tmp_path: Path) -> None:
        done = published.call("dataset", "made", "--to", f"{tmp_path}/out", "--execute")
        assert done.code == 0, done
        assert "Study made (study-1) of 2026-01-02 12:00; 1 older of this name" in done.out
        assert "5 rows published" in done.out
        card = DatasetCard.load(tmp_path / "out" / "README.md")
        assert [one["config_name"] for one in card.data.configs] == ["fs1", "rt"]
        assert card.data.license is None
        for recipe in ("fs1", "rt"):
            rows = loaded(tmp_path / "out", recipe)
            for split, examples in zip(
                ("train", "held_out"), examples_of(published.home.store, f"set-{recipe}"), strict=True
            ):
                assert [row["trace_id"] for row in rows[split]] == [one.trace_id for one in examples]
                assert [row["thinking"] for row in rows[split]] == [one.thinking for one in examples]
                assert [row["answer"] for row in rows[split]] == [one.answer for one in examples]
                asked = [[message.model_dump() for message in one.messages] for one in examples]
                assert [row["messages"] for row in rows[split]] == asked
                assert all(
                    row["teacher_messages"] == [{"role": "user", "content": f"{recipe} prompt"}] for row in rows[split]
                )
                assert all(row["gold"] == [{"text": "Paris", "entity": "Q90", "aliases": []}] for row in rows[split])
                graphs = [bool(row["graph"]) for row in rows[split] if row["question_id"] != "t0"]
                assert graphs == [recipe == "fs1"] * len(graphs)
            assert list(rows["train"][0]) == [column.name for column in COLUMNS["training"]]

    def test_one_recipe(self, published: Published, tmp_path: Path) -> None:
        done = published.call(
            "dataset", "made", "--recipe", "rt", "--to", f"{tmp_path}/out", "--execute", "--license", "mit"
        )
        assert done.code == 0, done
        assert {name.split("/")[1] for name in files(tmp_path / "out") if name.startswith("data/")} == {"rt"}
        assert DatasetCard.load(tmp_path / "out" / "README.md").data.license == "mit"

    def test_every_trace_loads(self, published: Published, tmp_path: Path) -> None:
        assert published.call("dataset", STUDY, "--kind", "traces", "--to", f"{tmp_path}/out", "--execute").code == 0
        rows = [
            row for setting in ("instruct", "cot", "rt", "fs1") for row in loaded(tmp_path / "out", setting)["test"]
        ]
        store, facts = published.home.store, published.made.facts
        texts = {
            row["trace_id"]: row
            for row in store.query(
                "SELECT t.trace_id, left(h.text, t.thinking_chars) AS thinking, a.answer_text FROM traces t "
                "JOIN thought_texts h USING (thought_id) JOIN trace_texts a USING (trace_id)"
            )
        }
        known = {f"{one.run}-{one.question}-{one.sample}-{one.budget}": one for one in facts}
        assert {row["trace_id"] for row in rows} == known.keys()
        assert len(rows) == len(known)
        for row in rows:
            fact, text = known[row["trace_id"]], texts[row["trace_id"]]
            assert (row["thinking"], row["answer_text"]) == (text["thinking"], text["answer_text"])
            assert (row["question_id"], row["sample"], row["budget"]) == (f"q{fact.question}", fact.sample, fact.budget)
            assert (row["prediction"], row["how"], row["correct"]) == (fact.vote, fact.how, fact.correct)
            assert (row["cut"], row["forced"], row["thinking_tokens"]) == (fact.cut, fact.forced, fact.thinking)
            assert row["flagged"] == (fact.question in (2, 5))
            trained_on = row["setting"] if row["setting"] in ("rt", "fs1") else None
            assert (row["base"], row["trained_on"], row["variant"]) == (row["model"], trained_on, "")
            graded = {one["judge"]: one["grade"] for one in row["verdicts"]}
            assert graded.get("judge-2") == fact.graded
            assert graded.get("judge-1") == {True: "correct", False: "incorrect", None: None}[fact.judged]
        assert list(rows[0]) == [column.name for column in COLUMNS["traces"]]

    def test_results_load(self, published: Published, tmp_path: Path) -> None:
        assert published.call("dataset", "made", "--kind", "results", "--to", f"{tmp_path}/out", "--execute").code == 0
        store = published.home.store
        board = loaded(tmp_path / "out", "leaderboard")["results"]
        expected = store.query(
            "SELECT l.*, base, trained_on, variant FROM leaderboard l JOIN study_runs USING (study_key, run_key) "
            "WHERE study_key = ?",
            [STUDY],
        )
        names = [column.name for column in COLUMNS["leaderboard"]]
        keyed = {(row["model"], row["setting"], row["budget"]): {name: row[name] for name in names} for row in expected}
        assert {(row["model"], row["setting"], row["budget"]): row for row in board} == keyed
        scores = loaded(tmp_path / "out", "questions")["results"]
        assert sum(row["correct"] for row in scores) == sum(one.correct for one in published.made.facts)
        assert list(scores[0]) == [column.name for column in COLUMNS["questions"]]
        assert {(row["setting"], row["trained_on"]) for row in scores} == {
            ("instruct", None), ("cot", None), ("rt", "rt"), ("fs1", "fs1")
        }  # fmt: skip
        assert {row["question_id"] for row in scores if row["flagged"]} == {"q2", "q5"}

    def test_a_dry_run_writes_nothing(self, published: Published, tmp_path: Path) -> None:
        before = files(published.home.folder)
        done = published.call("dataset", "made", "--kind", "traces", "--to", f"{tmp_path}/out")
        assert done.code == 0, done
        assert "data/fs1/test-*.parquet" in done.out
        assert "pretty_name: Evaluated traces of the study made" in done.out
        assert f"Target: {tmp_path}/out" in done.out
        assert "nothing was written" in done.out
        assert list(tmp_path.iterdir()) == []
        assert files(published.home.folder) == before

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("nobody", "--to", "./out"), "study nobody: not in this store; evaluated studies: made"),
            (("older-", "--to", "./out"), "study older-: not in this store"),
            (("older", "--to", "./out"), "no training in this store; run `evaluate` first"),
            (("made", "--to", "owner/name"), "say which is meant, hub:owner/name (a repository) or ./owner/name"),
            (("made", "--to", "hub:name"), "name the owner too, hub:owner/name"),
            (("made", "--to", "hub:a--b/c"), "Cannot have -- or .."),
            (("made", "--to", "./out", "--public"), "--public is for a repository"),
            (("made", "--to", "./out", "--license", "CC BY"), "give the hub's identifier in lower case"),
            (
                ("made", "--to", "./out", "--kind", "results", "--recipe", "rt"),
                "--training-set rt is for --kind training",
            ),
            (("gone.yaml", "--to", "./out"), "no study file gone.yaml"),
        ],
    )
    def test_bad_input_is_one_error(
        self,
        published: Published,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        arguments: tuple[str, ...],
        message: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert message in published.refused("dataset", *arguments)
        assert list(tmp_path.iterdir()) == []

    def test_a_study_by_its_file_is_the_one_with_these_parameters(self, tmp_path: Path) -> None:
        published = Published(Home(tmp_path / "home"), Made((), 0, 0, (), ()))
        file = write(tmp_path, mini(evaluate={"settings": ["instruct"]}))
        published.home.store.land({})
        message = published.refused("dataset", str(file), "--to", f"{tmp_path}/out")
        assert "study mini has not landed with these parameters" in message
        parameters = load_study(file)
        orders = Orders(parameters, published.home)
        runs = [orders.run(*names) for names in orders.run_names()]
        key = study_key(parameters, runs, [], orders.overlaps(), [])
        published.home.store.land({"studies": [{"study_key": key, "name": "mini", "spec": "{}"}]})
        done = published.call("dataset", str(file), "--to", f"{tmp_path}/out")
        assert f"Study mini ({key})" in done.out
        assert "no training in this store" in done.err

    def test_no_store(self, published: Published, tmp_path: Path) -> None:
        assert "no store at" in Published(Home(tmp_path / "none"), published.made).refused(
            "dataset", "made", "--to", "./out"
        )
        assert list(tmp_path.iterdir()) == []


class TestFolder:
    def test_an_earlier_export_is_replaced_whole(self, published: Published, tmp_path: Path) -> None:
        out = tmp_path / "out"
        assert published.call("dataset", "made", "--kind", "results", "--to", str(out), "--execute").code == 0
        assert published.call("dataset", "made", "--to", str(out), "--execute").code == 0
        marker = json.loads((out / MARKER).read_text())
        assert files(out) == {MARKER, *marker["files"]}
        assert not any("leaderboard" in name for name in files(out))
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_what_others_put_there_is_left_alone(self, published: Published, tmp_path: Path) -> None:
        out = tmp_path / "out"
        assert published.call("dataset", "made", "--to", str(out), "--execute").code == 0
        (out / "notes.txt").write_text("mine")
        assert "holds notes.txt, which is no part of an earlier export" in published.refused(
            "dataset", "made", "--to", str(out), "--execute"
        )
        (tmp_path / "file").write_text("mine")
        assert "there is a file or a link" in published.refused("dataset", "made", "--to", f"{tmp_path}/file")
        (tmp_path / "link").symlink_to(out)
        assert "there is a file or a link" in published.refused("dataset", "made", "--to", f"{tmp_path}/link")
        assert (out / "notes.txt").read_text() == "mine"

    def test_an_interrupted_export_leaves_nothing(
        self, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = exports.write_shards

        def interrupted(*arguments: Any) -> int:
            real(*arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(exports, "write_shards", interrupted)
        assert published.call("dataset", "made", "--to", f"{tmp_path}/out", "--execute").code == 130
        assert list(tmp_path.iterdir()) == []

    def test_a_killed_export_is_swept_and_a_running_one_is_left_alone(self, tmp_path: Path) -> None:
        stale = tmp_path / ".out.partial"
        stale.mkdir()
        (stale / "half").write_text("half")
        target = target_named(f"{tmp_path}/out", "dataset")

        def make_folder(folder: Path) -> None:
            assert list(folder.iterdir()) == []
            (folder / "data").write_text("1")
            with pytest.raises(RuntimeError, match="in use: another export"):
                deliver(target, lambda _: None, tmp_path)

        deliver(target, make_folder, tmp_path)
        assert files(tmp_path) == {"out/data", f"out/{MARKER}"}

    def test_rows_that_land_meanwhile_are_told(self, published: Published, tmp_path: Path) -> None:
        store = published.home.store
        facts = dataset_facts(store, find_study(store, "made"), "results")
        first, scores = facts.configs
        split = first.splits[0].model_copy(update={"rows": first.splits[0].rows + 1})
        counted = facts.model_copy(update={"configs": (first.model_copy(update={"splits": (split,)}), scores)})
        with pytest.raises(RuntimeError, match="something landed in between"):
            write_dataset(store, counted, tmp_path)

    def test_shards_are_numbered_by_their_count(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shards, "_GROUP_BYTES", 10_000)
        tables = [pa.table({"n": list(range(start, start + 1000))}) for start in range(0, 20_000, 1000)]
        assert shards.write_shards(tmp_path, "train", iter(tables), shard_bytes=10_000) == 20_000
        names = sorted(path.name for path in tmp_path.iterdir())
        assert len(names) > 2
        assert names == [f"train-{place:05d}-of-{len(names):05d}.parquet" for place in range(len(names))]
        rows = [n for name in names for n in pq.read_table(tmp_path / name)["n"].to_pylist()]
        assert rows == list(range(20_000))
        assert pq.read_metadata(tmp_path / names[0]).row_group(0).column(0).compression == "ZSTD"


class TestModel:
    def test_a_lora_student(self, published: Published, tmp_path: Path) -> None:
        out = tmp_path / "out"
        dry = published.call("model", "tiny-135m-fs1", "--to", str(out))
        assert dry.code == 0, dry
        assert "adapter_model.safetensors" in dry.out
        assert not out.exists()
        assert published.call("model", "tiny-135m-fs1", "--to", str(out), "--execute", "--license", "mit").code == 0
        assert files(out) == {
            "README.md", MARKER, "adapter_model.safetensors", "adapter_config.json", "manifest.json", "tokenizer.json",
            "tokenizer_config.json", "chat_template.jinja", "train_log.jsonl",
        }  # fmt: skip
        source = published.home.students / "student-fs1"
        assert (out / "adapter_model.safetensors").read_bytes() == (source / "adapter_model.safetensors").read_bytes()
        config = json.loads((out / "adapter_config.json").read_text())
        assert config == {"peft_type": "LORA", "base_model_name_or_path": "org/tiny", "revision": "a" * 40}
        assert json.loads((out / "tokenizer_config.json").read_text()) == {"name_or_path": "org/tiny", "eos_token": "x"}
        assert not any(b"/root/" in path.read_bytes() for path in out.iterdir())
        card = ModelCard.load(out / "README.md")
        assert (card.data.base_model, card.data.license, card.data.library_name) == ("org/tiny", "mit", "peft")
        assert card.data.base_model_relation == "adapter"
        assert "France, P36, Q90" in card.text
        assert "3.250 before, 2.500 after" in card.text
        rows = published.home.store.query(
            "SELECT * FROM leaderboard JOIN study_runs USING (study_key, run_key) WHERE student_key = 'student-fs1'"
        )
        assert len(rows) == 3
        for row in rows:
            share = f"{100 * row['accuracy']:.1f} ± {100 * row['standard_error']:.1f}"
            assert f"| fs1 | {row['budget'] or 'none'} | {row['n']} | {share} | 8 | " in card.text
        assert card.text.count("| starter | instruct |") == 3

    def test_a_full_student(self, published: Published, tmp_path: Path) -> None:
        assert published.call("model", "student-rt", "--to", f"{tmp_path}/out", "--execute").code == 0
        card = ModelCard.load(tmp_path / "out" / "README.md")
        assert card.data.base_model is None
        assert card.data.library_name == "transformers"
        assert "embedded:tiny:0:c1" in card.text
        assert "lora_r" not in card.text
        assert json.loads((tmp_path / "out" / "config.json").read_text())["_name_or_path"] == "tiny-135m"

    def test_the_card_in_its_folder_has_what_dev_questions_told(self, published: Published) -> None:
        home, found = published.home, find_student(published.home.store, "student-fs1")
        row = {
            "dataset": "held out",
            "questions": "set",
            "n": 8,
            "cut": 0,
            "unparsed": 0,
            "refused": 0,
            "thinking_tokens": 5.0,
        }
        asked = {"traces_key": "traces", "base": "tiny-135m", "base_key": HUB_BASE, "asked": "so", **row}
        checks = [
            {**asked, "check_key": "check-1", "student_key": "student-fs1", "correct": 4, "boxed": 6},
            {**asked, "check_key": "check-2", "student_key": None, "correct": 1, "boxed": 2},
            # The same questions in another way, and other weights under the same alias: no match for the student.
            {**asked, "check_key": "check-0", "student_key": None, "correct": 8, "boxed": 8, "asked": "longer"},
            {**asked, "check_key": "check-3", "student_key": None, "correct": 7, "boxed": 8, "base_key": "later"},
            {**asked, "check_key": "check-4", "student_key": "student-fs1", "correct": 5, "boxed": 6, "asked": "alone"},
        ]
        home.store.land({"student_checks": checks})
        write_card(home, found)
        text = (home.students / "student-fs1" / "README.md").read_text()
        told = [line for line in text.splitlines() if line.startswith("| held out | 8 |")]
        assert told == [
            "| held out | 8 | 50.0 (21.5–78.5) | 12.5 | 75.0 | 25.0 |",
            "| held out | 8 | 62.5 (30.6–86.3) | – | 75.0 | – |",
        ]
        assert verify(home.students / "student-fs1").key == "student-fs1"  # a card is no weight
        assert not list((home.students / "student-fs1").glob(".*"))

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "checkpoints/optimizer.pt"])
    def test_a_pickle_is_refused(self, published: Published, tmp_path: Path, name: str) -> None:
        pickle = published.home.students / "student-rt" / name
        pickle.parent.mkdir(exist_ok=True)
        pickle.write_bytes(b"")
        try:
            message = published.refused("model", "student-rt", "--to", f"{tmp_path}/out", "--execute")
        finally:
            pickle.unlink()
        assert f"{name} may hold a pickle" in message
        assert list(tmp_path.iterdir()) == []

    def test_damaged_weights_are_refused(self, published: Published, tmp_path: Path) -> None:
        weights = published.home.students / "student-rt" / "model.safetensors"
        kept = weights.read_bytes()
        weights.write_bytes(kept[:-1] + b"x")
        try:
            message = published.refused("model", "student-rt", "--to", f"{tmp_path}/out", "--execute", code=1)
        finally:
            weights.write_bytes(kept)
        assert "is not what its manifest says" in message
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("name", "message"),
        [("student-", "the keys of 2 students begin so"), ("nobody", "students: tiny-135m-fs1, tiny-135m-rt")],
    )
    def test_unknown_students(self, published: Published, tmp_path: Path, name: str, message: str) -> None:
        assert message in published.refused("model", name, "--to", f"{tmp_path}/out")


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub(SECRET) as running:
        yield running


class TestHub:
    def to_hub(self, published: Published, server: Hub, *arguments: str) -> Done:
        done = published.call(*arguments, "--execute", HF_TOKEN=SECRET, HF_ENDPOINT=server.url)
        assert SECRET not in done.out + done.err
        return done

    def test_a_dataset_is_uploaded_and_then_replaced(self, published: Published, server: Hub, tmp_path: Path) -> None:
        first = self.to_hub(published, server, "dataset", "made", "--kind", "results", "--to", "hub:me/study")
        assert first.code == 0, first
        assert f"{server.url}/datasets/me/study" in first.out
        assert server.private["dataset/me/study"] is True
        assert "data/leaderboard/results-00000-of-00001.parquet" in server.files["dataset/me/study"]
        second = self.to_hub(published, server, "dataset", "made", "--to", "hub:me/study")
        assert second.code == 0, second
        assert published.call("dataset", "made", "--to", f"{tmp_path}/out", "--execute").code == 0
        there = {name for name in server.files["dataset/me/study"] if name != ".gitattributes"}
        assert there == files(tmp_path / "out")
        card = (tmp_path / "out" / "README.md").read_bytes()
        assert server.files["dataset/me/study"]["README.md"] == card
        assert list((published.home.folder / "exports").iterdir()) == []

    def test_a_model_made_public(self, published: Published, server: Hub) -> None:
        done = self.to_hub(published, server, "model", "student-fs1", "--to", "hub:me/student", "--public")
        assert done.code == 0, done
        assert server.private["model/me/student"] is False
        weights = published.home.students / "student-fs1" / "adapter_model.safetensors"
        assert server.files["model/me/student"]["adapter_model.safetensors"] == weights.read_bytes()

    def test_repositories_of_others_and_public_ones_are_left_alone(self, published: Published, server: Hub) -> None:
        server.create("dataset/me/theirs", files={"train.csv": b"a"})
        server.create("dataset/me/open", private=False)
        theirs = self.to_hub(published, server, "dataset", "made", "--to", "hub:me/theirs")
        assert (theirs.code, "me/theirs holds train.csv" in theirs.err) == (2, True)
        public = self.to_hub(published, server, "dataset", "made", "--to", "hub:me/open")
        assert (public.code, "me/open is public on the hub: add --public" in public.err) == (2, True)
        assert server.files["dataset/me/theirs"].keys() == {".gitattributes", "train.csv"}

    def test_a_dry_run_needs_no_token_and_asks_nobody(self, published: Published) -> None:
        done = published.call("dataset", "made", "--to", "hub:me/study", HF_ENDPOINT="http://127.0.0.1:9")
        assert done.code == 0, done
        assert "hub:me/study (dataset, private)" in done.out
        assert "HF_TOKEN is not set" in done.out

    def test_no_token(self, published: Published) -> None:
        assert "set HF_TOKEN" in published.refused("dataset", "made", "--to", "hub:me/study", "--execute")

    def test_a_wrong_token(self, published: Published, server: Hub) -> None:
        wrong = "hf_wrong"
        message = published.refused(
            "dataset", "made", "--to", "hub:me/study", "--execute", code=1, HF_TOKEN=wrong, HF_ENDPOINT=server.url
        )
        assert "refuses (401); check that HF_TOKEN is valid" in message
        assert wrong not in message

    def test_no_network(self, published: Published) -> None:
        message = published.refused(
            "dataset",
            "made",
            "--to",
            "hub:me/x",
            "--execute",
            code=1,
            HF_TOKEN=SECRET,
            HF_ENDPOINT="http://127.0.0.1:9",
        )
        assert "the hub cannot be reached" in message
        assert SECRET not in message
