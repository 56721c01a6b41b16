"""``factscale train`` and ``factscale chat`` as a person meets them: real trainings and replies of a tiny random model."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
from huggingface_hub import ModelCard
from made_study import make
from tiny_model import CONTEXT, make_tiny, registry_of

from flows.chat_command import _folder, _plain
from flows.cli import main
from flows.train_commands import _source
from models.finetune import Hyperparameters, ProcessOptions, load_manifest, verify
from models.registry import load_registry, model_key
from store.home import Home
from tasks.keys import StudentSpec
from tasks.students import StudentOrder, student_missing

ROOT = Path(__file__).resolve().parents[2]
BORN = {
    "Ada": "Paris", "Bo": "Rome", "Cy": "Oslo", "Di": "Cairo", "Ed": "Lima", "Flo": "Bern", "Gus": "Delhi", "Hal": "Tokyo",
    "Ida": "Quito", "Jo": "Accra",
}  # fmt: skip
QUICK = ("--learning-rate", "0.01", "--batch-size", "2", "--gradient-accumulation", "1")


class Done(NamedTuple):
    """What a command has left behind."""

    code: int
    out: str
    err: str


class Place(NamedTuple):
    """A home, a registry with the tiny model, a file with examples."""

    home: Home
    registry: Path
    examples: Path

    def call(self, *arguments: str | Path, stdin: str | None = None) -> Done:
        """The command in this process, for speed."""
        out, err = io.StringIO(), io.StringIO()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment = {**kept, "FACTSCALE_HOME": str(self.home.folder), "COLUMNS": "160"}
        argv = ["factscale", *map(str, arguments), "--registry", str(self.registry)]
        given = None if stdin is None else io.StringIO(stdin)
        with (
            patch.dict(os.environ, environment, clear=True),
            patch.object(sys, "argv", argv),
            patch.object(sys, "stdin", given),
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())

    def refused(self, *arguments: str | Path, code: int = 2) -> str:
        """The one error of a command that does nothing."""
        done = self.call(*arguments)
        lines = [line for line in done.err.splitlines() if line.strip()]
        assert (done.code, len(lines)) == (code, 1), done
        return lines[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("place")
    registry = registry_of(folder, make_tiny(folder / "tiny"))
    examples = folder / "born.jsonl"
    rows = [
        {"question": f"Where was {name} born?", "thinking": f"{name}, place of birth, {city}.", "answer": city}
        for name, city in BORN.items()
    ]
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Place(Home(folder / "home"), registry, examples)


@pytest.fixture(scope="module")
def trained(place: Place) -> Path:
    """The folder of a student of the file."""
    folder = place.home.folder.parent / "student"
    done = place.call("train", place.examples, "--student", "tiny", *QUICK, "--max-steps", "5", "--to", folder)
    assert done.code == 0, done
    assert f"Student: {folder}" in done.out
    assert "5 steps over 9 examples" in done.out
    manifest = load_manifest(folder)
    assert manifest is not None
    assert f"{manifest.result.base_loss:.3f} before, {manifest.result.held_out_loss:.3f} after" in done.out
    return folder


@pytest.fixture(scope="module")
def stored(place: Place) -> Place:
    """The same place with a study in its store."""
    make(place.home.store)
    rows = [
        {"study_key": "study-1", "student_key": f"student-{name}", "base": "tiny-135m", "trained_on": name, "variant": "",
         "chosen": True}
        for name in ("rt", "fs1")
    ]  # fmt: skip
    place.home.store.land({"study_students": rows})
    return place


@pytest.mark.real
class TestTrainFiles:
    def test_the_folder_is_a_student_with_its_card(self, trained: Path) -> None:
        manifest = verify(trained)
        assert (manifest.result.examples, manifest.result.held_out_examples) == (9, 1)
        assert manifest.hyperparameters.max_length == CONTEXT  # no more than the model has
        card = ModelCard.load(trained / "README.md")
        assert (card.data.library_name, card.data.tags) == ("peft", ["factscale", "reasoning", "factuality"])
        assert "10 examples on 10 questions, 1 of them held out of training, from `born.jsonl`" in card.text
        assert manifest.base_key in card.text
        assert f"| adapter_model.safetensors | {manifest.weights['adapter_model.safetensors']} |" in card.text
        assert "No study in this store" not in card.text

    def test_it_is_not_trained_again_and_nothing_else_takes_its_place(self, place: Place, trained: Path) -> None:
        before = {path.name: path.stat().st_mtime_ns for path in trained.iterdir() if path.name != "README.md"}
        same = ("train", place.examples, "--student", "tiny", *QUICK, "--max-steps", "5", "--to", trained)
        done = place.call(*same)
        assert done.code == 0, done
        assert "This student is there already." in done.out
        assert {path.name: path.stat().st_mtime_ns for path in trained.iterdir() if path.name != "README.md"} == before
        assert "holds another student" in place.refused(*same, "--seed", "4")

    def test_its_loss_is_not_told_of_other_held_out_examples(self, place: Place, trained: Path, tmp_path: Path) -> None:
        # The same training split, but what was held out of it is other questions.
        learned = {one.thinking for one in _source(str(place.examples), place.home, 0, None).examples}
        lines = place.examples.read_text().splitlines(keepends=True)
        (tmp_path / "train.jsonl").write_text("".join(one for one in lines if json.loads(one)["thinking"] in learned))
        (tmp_path / "held_out.jsonl").write_text(
            '{"question": "Who is Zoe?", "thinking": "Nobody knows.", "answer": "?"}\n'
        )
        before = (trained / "README.md").read_text()
        message = place.refused("train", tmp_path, "--student", "tiny", *QUICK, "--max-steps", "5", "--to", trained)
        assert "measured on other held-out examples; name another folder with --to" in message
        assert (trained / "README.md").read_text() == before

    @pytest.mark.slow
    def test_ctrl_c_keeps_what_was_reached_and_the_same_command_ends_it(self, place: Place, tmp_path: Path) -> None:
        folder = tmp_path / "student"
        code = "from flows.cli import main; main()"
        arguments = [
            "train",
            str(place.examples),
            "--student",
            "tiny",
            *QUICK,
            "--max-steps",
            "400",
            "--to",
            str(folder),
        ]
        command = [sys.executable, "-c", code, *arguments, "--registry", str(place.registry)]
        environment = {**os.environ, "FACTSCALE_HOME": str(place.home.folder), "PYTHONPATH": str(ROOT)}
        reached = tmp_path / "student.partial" / "checkpoints"
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                deadline = time.monotonic() + 120
                while not list(reached.glob("checkpoint-*/complete")) and time.monotonic() < deadline:
                    time.sleep(0.01)
                process.send_signal(signal.SIGINT)
                said, _ = process.communicate(timeout=60)
            finally:
                process.kill()
        assert (process.returncode, folder.exists()) == (130, False)
        assert "the same command goes on from it" in said
        done = place.call(*arguments)
        assert done.code == 0, done
        steps = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
        assert [step["step"] for step in steps if step["loss"] is not None] == list(range(1, 401))
        assert (folder / "train.log").read_text().count("held out: ") == 2  # two attempts made one student


@pytest.mark.real
class TestTrainStored:
    def test_a_study_finds_the_student_done(self, stored: Place) -> None:
        asked = ("train", "made:fs1", "--student", "tiny", *QUICK, "--max-steps", "2")
        done = stored.call(*asked)
        assert done.code == 0, done
        entry = load_registry(stored.registry).entry("tiny")
        hyper = Hyperparameters(
            learning_rate=0.01, batch_size=2, gradient_accumulation=1, max_steps=2, max_length=CONTEXT
        )
        spec = StudentSpec(
            base_key=model_key(entry, stored.home.folder),
            training_set="set-fs1",
            hyperparameters=hyper,
            format="blocks",
        )
        order = StudentOrder(
            name="x", spec=spec, trained_on="fs1", variant="", entry=entry, options=ProcessOptions(packing=True)
        )
        assert not student_missing(order, stored.home)
        folder = stored.home.students / order.key
        [row] = stored.home.store.query("SELECT * FROM students WHERE student_key = ?", [order.key])
        assert (row["base"], row["trained_on"], row["training_set"]) == ("tiny", "fs1", "set-fs1")
        card = (folder / "README.md").read_text()
        assert "a student of the recipe `fs1`" in card
        assert f"row 1 of training set set-fs1\n-> student {order.key}" in card
        assert "`factscale train set-fs1 --student tiny`" in card
        again = stored.call("train", "set-fs1", *asked[2:])
        assert "This student is there already." in again.out
        for name in (order.key, order.key[:8], "tiny-fs1", "student tiny fs1"):
            assert _folder(name, stored.home) == folder
        # A folder that is gone is made again.
        (folder / "manifest.json").unlink()
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        assert stored.call(*asked, "--packing").code == 0
        assert verify(folder).key


class TestTrainRefuses:
    def test_a_dry_run_trains_nothing(self, place: Place) -> None:
        before = list(place.home.students.glob("*"))
        done = place.call(
            "train", place.examples, "--student", "tiny", *QUICK, "--epochs", "3", "--dry-run", "--held-out", "0.3"
        )
        assert done.code == 0, done
        assert "7 to learn, 3 held out" in done.out
        assert "12 of 2 examples" in done.out
        assert "lora, learning rate 0.01" in done.out
        assert list(place.home.students.glob("*")) == before

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("gone.jsonl",), "gone.jsonl: no such file or folder"),
            (("made:mixed",), "training set made:mixed: the training sets of this study are fs1, rt"),
            (("nobody:fs1",), "study nobody: not in this store; evaluated studies: made"),
            (("set-fs",), "2 keys begin so"),
            (("abcdef",), "training set abcdef: not in this store, which has set-fs"),
            (("made:fs1", "--held-out", "0.2"), "--held-out is for examples from files"),
            (("made:fs1", "--to", "x"), "--to is for examples from files"),
            (
                ("made:fs1", "--dry-run", "--gpus", "3"),
                "gradient_accumulation: the 4 batches of a step cannot be shared out",
            ),
            (("made:fs1", "--learning-rate", "-1"), "--learning-rate: Input should be greater than 0 (got -1.0)"),
            (("gone.yaml:fs1",), "no study file gone.yaml"),
            (
                ("made:fs1", "--dry-run", "--max-length", "9"),
                "no example is left to train on: of 2 were dropped: 2 too long",
            ),
        ],
    )
    def test_bad_input_is_one_error(
        self, stored: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        if arguments[0] == "set-fs":
            stored.home.store.land({"training_sets": [_set("set-fs0")]})
        assert message in stored.refused("train", *arguments, "--student", "tiny")
        assert list(tmp_path.iterdir()) == []

    def test_a_malformed_row_is_named(self, place: Place, tmp_path: Path) -> None:
        bad = tmp_path / "bad.jsonl"
        bad.write_text('{"question": "Who?", "thinking": "t", "answer": "a"}\n{"question": "Who?", "thinking": "t"}\n')
        assert f"{bad} line 2: answer is missing" in place.refused("train", bad, "--student", "tiny")

    def test_a_split_of_its_own_is_kept(self, place: Place, tmp_path: Path) -> None:
        (tmp_path / "train.jsonl").write_bytes(place.examples.read_bytes())
        (tmp_path / "held_out.jsonl").write_bytes(place.examples.read_bytes().splitlines(keepends=True)[0])
        done = place.call("train", tmp_path, "--student", "tiny", "--dry-run")
        assert "10 to learn, 1 held out" in done.out
        message = place.refused("train", tmp_path, "--student", "tiny", "--held-out", "0.5")
        assert "has a held_out split of its own" in message


def _set(key: str) -> dict[str, object]:
    return {"training_set": key, "recipe": "fs1", "name": "fs1", "row_count": 0, "statistics": "{}"}


@pytest.fixture(scope="module")
def replies(place: Place, trained: Path) -> list[dict[str, object]]:
    """What the student of the file says to two questions from a pipe, greedily."""
    done = place.call(
        "chat", trained, "--engine", "transformers", "--format", "json", "--budget", "6", "--max-answer-tokens", "4",
        "--temperature", "0", stdin="Where was Ada born?\n\n  Where was Bo born?\n",
    )  # fmt: skip
    assert done.code == 0, done
    return [json.loads(line) for line in done.out.splitlines()]


@pytest.mark.real
class TestChat:
    def test_each_line_of_a_pipe_is_a_question(self, replies: list[dict[str, object]]) -> None:
        assert [reply["question"] for reply in replies] == ["Where was Ada born?", "Where was Bo born?"]
        for reply in replies:
            assert isinstance(reply["thinking_tokens"], int)
            assert 0 < reply["thinking_tokens"] <= 6
            assert str(reply["answer_text"]).startswith("Answer: \\boxed{")
            assert reply["forced"]

    def test_one_question_stands_alone(self, place: Place, trained: Path, replies: list[dict[str, object]]) -> None:
        done = place.call(
            "chat", trained, "--engine", "transformers", "--budget", "6", "--max-answer-tokens", "4", "--temperature", "0",
            "--question", "Where was Bo born?",
        )  # fmt: skip
        assert done.code == 0, done
        head, *lines = done.out.splitlines()
        assert head.startswith("student student of tiny: transformers")
        assert _plain(str(replies[1]["thinking"]).strip()) in done.out
        assert _plain(str(replies[1]["answer_text"]).strip()) in done.out
        assert f"{replies[1]['thinking_tokens']} + {replies[1]['answer_tokens']} tokens in " in lines[-1]
        assert ("thinking cut at 6" in lines[-1]) == replies[1]["cut"]

    def test_a_model_of_the_registry(self, place: Place) -> None:
        done = place.call("chat", "tiny", "--engine", "transformers", "--budget", "4", "-q", "Who?", "--format", "json")
        assert done.code == 0, done
        [reply] = [json.loads(line) for line in done.out.splitlines()]
        assert reply["thinking_tokens"] <= 4


class TestChatRefuses:
    def test_without_a_question_nothing_is_opened(self, place: Place) -> None:
        assert "there is no question" in place.refused("chat", "tiny")  # standard input is closed
        done = place.call("chat", "tiny", stdin=" \n")
        assert (done.code, done.out) == (2, "")

    @pytest.mark.parametrize(
        ("named", "message"),
        [
            ("nobody", "student nobody: not known. Students here: "),
            ("nobody", "Models of "),
            ("./nowhere", "there is no such folder"),
            (".", "has no readable manifest.json, so it is no complete student"),
            ("made:mixed", "student made:mixed: none fits. Students of this study: student- (tiny-135m/fs1), "),
            ("made:fs1:small", "none fits"),
            ("made:fs1", "students/student-fs1 has no readable manifest.json"),
        ],
    )
    def test_unknown_students(
        self, stored: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, message: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert message in stored.refused("chat", named, "-q", "Who?")

    def test_a_student_of_an_unknown_base(self, place: Place, trained: Path, tmp_path: Path) -> None:
        other = registry_of(tmp_path, place.registry.parent / "tiny", stop_tokens=["<|im_end|>"])
        moved = place._replace(registry=other)
        assert "the student's base content:" in moved.refused("chat", trained, "-q", "Who?")

    def test_nothing_of_a_reply_reaches_the_terminal_as_a_command(self) -> None:
        assert _plain("a\x1b[2Jb\nc\td\r") == "a\N{REPLACEMENT CHARACTER}[2Jb\nc\td\N{REPLACEMENT CHARACTER}"
