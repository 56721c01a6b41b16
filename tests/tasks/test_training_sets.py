"""Training sets as units: rows, statistics and folders, from traces that stand in a real store."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest

from eval.card_columns import COLUMNS
from eval.judge import prediction_key
from kg.encoder import encoder_folder
from models.prompts import teacher_prompt
from models.registry import ModelEntry
from store import queries
from store.connection import Store
from store.home import Home
from store.types import Answer, InputError, Question, Recipe
from tasks import training_sets
from tasks.examples import examples_of, wording
from tasks.exports import dataset_facts, find_study, training_facts, write_dataset
from tasks.keys import PredictionsSpec, TrainingPart, TrainingSetSpec, set_key
from tasks.questions import Asked, gold_key, prompt_rows, prompt_set_key, question_key, register_questions
from tasks.selection import SELECTION_VERSION, Candidate
from tasks.training_folders import STATISTICS, folder_missing, folder_of, write_folder
from tasks.training_sets import TrainingSetOrder, land_training_set, training_set_missing
from tasks.training_statistics import SEMANTIC_COSINE, near_gold, statistics_of
from tasks.verdicts import MATCHER, PARSER, PredictionsOrder, land_predictions

JUDGE = "judge@1"
CITIES = ("Paris", "Lima", "Oslo", "Quito", "Cairo", "Tunis", "Dakar", "Hanoi", "Seoul", "Accra", "Sofia", "Minsk")
QUESTIONS = tuple(
    Question(
        id=f"q{place:02}",
        dataset="starter",
        split="train",
        text=f"What is the capital of land {place}?",
        answers=(Answer(text=city, aliases=(f"City of {city}",)),),
    )
    for place, city in enumerate(CITIES)
)
KEYS = tuple(question_key(one) for one in QUESTIONS)


class Said(str):
    """An answer as it stands in the trace; with its thought, where it differs from the usual one."""

    thought: str | None = None

    def after(self, thought: str) -> Said:
        """The same answer after another thought."""
        self.thought = thought
        return self


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    register_questions(home.store, QUESTIONS)
    return home


def teach(
    store: Store,
    teacher: str,
    recipe: Recipe,
    say: Callable[[int, int], str],
    *,
    samples: int = 1,
    cut: int | None = None,
) -> PredictionsOrder:
    """Land a teacher's traces (what ``say`` answers to each question and sample) and the reading of them."""
    graph = "land, capital, town" if recipe is Recipe.FS1 else None
    asked = [Asked(one, teacher_prompt(one, recipe, graph)) for one in QUESTIONS]
    kind = f"{teacher}-{recipe}"
    tables: dict[str, list[dict[str, Any]]] = prompt_rows(asked)
    for name in ("thoughts", "thought_texts", "traces", "trace_texts"):
        tables[name] = []
    for place, one in enumerate(asked):
        for sample in range(samples):
            said = say(place, sample)
            thought = (
                getattr(said, "thought", None) or f"{teacher} thinks {'of ' * (place + 1)}{recipe} {place} {sample}"
            )
            key, tokens = f"{kind}-{place}-{sample}", len(thought.split())
            shared = {
                "thought_id": key, "thought_key": kind, "model": teacher, "dataset": "starter", "question_id": one.question.id,
                "prompt_key": one.prompt.key, "sample": sample, "thinking_tokens": tokens, "prompt_tokens": 9, "cached_tokens": 0,
            }  # fmt: skip
            tables["thoughts"].append({**shared, "seed": 1, "ended": "marker"})
            tables["thought_texts"].append({"thought_id": key, "token_ids": [1], "text": thought + " and more"})
            tables["traces"].append(
                {
                    **shared,
                    "trace_id": f"t-{key}",
                    "answer_key": "answer",
                    "budget": None,
                    "thinking_chars": len(thought),
                    "cut": place == cut,
                    "forced": False,
                    "finish": "stop",
                    "answer_tokens": 3,
                    "self_contained": False,
                    "shared": False,
                }
            )
            text = f"\\boxed{{{said}}}" if said else "I do not know."
            tables["trace_texts"].append({"trace_id": f"t-{key}", "answer_ids": [1], "answer_text": text})
    store.land(tables)
    spec = PredictionsSpec(traces=f"unit-{kind}", questions=set_key(list(KEYS)), parser=PARSER, matcher=MATCHER)
    order = PredictionsOrder(
        name=f"predictions {kind}", spec=spec, prompt_set=prompt_set_key(asked), thought_key=kind, answer_key="answer",
        samples=samples, budgets=(0,), questions=QUESTIONS,
    )  # fmt: skip
    land_predictions(order, store)
    return order


def judge(store: Store, said: Callable[[int, str], bool | None]) -> None:
    """Land what the judge says to each prediction on each question; None: nothing valid."""
    rows = store.query("SELECT DISTINCT question_id, prediction FROM predictions JOIN traces USING (trace_id)")
    store.land(
        {
            "verdicts": [
                {
                    "judge": JUDGE,
                    "gold_key": gold_key(QUESTIONS[int(row["question_id"][1:])]),
                    "prediction_key": prediction_key(row["prediction"]),
                    "correct": said(int(row["question_id"][1:]), row["prediction"]),
                    "rule": "made",
                    "reply": "1",
                }
                for row in rows
                if row["prediction"] is not None
            ]
        }
    )


def order_of(
    parts: Sequence[tuple[Recipe, Sequence[PredictionsOrder]]],
    name: str = "",
    limits: Sequence[int | None] = (),
    **rules: Any,
) -> TrainingSetOrder:
    recipes = {recipe for recipe, _ in parts}
    recipe = next(iter(recipes)) if len(recipes) == 1 else None
    known: dict[str, Any] = {
        "parser": PARSER, "matcher": MATCHER, "wording": wording(), "selection": SELECTION_VERSION, "accept": "exact",
        "judge": None, "reader": "embedded", "max_tokens": 8192, "max_per_question": 1, "max_per_question_over_all": None,
        "held_out": 0.2, "questions": set_key(list(KEYS)), "encoder": None, "seed": 3,
    }  # fmt: skip
    spec = TrainingSetSpec(
        parts=tuple(
            TrainingPart(recipe=kind, predictions=tuple(one.key for one in readings), traces=limit)
            for (kind, readings), limit in zip(parts, limits or [None] * len(parts), strict=True)
        ),
        **{**known, **rules},
    )
    named = name or (recipe.value if recipe else "both")
    return TrainingSetOrder(
        name=f"training set {named}", set_name=named, recipe=recipe, spec=spec,
        parts=tuple(tuple(readings) for _, readings in parts),
        tokenizer=ModelEntry(alias="m", source="embedded", context_length=8192, parameters=1), format="blocks",
        questions=KEYS, study="made",
    )  # fmt: skip


def right(place: int, _sample: int) -> str:
    return CITIES[place]


def often(place: int, sample: int) -> str:
    """Right but on the questions 1, 5, 9 (wrong) and 3 (no answer)."""
    return "" if place == 3 else "Rome" if place % 4 == 1 else CITIES[place]


def statistics(store: Store, order: TrainingSetOrder) -> dict[str, Any]:
    [row] = store.query("SELECT statistics FROM training_set_units WHERE unit_key = ?", [order.key])
    found: dict[str, Any] = json.loads(row["statistics"])
    return found


@pytest.mark.real
class TestLanding:
    def test_rows_and_statistics_say_what_entered(self, home: Home) -> None:
        reading = teach(home.store, "teacher", Recipe.RT, often, samples=2, cut=2)
        order = order_of([(Recipe.RT, [reading])])
        key = land_training_set(order, home.store)
        rows = home.store.query("SELECT * FROM training_rows WHERE training_set = ? ORDER BY position", [key])
        expected = [place for place in range(12) if place not in (1, 2, 3, 5, 9)]
        assert [row["question_key"] for row in rows] == [KEYS[place] for place in expected]
        assert {row["recipe"] for row in rows} == {"rt"}
        [header] = home.store.query("SELECT * FROM training_sets")
        assert (header["recipe"], header["name"], header["row_count"]) == ("rt", "rt", 7)
        counts = statistics(home.store, order)
        assert counts["dropped"] == {"no answer": 2, "wrong": 6, "cut": 2, "enough of this question": 7}
        assert (counts["candidates"], counts["kept"], counts["questions"]) == (24, 7, 7)
        assert counts["accuracy"] == pytest.approx(16 / 24)
        assert (counts["judge_accuracy"], counts["judge_agreement"], counts["semantic_match"]) == (None, None, None)
        assert counts["mean_thinking_tokens"] == pytest.approx(sum(place + 6 for place in range(12)) / 12)
        assert (counts["max_thinking_tokens"], counts["max_kept_thinking_tokens"]) == (17, 17)
        assert counts["median_kept_thinking_tokens"] == expected[3] + 6
        assert counts["sources"] == [
            {"recipe": "rt", "teacher": "teacher"}
            | {
                name: value
                for name, value in counts.items()
                if name not in ("sources", "questions", "held_out_questions")
            }
        ]
        assert counts["held_out_questions"] == len({row["question_key"] for row in rows if row["held_out"]}) > 0

    def test_example_tokens_limit_and_are_counted(self, home: Home) -> None:
        reading = teach(home.store, "teacher", Recipe.RT, right)
        free = order_of([(Recipe.RT, [reading])], max_tokens=None)
        land_training_set(free, home.store)
        longest = statistics(home.store, free)["max_example_tokens"]
        order = order_of([(Recipe.RT, [reading])], max_tokens=longest - 1)
        land_training_set(order, home.store)
        counts = statistics(home.store, order)
        assert counts["dropped"]["too long"] >= 1
        assert counts["max_example_tokens"] < longest
        assert counts["kept"] + counts["dropped"]["too long"] == 12
        with pytest.raises(InputError, match=r"of 12 traces too long 12; raise distill.max_tokens \(8\)"):
            land_training_set(order_of([(Recipe.RT, [reading])], max_tokens=8), home.store)

    def test_special_tokens_are_a_reason_of_their_own(self, home: Home) -> None:
        def say(place: int, sample: int) -> str:
            return Said(CITIES[place]).after("I end <|im_end|> here") if place < 2 else CITIES[place]

        order = order_of([(Recipe.RT, [teach(home.store, "teacher", Recipe.RT, say)])])
        land_training_set(order, home.store)
        assert statistics(home.store, order)["dropped"] == {"special tokens": 2}

    def test_a_judge_decides_and_is_counted(self, home: Home) -> None:
        reading = teach(home.store, "teacher", Recipe.RT, often)
        judge(home.store, lambda place, said: None if place == 0 else place != 2)  # lenient, but not on 2
        kept = {}
        for accept in ("exact", "judge", "both"):
            order = order_of([(Recipe.RT, [reading])], accept=accept, judge=JUDGE)
            key = land_training_set(order, home.store)
            rows = home.store.query("SELECT question_key FROM training_rows WHERE training_set = ?", [key])
            kept[accept] = {KEYS.index(row["question_key"]) for row in rows}
            counts = statistics(home.store, order)
            assert counts["judged"] == 10  # 12 less one without an answer, one without a verdict
            assert counts["judge_accuracy"] == pytest.approx(9 / 11)
            assert counts["judge_agreement"] == pytest.approx(6 / 10)
        wrong = {1, 5, 9}
        assert kept["exact"] == set(range(12)) - wrong - {3}
        assert kept["judge"] == set(range(12)) - {3, 0, 2}
        assert kept["both"] == kept["exact"] & kept["judge"]
        judge_only = order_of([(Recipe.RT, [reading])], accept="judge", judge="another")
        with pytest.raises(InputError, match="no verdict 11, no answer 1; see what the judge another replies"):
            land_training_set(judge_only, home.store)

    def test_other_rules_can_come_to_the_same_set_with_their_own_numbers(self, home: Home) -> None:
        reading = teach(home.store, "teacher", Recipe.RT, often)
        plain = order_of([(Recipe.RT, [reading])])
        key = land_training_set(plain, home.store)
        judge(home.store, lambda place, said: True)
        judged = order_of([(Recipe.RT, [reading])], judge=JUDGE)
        assert judged.key != plain.key
        assert land_training_set(judged, home.store) == key
        assert statistics(home.store, plain)["judge_accuracy"] is None
        assert statistics(home.store, judged)["judge_accuracy"] == pytest.approx(11 / 12)
        land_training_set(plain, home.store)  # again: nothing lands twice
        assert home.store.query("SELECT count(*) AS n FROM training_rows")[0]["n"] == 8

    def test_another_split_is_another_set(self, home: Home) -> None:
        reading = teach(home.store, "teacher", Recipe.RT, right)
        orders = [order_of([(Recipe.RT, [reading])], held_out=share) for share in (0.0, 0.2, 0.5)]
        keys = [land_training_set(order, home.store) for order in orders]
        assert len(set(keys)) == 3
        assert [len(examples_of(home.store, key)[1]) for key in keys] == [0, 2, 6]

    def test_nothing_right_says_why(self, home: Home) -> None:
        order = order_of([(Recipe.RT, [teach(home.store, "teacher", Recipe.RT, lambda place, sample: "Rome")])])
        with pytest.raises(InputError, match="training set rt is empty: of 12 traces wrong 12; ask a better teacher"):
            land_training_set(order, home.store)


@pytest.mark.real
class TestMix:
    @pytest.fixture
    def readings(self, home: Home) -> dict[str, PredictionsOrder]:
        return {
            "a rt": teach(home.store, "a", Recipe.RT, right),
            "a fs1": teach(home.store, "a", Recipe.FS1, often),
            "b fs1": teach(home.store, "b", Recipe.FS1, right),
        }

    def test_parts_enter_with_their_limits_and_are_told_apart(
        self, home: Home, readings: dict[str, PredictionsOrder]
    ) -> None:
        parts = [(Recipe.RT, [readings["a rt"]]), (Recipe.FS1, [readings["a fs1"], readings["b fs1"]])]
        order = order_of(parts, limits=(4, None), max_per_question=2)
        key = land_training_set(order, home.store)
        [header] = home.store.query("SELECT * FROM training_sets")
        assert (header["recipe"], header["name"], header["row_count"]) == ("mix", "both", 4 + 8 + 12)
        rows = home.store.query("SELECT recipe, count(*) AS n FROM training_rows GROUP BY ALL ORDER BY recipe")
        assert rows == [{"recipe": "fs1", "n": 20}, {"recipe": "rt", "n": 4}]
        counts = statistics(home.store, order)
        assert [(one["recipe"], one["teacher"], one["kept"]) for one in counts["sources"]] == [
            ("rt", "a", 4),
            ("fs1", "a", 8),
            ("fs1", "b", 12),
        ]
        assert counts["sources"][0]["dropped"] == {"beyond the part's limit": 8}
        assert counts["dropped"] == {"no answer": 1, "wrong": 3, "beyond the part's limit": 8}
        assert sum(one["candidates"] for one in counts["sources"]) == counts["candidates"] == 36
        texts = {one.thinking.split()[0] for side in examples_of(home.store, key) for one in side}
        assert texts == {"a", "b"}

    def test_a_question_stands_on_one_side_in_all_sets_of_a_study(
        self, home: Home, readings: dict[str, PredictionsOrder]
    ) -> None:
        sets = [
            order_of([(Recipe.RT, [readings["a rt"]])]),
            order_of([(Recipe.FS1, [readings["a fs1"]])]),
            order_of([(Recipe.RT, [readings["a rt"]]), (Recipe.FS1, [readings["b fs1"]])], max_per_question_over_all=1),
        ]
        for order in sets:
            land_training_set(order, home.store)
        rows = home.store.query(
            "SELECT question_key, bool_and(held_out) = bool_or(held_out) AS same, bool_or(held_out) AS held, "
            "count(DISTINCT training_set) AS sets FROM training_rows GROUP BY ALL"
        )
        assert all(row["same"] for row in rows)
        assert sum(row["held"] for row in rows) == 2
        assert max(row["sets"] for row in rows) == 3

    def test_its_place_in_a_study(self, home: Home, readings: dict[str, PredictionsOrder]) -> None:
        order = order_of([(Recipe.RT, [readings["a rt"]]), (Recipe.FS1, [readings["b fs1"]])], judge=JUDGE)
        key = land_training_set(order, home.store)
        made = {"name": "", "row_count": 1, "seconds": 1.0, "versions": "{}", "host": "h"}
        made |= {"prompt_tokens": 0, "cached_tokens": 0, "generated_tokens": 0}
        units: list[dict[str, Any]] = [
            {
                **made,
                "unit_key": f"unit-{kind}",
                "kind": "traces",
                "spec": f'{{"thought": {{"model_key": "weights-{kind}"}}}}',
            }
            for kind in ("a-rt", "a-fs1", "b-fs1")
        ]
        said = {"judge": JUDGE, "predictions": [readings["a rt"].key]}
        units.append({"unit_key": "said", "kind": "verdicts", "spec": json.dumps(said), **made})
        home.store.land(
            {
                "units": units,
                "studies": [{"study_key": "s", "name": "made", "spec": "{}"}],
                "study_training_sets": [{"study_key": "s", "name": "mine", "training_set": key, "unit_key": order.key}],
            }
        )
        found = {row["unit_key"] for row in queries.units_of_study(home.store, "s")}
        assert found == {
            order.key, readings["a rt"].key, readings["b fs1"].key, "unit-a-rt", "unit-b-fs1", "said"
        }  # fmt: skip
        [row] = queries.training_quality_rows(home.store, "s")
        assert (row["name"], row["recipe"], row["kept"], row["candidates"], row["students"]) == (
            "mine",
            "mix",
            24,
            24,
            0,
        )
        assert [one["recipe"] for one in row["sources"]] == ["rt", "fs1"]
        [listed] = queries.training_rows(home.store, "s")["training_sets"]
        assert (listed["name"], listed["statistics"]["kept"]) == ("mine", 24)
        facts = training_facts(home.store, key, order.key)
        assert facts.teacher_keys == ("weights-a-rt", "weights-b-fs1")
        assert facts.recipes == {"rt": 12, "fs1": 12}
        assert (facts.recipe, facts.judge) == ("both", JUDGE)

    def test_it_is_exported_by_its_name(
        self, home: Home, readings: dict[str, PredictionsOrder], tmp_path: Path
    ) -> None:
        order = order_of([(Recipe.RT, [readings["a rt"]]), (Recipe.FS1, [readings["b fs1"]])])
        rt = order_of([(Recipe.RT, [readings["a rt"]])])
        named = {"mine": order, "rt": rt}
        home.store.land(
            {
                "studies": [{"study_key": "s", "name": "made", "spec": "{}"}],
                "study_training_sets": [
                    {
                        "study_key": "s",
                        "name": name,
                        "training_set": land_training_set(one, home.store),
                        "unit_key": one.key,
                    }
                    for name, one in named.items()
                ],
            }
        )
        study = find_study(home.store, "made")
        everything = dataset_facts(home.store, study, "training")
        assert [(config.name, config.note) for config in everything.configs] == [
            ("rt", "traces of teachers that saw the question alone"),
            ("mine", "a mix of traces: 12 rt and 12 fs1"),
        ]
        write_dataset(home.store, dataset_facts(home.store, study, "training", "mine"), tmp_path)
        assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine"]
        rows = pq.read_table(tmp_path / "data" / "mine").to_pylist()
        assert len(rows) == 24
        assert {row["recipe"] for row in rows} == {"rt", "fs1"}
        with pytest.raises(
            InputError, match="--training-set other: study made has no training set of it; it has rt, mine"
        ):
            dataset_facts(home.store, study, "training", "other")


@pytest.mark.real
class TestFolder:
    @pytest.fixture(autouse=True)
    def _no_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    @pytest.fixture
    def made(self, home: Home) -> tuple[TrainingSetOrder, str]:
        readings = [teach(home.store, "a", recipe, often) for recipe in (Recipe.RT, Recipe.FS1)]
        home.store.land({"retrievals": [retrieval(key) for key in KEYS]})
        order = order_of([(Recipe.RT, readings[:1]), (Recipe.FS1, readings[1:])])
        key = land_training_set(order, home.store)
        return order, key

    def write(self, home: Home, made: tuple[TrainingSetOrder, str]) -> Path:
        order, key = made
        return write_folder(home, order.key, key, order.set_name, order.study, "retrieval")

    def test_it_loads_as_students_read_it(self, home: Home, made: tuple[TrainingSetOrder, str]) -> None:
        _, key = made
        assert folder_missing(home, key)
        folder = self.write(home, made)
        assert folder == folder_of(home, key)
        assert not folder_missing(home, key)
        assert {path.name for path in folder.iterdir()} == {
            "train.parquet", "held_out.parquet", "README.md", STATISTICS, "factscale.json"
        }  # fmt: skip
        loaded = datasets.load_dataset(str(folder), "both")
        for split, examples in zip(("train", "held_out"), examples_of(home.store, key), strict=True):
            rows = loaded[split].to_list()
            assert [row["trace_id"] for row in rows] == [one.trace_id for one in examples]
            assert [row["thinking"] for row in rows] == [one.thinking for one in examples]
            assert {bool(row["graph"]) == (row["recipe"] == "fs1") for row in rows} == {True}
        assert list(loaded["train"][0]) == [column.name for column in COLUMNS["training"]]
        card = (folder / "README.md").read_text()
        assert "# Training sets of the study made" in card
        assert "16 traces (8 rt and 8 fs1) by a" in card
        assert "A trace was accepted where its answer matches a gold one." in card
        assert "| both: fs1 | a | 12 | 8 | 66.7 | – | – |" in card
        assert "study key" not in card
        assert json.loads((folder / STATISTICS).read_text())["kept"] == 16

    def test_what_is_gone_is_written_again(self, home: Home, made: tuple[TrainingSetOrder, str]) -> None:
        _, key = made
        folder = self.write(home, made)
        before = (folder / "train.parquet").stat().st_mtime_ns
        assert (self.write(home, made) / "train.parquet").stat().st_mtime_ns == before
        (folder / "held_out.parquet").unlink()
        assert folder_missing(home, key)
        assert pq.read_table(self.write(home, made) / "held_out.parquet").num_rows > 0

    def test_units_of_one_content_share_it(self, home: Home, made: tuple[TrainingSetOrder, str]) -> None:
        order, key = made
        other = order.model_copy(update={"spec": order.spec.model_copy(update={"max_tokens": 4096})})
        assert other.key != order.key
        assert land_training_set(other, home.store) == key
        folder = self.write(home, made)
        before = (folder / STATISTICS).stat().st_mtime_ns
        assert self.write(home, (other, key)) == folder
        assert (folder / STATISTICS).stat().st_mtime_ns == before
        assert not training_set_missing(order, home)
        assert not training_set_missing(other, home)

    def test_what_others_put_there_is_left_alone(self, home: Home, made: tuple[TrainingSetOrder, str]) -> None:
        folder = self.write(home, made)
        (folder / "notes.txt").write_text("mine")
        (folder / "train.parquet").unlink()
        with pytest.raises(InputError, match="others have put something there: move that"):
            self.write(home, made)
        assert (folder / "notes.txt").read_text() == "mine"

    def test_what_breaks_off_leaves_nothing(
        self, home: Home, made: tuple[TrainingSetOrder, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_arguments: Any) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("tasks.training_folders.write_file", full)
        with pytest.raises(OSError, match="No space left"):
            self.write(home, made)
        assert not list(home.training_sets.iterdir())
        monkeypatch.undo()
        assert (self.write(home, made) / "README.md").is_file()

    def test_the_unit_writes_it(
        self, home: Home, made: tuple[TrainingSetOrder, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FACTSCALE_HOME", str(home.folder))
        order, key = made
        assert training_sets.training_set_missing(order, home)  # landed, without its folder
        assert training_sets.training_set.fn(order) == key
        assert not training_sets.training_set_missing(order, home)


def retrieval(key: str) -> dict[str, Any]:
    known = {"snapshot": "s", "pairs": 1, "connected": 1, "paths": 1, "min_hops": 1, "truncated": 0}
    return {"retrieval_key": "retrieval", "question_key": key, "graph": "land, capital, town", **known}


class TestStatistics:
    def test_of_nothing_there_are_no_shares(self) -> None:
        counts = statistics_of([], set(), None)
        assert counts["candidates"] == counts["kept"] == 0
        assert counts["accuracy"] is counts["mean_thinking_tokens"] is counts["max_example_tokens"] is None

    @pytest.mark.real
    @pytest.mark.skipif(encoder_folder() is None, reason="the sentence encoder is not installed")
    def test_near_in_meaning_is_more_than_exact(self, home: Home) -> None:
        says = {0: "the city of Paris, France", 1: "Bread and butter", 2: "", 3: "City of Quito"}
        reading = teach(home.store, "teacher", Recipe.RT, lambda place, sample: says.get(place, CITIES[place]))
        order = order_of([(Recipe.RT, [reading])], encoder=f"minilm>={SEMANTIC_COSINE}")
        land_training_set(order, home.store)
        counts = statistics(home.store, order)
        assert counts["semantic_match"] == pytest.approx(10 / 12)
        assert near_gold([], {}) == {}

    @pytest.mark.real
    @pytest.mark.skipif(encoder_folder() is None, reason="the sentence encoder is not installed")
    def test_numbers_have_no_meaning_that_is_near(self) -> None:
        asked = Question(
            id="y", dataset="starter", split="train", text="When?", answers=(Answer(text="1990"),), answer_type="date"
        )
        seen = {
            "part": 0,
            "recipe": "rt",
            "teacher": "t",
            "source": "s",
            "question_key": "y",
            "question_id": "y",
            "sample": 0,
        }
        seen |= {"judged": None, "cut": False, "thinking": "x", "thinking_tokens": 1}
        said = [
            Candidate(**seen, trace_id="a", prediction="1991", correct=False),  # type: ignore[arg-type]
            Candidate(**seen, trace_id="b", prediction="in 1990", correct=True),  # type: ignore[arg-type]
        ]
        assert near_gold(said, {"y": asked}) == {"a": False, "b": True}
