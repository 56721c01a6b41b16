"""The overlap unit: what it lands, what its key holds, and the rows that the report reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from eval.benchmarks import load
from eval.leaks import Shown
from eval.overlap import OverlapOptions, summarise_overlaps
from kg.encoder import MINILM_PACKAGE, encoder_folder
from kg.similarity import Embedding
from models.prompts import BOXED, question_prompt, teacher_prompt
from store.connection import Store
from store.overlap import overlap_rows
from store.types import Answer, InputError, Question, Recipe, Setting
from tasks import overlaps
from tasks.overlaps import OverlapOrder, land_overlap, overlap_order, shown_prompts
from tasks.progress import Event, listening
from tasks.questions import Asked, prompt_rows, prompt_set_key, question_key, register_questions

OFF = OverlapOptions(encoder="off")
GRAPH = "France, capital, Paris\nFrance, head of state, Emmanuel Macron"


def made(text: str, *gold: str, split: Any = "test") -> Question:
    answers = tuple(Answer(text=one) for one in gold or ("Nobody",))
    return Question(id=text[:30], dataset="made", split=split, text=text, answers=answers)


TRAIN = (
    made("Which country is led by Emmanuel Macron these days?", "France", split="train"),
    made("Who painted the ceiling of the Sistine Chapel in Rome?", "Michelangelo", split="train"),
)
TEST = (
    made("who painted the ceiling of the sistine chapel in rome", "Michelangelo"),
    made("Who painted the ceiling of the Sistine Chapel in Florence?", "Nobody"),
    made("What is the capital of France?", "Paris"),
    made("How deep is Lake Baikal?", "1,642 m"),
)
SAME, ALIKE, TOLD, FAR = map(question_key, TEST)
ASKED = tuple(Asked(one, teacher_prompt(one, Recipe.FS1, GRAPH, examples=True)) for one in TRAIN[:1])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "factscale.duckdb")
    register_questions(store, (*TRAIN, *TEST))
    store.land(prompt_rows(ASKED))
    return store


def ordered(options: OverlapOptions = OFF, **changes: Any) -> OverlapOrder:
    fields = {"train": TRAIN, "test": TEST, "prompt_sets": [prompt_set_key(ASKED)]} | changes
    return overlap_order("overlap of made-test with training", options=options, **fields)


def landed(store: Store, order: OverlapOrder) -> dict[str, dict[str, Any]]:
    assert land_overlap(order, store) == order.key
    rows = store.query("SELECT * FROM question_overlaps WHERE overlap_key = ?", [order.key])
    return {row["question_key"]: row for row in rows}


def in_study(store: Store, order: OverlapOrder) -> list[dict[str, Any]]:
    store.land({"study_overlaps": [{"study_key": "s", "dataset": "made", "overlap_key": order.key}]})
    return overlap_rows(store, "s")


class TestLanding:
    def test_a_row_a_test_question_and_the_unit(self, store: Store) -> None:
        order = ordered()
        rows = landed(store, order)
        near, told = question_key(TRAIN[1]), question_key(TRAIN[0])
        assert {key: (row["nearest"], row["exact"], row["leak"], row["leaked_in"]) for key, row in rows.items()} == {
            SAME: (near, True, "question", near),  # the student is asked it in training
            ALIKE: (near, False, None, None),
            TOLD: (None, False, "fact", told),
            FAR: (None, False, None, None),
        }
        assert [rows[key]["flagged"] for key in (SAME, ALIKE, TOLD, FAR)] == [True, True, True, False]
        assert rows[ALIKE]["ngram"] == pytest.approx(5 / 6)
        assert {row["cosine"] for row in rows.values()} == {None}
        [unit] = store.query("SELECT * FROM units WHERE unit_key = ?", [order.key])
        assert (unit["kind"], unit["row_count"], unit["name"]) == ("overlap", 4, "overlap of made-test with training")

    def test_what_is_there_is_not_measured_again(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        first = landed(store, ordered())
        monkeypatch.setattr(overlaps, "overlaps", None)
        assert landed(store, ordered()) == first

    def test_rows_and_unit_land_together(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(overlaps, "leaks", lambda test, _shown: [None] * (len(test) - 1))
        with pytest.raises(ValueError, match="shorter"):
            land_overlap(ordered(), store)
        assert store.query("SELECT * FROM question_overlaps") == []
        assert not store.has_unit(ordered().key)

    def test_prompts_that_are_not_there_are_no_absence_of_leaks(self, store: Store) -> None:
        with pytest.raises(InputError, match=r"prompts elsewhere are not in the store: run `distill`"):
            land_overlap(ordered(prompt_sets=["elsewhere", prompt_set_key(ASKED)]), store)

    def test_without_prompts_only_questions_can_leak(self, store: Store) -> None:
        rows = landed(store, ordered(prompt_sets=[]))
        assert [rows[key]["leak"] for key in (SAME, TOLD)] == ["question", None]


class TestKey:
    def test_what_is_measured_is_in_the_key(self) -> None:
        same = ordered()
        turned = ordered(train=TRAIN[::-1], test=TEST[::-1], prompt_sets=[prompt_set_key(ASKED)] * 2)
        assert turned.key == same.key
        others = [
            ordered(train=TRAIN[:1]),
            ordered(test=TEST[:1]),
            ordered(prompt_sets=[]),
            ordered(OFF.model_copy(update={"ngram": 6})),
            ordered(OFF.model_copy(update={"cosine": 0.8})),
        ]
        assert len({one.key for one in (same, *others)}) == len(others) + 1

    def test_the_encoder_that_runs_counts_not_who_asked_for_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(overlaps, "encoder_folder", lambda: Path("there"))
        auto, required = (ordered(OverlapOptions(encoder=name)) for name in ("auto", "required"))
        assert auto.spec.encoder == Embedding.name
        assert auto.key == required.key != ordered().key
        monkeypatch.setattr(overlaps, "encoder_folder", lambda: None)
        assert ordered(OverlapOptions(encoder="auto")).key == ordered().key
        with pytest.raises(InputError, match=f"encoder is required, and the package {MINILM_PACKAGE} is not installed"):
            ordered(OverlapOptions(encoder="required"))


class TestPrompts:
    def test_what_teachers_and_students_are_shown(self, store: Store) -> None:
        student, other, teacher = shown_prompts(store, TRAIN, [prompt_set_key(ASKED)])
        assert student == Shown(question_key(TRAIN[0]), f"{TRAIN[0].text} {BOXED}")
        assert other.question_key == question_key(TRAIN[1])
        assert teacher.question_key == question_key(TRAIN[0])
        assert teacher.lines[-2:] == tuple(GRAPH.splitlines())
        assert "Harbour of Orm, creator, Lena Voss" in teacher.lines, "the examples are shown as well"
        assert not any(BOXED in line or "subject, relation" in line for line in teacher.lines)

    def test_prompts_without_a_graph_have_no_lines(self, store: Store) -> None:
        plain = tuple(Asked(one, question_prompt(one, Setting.COT)) for one in TRAIN)
        store.land(prompt_rows(plain))
        assert [one.lines for one in shown_prompts(store, (), [prompt_set_key(plain)])] == [(), ()]


class TestRowsOfTheReport:
    def test_texts_and_what_each_measure_flags(self, store: Store) -> None:
        rows = {row["question_key"]: row for row in in_study(store, landed_order(store))}
        assert rows[SAME]["question"] == TEST[0].text
        assert rows[SAME]["nearest_question"] == rows[SAME]["leaked_in_question"] == TRAIN[1].text
        assert rows[TOLD]["leaked_in_question"] == TRAIN[0].text
        assert rows[FAR]["nearest_question"] is None
        assert [rows[key]["by_ngram"] for key in (SAME, ALIKE, TOLD)] == [True, True, False]
        assert rows[SAME]["by_cosine"] is None
        assert overlap_rows(store, "another") == []
        [summary] = summarise_overlaps(rows.values())
        assert summary[:8] == ("made", 4, 1, 2, None, 1, 1, 3)
        assert summary.examples[0].question == TEST[0].text

    def test_flags_follow_the_thresholds_of_the_unit(self, store: Store) -> None:
        order = landed_order(store, OFF.model_copy(update={"ngram_share": 0.9}))
        rows = {row["question_key"]: row for row in in_study(store, order)}
        assert (rows[ALIKE]["by_ngram"], rows[ALIKE]["flagged"]) == (False, False)


def landed_order(store: Store, options: OverlapOptions = OFF) -> OverlapOrder:
    order = ordered(options)
    land_overlap(order, store)
    return order


class TestEncoder:
    def test_progress_counts_distinct_texts(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        class Counted:
            name, batches = "counted", list[int]()

            def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
                self.batches.append(len(texts))
                return np.tile(np.array([1, 0], np.float32), (len(texts), 1))

        counted, events = Counted(), list[Event]()
        monkeypatch.setattr(overlaps, "encoder_folder", lambda: Path("there"))
        monkeypatch.setattr(overlaps, "_encoder", lambda: counted)
        monkeypatch.setattr(overlaps, "_TEXTS", 4)
        with listening(events.append):
            rows = landed(store, ordered(OverlapOptions(), test=(*TEST, TEST[0])))
        assert counted.batches == [4, 2]
        assert [(event.done, event.total) for event in events] == [(0, 6), (4, 6), (6, 6), (6, 6)]
        assert {row["cosine"] for row in rows.values()} == {1.0}
        assert all(row["flagged"] for row in rows.values())

    @pytest.mark.real
    @pytest.mark.skipif(encoder_folder() is None, reason=f"{MINILM_PACKAGE} is not installed")
    def test_the_real_encoder_sees_other_words(self, store: Store) -> None:
        test = (
            made("How profound is the lake of Baikal?"),
            made("Who was it that painted the Sistine Chapel's ceiling in Rome?"),
        )
        register_questions(store, test)
        rows = landed(store, ordered(OverlapOptions(encoder="required"), test=test))
        lake, ceiling = (rows[question_key(one)] for one in test)
        assert (ceiling["exact"], ceiling["flagged"]) == (False, True)
        assert ceiling["ngram"] < 0.7 < 0.9 < ceiling["cosine"] <= 1
        assert ceiling["nearest"] == question_key(TRAIN[1])
        assert lake["cosine"] < 0.5
        assert not lake["flagged"]


def test_the_starter_set_keeps_its_splits_apart(store: Store) -> None:
    train, test = load("starter", "train"), load("starter", "test")
    rows = landed(store, ordered(train=train, test=test, prompt_sets=[]))
    assert not any(row["exact"] or row["leak"] == "question" for row in rows.values())
