"""Plans: what is missing, what it takes by model, and that nothing is fetched or spent for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from mini_study import ANSWER, BUDGETS, TEACH, TEST, THINK, TRAIN, mini, write

from flows.limits import limited
from flows.orders import Orders
from flows.parameters import DEFAULT_REGISTRY, Distill, Retrieve, Study
from flows.plan import as_study, check, plan
from flows.plan_models import ModelPlan
from flows.plan_text import Plan, make_plan, model_rows, shown_models, summary_lines, unit_rows
from models.embedded import default_cache
from models.placement import gpus_for
from models.prompts import judge_prompt
from models.registry import load_registry, model_key
from models.speeds import asking_speed, training_speed
from store.home import Home
from store.types import InputError
from tasks.verdicts import REPLY_TOKENS

SMALL, LARGE, TEACHER = "qwen2.5-0.5b", "qwen2.5-32b", "deepseek-r1-hosted"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture(autouse=True)
def _nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("a plan fetched something")

    monkeypatch.setattr("models.registry.download", fail)


def hub_study(**fan_out: Any) -> Study:
    """Two students of the hub, a teacher behind an API, one baseline and a judge: nothing of it is on this machine."""
    fields = mini(
        distill={"teachers": [TEACHER], "recipes": ["rt"], "held_out": 0},
        finetune={"students": [SMALL, LARGE], "run": {"gpus": 2}},
        evaluate={"settings": ["instruct", "rt"], "baselines": ["qwq-32b"], "judges": ["llama-3.3-70b"]},
    )
    return Study.model_validate(fields | {"fan_out": {"kind": "workers", **fan_out}})


def row_of(made: Plan, model: str, work: str) -> ModelPlan:
    return next(row for row in made.models if (row.model, row.work) == (model, work))


def states(made: Plan) -> dict[str, str]:
    return {unit.unit: unit.state for unit in made.units}


class TestBeforeAnythingIsThere:
    def test_every_unit_and_model_is_planned(self, home: Home) -> None:
        made = make_plan(hub_study(), home)
        assert states(made)["paths of 6 questions"] == "missing"
        assert states(made)[f"traces {TEACHER} rt starter-train"] == "missing"  # it needs no paths
        assert states(made)[f"answers {LARGE} instruct starter-test"] == "missing"
        assert states(made)[f"answers {LARGE} rt starter-test"] == "waits"
        wanted = [(TEACHER, "teacher"), (SMALL, "train"), (LARGE, "train"), (SMALL, "answers"), (LARGE, "answers")]
        assert [(row.model, row.work) for row in made.models] == [
            *wanted,
            ("qwq-32b", "answers"),
            ("llama-3.3-70b", "judge"),
        ]
        assert row_of(made, LARGE, "answers").weights == "not downloaded yet (about 61 GiB)"
        assert row_of(made, TEACHER, "teacher").weights == "behind an API"
        said = " ".join(summary_lines(made))
        assert "NOT DOWNLOADED YET, and fetched when first needed (docs/models.md): llama-3.3-70b, qwen2.5-0.5b" in said
        assert "ESTIMATED" in said
        assert "AT MOST" in said

    def test_tokens_are_an_upper_bound(self, home: Home) -> None:
        made = make_plan(hub_study(), home)
        ladder = TEST * (THINK + len(BUDGETS) * ANSWER)
        assert row_of(made, SMALL, "answers").tokens == 2 * ladder
        assert row_of(made, SMALL, "answers").expected is None
        assert row_of(made, "qwq-32b", "answers").tokens == ladder
        assert row_of(made, TEACHER, "teacher").tokens == TRAIN * (TEACH + ANSWER)
        assert made.totals.tokens == sum(row.tokens for row in made.models if row.work != "train")

    def test_hours_go_by_the_rules_of_thumb(self, home: Home) -> None:
        made = make_plan(hub_study(gpu_gib=80), home, gpu_price=2.0, gpus=4)
        row = row_of(made, LARGE, "answers")
        size = load_registry(DEFAULT_REGISTRY).entry(LARGE).parameters or 0
        assert (row.gpus, row.source, row.device) == (gpus_for(size, 80), "estimated", "cuda")
        speed = asking_speed(size, row.gpus, "cuda")
        assert row.hours == pytest.approx(row.gpus * (row.tokens / speed.generated + row.prompt / speed.read) / 3600)
        assert row.rent == pytest.approx(2.0 * row.hours)
        train = row_of(made, LARGE, "train")
        rate = training_speed(size, 2, "cuda", adapters=True, checkpointing=False)
        assert (train.gpus, train.rate) == (2.0, pytest.approx(rate))
        assert train.hours == pytest.approx(2 * train.tokens / rate / 3600)
        assert made.totals.hours == pytest.approx(sum(one.hours for one in made.models))
        assert made.totals.rent == pytest.approx(2.0 * made.totals.hours)
        assert made.totals.wall >= made.totals.hours / 4

    def test_an_api_costs_money_and_no_hours(self, home: Home) -> None:
        made = make_plan(hub_study(), home)
        row = row_of(made, TEACHER, "teacher")
        assert (row.source, row.gpus, row.hours, row.rate, row.rent) == ("API", 0.0, 0.0, None, None)
        assert row.api == pytest.approx((row.prompt * 0.70 + row.tokens * 2.50) / 1e6)
        sampled = hub_study()
        sampled = sampled.model_copy(update={"distill": sampled.distill.model_copy(update={"samples": 5})})
        assert row_of(make_plan(sampled, home), TEACHER, "teacher").prompt == 5 * row.prompt  # each request is billed
        assert "providers at most (prompts by their characters" in " ".join(summary_lines(made))
        assert made.totals.api == row.api
        assert made.totals.rent is None

    def test_models_that_the_gpus_do_not_hold_are_named(self, home: Home) -> None:
        made = make_plan(hub_study(gpu_gib=24), home, gpus=2)
        assert set(made.totals.too_large) == {LARGE, "qwq-32b", "llama-3.3-70b"}
        assert "too few for" in " ".join(summary_lines(made))

    def test_small_models_share_a_gpu_where_ray_may(self, home: Home) -> None:
        whole = make_plan(hub_study(), home)
        shared = make_plan(hub_study(kind="ray", share_gpus=True), home)
        assert row_of(shared, SMALL, "answers").gpus == 0.125
        assert row_of(shared, SMALL, "answers").hours == pytest.approx(row_of(whole, SMALL, "answers").hours)
        assert row_of(shared, SMALL, "answers").longest > row_of(whole, SMALL, "answers").longest

    def test_experts_that_sleep_cost_no_time(self, home: Home) -> None:
        fields = mini(distill={"teachers": ["deepseek-r1"]}) | {"fan_out": {"kind": "workers"}}
        row = row_of(make_plan(Study.model_validate(fields), home), "deepseek-r1", "teacher")
        assert row.gpus == 32.0
        assert row.rate == pytest.approx(asking_speed(37_000_000_000, 32, "cuda").generated)


class TestBeforeTheDataIsHere:
    @pytest.fixture(autouse=True)
    def _no_benchmark_is_fetched(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FACTSCALE_CACHE", str(tmp_path / "cache"))

    def study(self, **webqsp: Any) -> Study:
        sets = [{"dataset": "webqsp", "split": "test", **webqsp}, {"split": "test", "limit": TEST}]
        fields = mini(
            retrieve={"endpoint": "mine", "mid_map": "nowhere.tsv.gz"},
            evaluate={"datasets": sets, "judges": [{"model": "smollm2-135m"}]},
        )
        return Study.model_validate(fields)

    def test_published_numbers_stand_in_and_are_said(self, home: Home) -> None:
        made = make_plan(self.study(), home)
        rows = {unit.unit: unit.rows for unit in made.units}
        assert rows["answers smollm2-135m instruct webqsp-test"] == 1639 * len(BUDGETS)
        assert rows["answers smollm2-135m fs1 webqsp-test"] == 1639 * len(BUDGETS)
        assert rows["answers smollm2-135m instruct starter-test"] == TEST * len(BUDGETS)
        assert rows["verdicts smollm2-135m contains"] == 2 * (1639 + TEST) * len(BUDGETS)
        assert states(made)["paths of 6 questions"] == "missing"
        assert summary_lines(made)[-4:] == [
            "NOT HERE YET, so stood in for; a run needs it first:",
            "- graph 'mine', so all paths count as missing: factscale kg load FILES --name mine",
            "- the table of Freebase ids nowhere.tsv.gz, so all paths count as missing: docs/retrieval.md says how it is made; "
            "or leave retrieve.mid_map out",
            "- webqsp-test, counted with the 1,639 questions that are published: factscale data get webqsp --split test",
        ]

    def test_a_limit_holds_for_what_stands_in(self, home: Home) -> None:
        made = make_plan(self.study(limit=7), home)
        rows = {unit.unit: unit.rows for unit in made.units}
        assert rows["answers smollm2-135m instruct webqsp-test"] == 7 * len(BUDGETS)
        assert made.absent[-1].what == "webqsp-test, counted with 7 of the 1,639 questions that are published"

    def test_nothing_stands_in_for_what_is_here(self, home: Home) -> None:
        made = make_plan(Study.model_validate(mini()), home)
        assert made.absent == ()
        assert not any("NOT HERE" in line for line in summary_lines(made))

    def test_a_run_is_refused(self, home: Home) -> None:
        with pytest.raises(InputError, match="no graph 'mine' is loaded"):
            check(self.study(), home)

    @pytest.mark.parametrize(
        ("chosen", "told"),
        [
            ({"split": "train"}, "test"),
            ({"path": "nowhere.json"}, "nowhere.json"),
            ({"dataset": "webqps", "path": "nowhere.json"}, "webqps"),
        ],
    )
    def test_a_set_whose_size_is_not_known_is_refused(self, home: Home, chosen: dict[str, Any], told: str) -> None:
        sets = [{"dataset": "simpleqa", **chosen}]
        with pytest.raises(InputError, match=told):
            make_plan(Study.model_validate(mini(evaluate={"datasets": sets})), home)


class TestServed:
    def test_students_of_a_served_base_are_loaded_and_trained_here(self, home: Home) -> None:
        served = {"servers": [{"model": "smollm2-135m", "url": "http://127.0.0.1:9/v1"}]}
        made = make_plan(Study.model_validate(mini(generation=served) | {"fan_out": {"kind": "workers"}}), home)
        rows = {(row.work, row.source): row for row in made.models if row.model == "smollm2-135m"}
        assert list(rows) == [
            ("teacher", "server"),
            ("train", "estimated"),
            ("answers", "server"),
            ("answers", "estimated"),
        ]
        ladder = TEST * (THINK + len(BUDGETS) * ANSWER)
        assert [(row.units, row.tokens) for row in rows.values()][2:] == [(1, ladder), (1, ladder)]
        for (_, source), row in rows.items():
            assert (row.gpus, row.hours > 0) == ((0.0, False) if source == "server" else (1.0, True))
            assert row.weights == ("on a server" if source == "server" else "come with factscale")

    def test_dev_questions_of_a_served_base_are_asked_there(self, home: Home) -> None:
        served = {"servers": [{"model": "smollm2-135m", "url": "http://127.0.0.1:9/v1"}]}
        fields = mini(generation=served, distill={"held_out": 0.5}, finetune={"dev": {"base": True}})
        made = make_plan(Study.model_validate(fields | {"fan_out": {"kind": "workers"}}), home, "finetune")
        assert [(row.source, row.hours > 0) for row in made.models if row.work == "dev"] == [
            ("server", False),
            ("estimated", True),
        ]


class TestJudges:
    """A judge behind an API on answers of a local and a hosted model."""

    @pytest.fixture
    def registry(self, tmp_path: Path) -> str:
        server = {"url": "http://127.0.0.1:9/v1", "model": "m", "api": "chat"}
        hosted = {"source": "hosted", "context_length": 8192, "server": server, "prices": {"input": 1, "output": 2}}
        local = {"alias": "mine", "source": "embedded", "context_length": 8192, "parameters": 134515008}
        file = tmp_path / "models.yaml"
        entries = [local, *({"alias": name, **hosted} for name in ("asked", "judge"))]
        file.write_text(yaml.safe_dump({"models": entries}), encoding="utf-8")
        return str(file)

    def judged(self, registry: str, home: Home, baselines: Sequence[str], retries: int = 0) -> ModelPlan:
        evaluate = {
            "settings": ["instruct"],
            "baselines": baselines,
            "judges": [{"model": "judge", "retries": retries}],
        }
        fields = mini(evaluate=evaluate, finetune={"students": ["mine"]}, distill={"teachers": ["mine"]})
        fields["retrieve"]["tokenizer"] = "mine"
        return row_of(make_plan(Study.model_validate(fields | {"registry": registry}), home), "judge", "judge")

    def test_a_hosted_model_is_judged_at_its_one_budget(self, home: Home, registry: str) -> None:
        alone, both = (self.judged(registry, home, names) for names in ([], ["asked"]))
        assert alone.tokens == TEST * len(BUDGETS) * REPLY_TOKENS
        assert both.tokens == TEST * (len(BUDGETS) + 1) * REPLY_TOKENS

    def test_every_retry_and_the_longest_predictions_are_in_the_bound(self, home: Home, registry: str) -> None:
        once, thrice = (self.judged(registry, home, [], retries) for retries in (0, 2))
        assert thrice.tokens == 3 * once.tokens
        assert once.api is not None
        assert thrice.api is not None
        assert thrice.api > 3 * once.api  # a retry shows the invalid reply as well
        questions = Study.model_validate(mini()).evaluate.datasets[0].load()
        golds = sum(len(judge_prompt(q.answers[0].forms, "", "contains")[0].content) // 4 for q in questions)
        assert once.api >= (len(BUDGETS) * (golds + TEST * ANSWER) + 2 * once.tokens) / 1e6

    def test_one_that_waits_is_measured_too(self, home: Home) -> None:
        fields = mini(evaluate={"judges": ["smollm2-135m"]}, distill={"judge": "smollm2-135m"})
        study = Study.model_validate(fields | {"fan_out": {"kind": "workers"}})
        first = make_plan(study, home)
        names = {unit.judge for unit in first.units if unit.work == "judge"}
        assert len(names) == 1
        assert row_of(first, "smollm2-135m", "judge").source == "estimated"
        counts = dict.fromkeys(("prompt_tokens", "cached_tokens", "generated_tokens"), 1)
        unit = {
            "unit_key": "u",
            "kind": "verdicts",
            "name": "u",
            "host": "h",
            "row_count": 30,
            "seconds": 10.0,
            **counts,
        }
        home.store.land(
            {"units": [unit | {"spec": json.dumps({"judge": names.pop()}), "versions": json.dumps({"device": "cuda"})}]}
        )
        made = make_plan(study, home)
        assert {unit.state for unit in made.units if unit.work == "judge"} == {"waits"}
        row = row_of(made, "smollm2-135m", "judge")
        assert (row.source, row.rate) == ("measured", 3.0)
        calls = (TRAIN + 2 * TEST * len(BUDGETS)) * 3  # every one asked again twice, at most
        assert row.hours == pytest.approx(calls / 3.0 / 3600)


class TestLocal:
    """Fan-out `local`: units of this machine, one after another."""

    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_further_gpus_shorten_nothing(self, home: Home, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
        monkeypatch.setattr("flows.plan_models.devices_here", lambda: device)
        one, many = (make_plan(Study.model_validate(mini()), home, gpus=gpus).totals for gpus in (1, 8))
        assert one.wall == many.wall == pytest.approx(one.hours)
        assert one.wall > 0

    def test_gpus_are_those_that_its_engine_takes(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flows.plan_models.devices_here", lambda: "cuda")
        fields = mini(evaluate={"settings": ["instruct"], "baselines": ["qwq-32b"]})
        made = make_plan(Study.model_validate(fields), home, gpus=8)
        assert row_of(made, "qwq-32b", "answers").gpus == 1.0
        assert made.totals.too_large == ("qwq-32b",)
        assert "one unit after another (fan_out: local)" in " ".join(summary_lines(made))
        assert "do not hold qwq-32b: raise generation.tensor_parallel" in " ".join(summary_lines(made))
        fields["generation"]["tensor_parallel"] = 2
        fitting = make_plan(Study.model_validate(fields), home)
        assert (row_of(fitting, "qwq-32b", "answers").gpus, fitting.totals.too_large) == (2.0, ())


class TestMeasured:
    @pytest.fixture(autouse=True)
    def _here_is_a_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flows.plan_models.devices_here", lambda: "cpu")

    def land(self, home: Home, device: str) -> None:
        spec = {
            "thought": {"model_key": model_key(load_registry(DEFAULT_REGISTRY).entry("smollm2-135m"), default_cache())}
        }
        counts = dict.fromkeys(("row_count", "prompt_tokens", "cached_tokens"), 1)
        unit = {"unit_key": "u", "kind": "traces", "name": "u", "host": "h", "spec": json.dumps(spec), **counts}
        made = {**unit, "versions": json.dumps({"device": device}), "seconds": 10.0, "generated_tokens": 420}
        shared = {"thought_key": "k", "model": "smollm2-135m", "dataset": "d", "question_id": "q", "prompt_key": "p"}
        sizes = {"prompt_tokens": 50, "cached_tokens": 0}
        thought = {**shared, **sizes, "thought_id": "t", "sample": 0, "seed": 1, "ended": "stop", "thinking_tokens": 4}
        trace = {
            **shared, **sizes, "thought_id": "t", "trace_id": "r", "answer_key": "a", "sample": 0, "thinking_tokens": 4,
            "thinking_chars": 9, "cut": False, "forced": False, "finish": "stop", "answer_tokens": 3, "shared": False,
            "self_contained": False,
        }  # fmt: skip
        home.store.land({"units": [made], "thoughts": [{**thought, "generated_tokens": 5}], "traces": [trace]})

    def test_the_store_knows_better(self, home: Home) -> None:
        study = Study.model_validate(mini())
        guessed = row_of(make_plan(study, home), "smollm2-135m", "answers")
        assert (guessed.source, guessed.expected) == ("estimated", None)
        self.land(home, "cpu")
        row = row_of(make_plan(study, home), "smollm2-135m", "answers")
        assert (row.source, row.measured, row.rate, row.gpus) == ("measured", 1, 42.0, 0.0)
        assert row.expected == 2 * TEST * (5 + len(BUDGETS) * 3)
        assert row.hours == pytest.approx(row.expected / 42.0 / 3600)
        assert row.tokens == guessed.tokens

    def test_another_kind_of_device_says_nothing(self, home: Home) -> None:
        self.land(home, "cuda")
        row = row_of(make_plan(Study.model_validate(mini()), home), "smollm2-135m", "answers")
        assert row.source == "estimated"
        assert "hours here" in shown_models([row])[0]


class TestStages:
    def names(self, made: Plan) -> Sequence[str]:
        return [unit.work for unit in made.units]

    def test_one_stage_alone(self, home: Home) -> None:
        study = Study.model_validate(mini())
        assert self.names(make_plan(study, home, "retrieve")) == ["paths"]
        assert self.names(make_plan(study, home, "distill")) == ["teacher", "training set"]
        assert self.names(make_plan(study, home, "finetune")) == ["train"]
        assert self.names(make_plan(study, home, "evaluate")) == ["answers", "answers", "overlap"]
        assert self.names(make_plan(study, home, "report")) == []
        assert len(make_plan(study, home).units) == len(make_plan(study, home, "study").units) == 7

    def test_parameters_of_an_earlier_flow_say_nothing_of_the_later_ones(self, home: Home, tmp_path: Path) -> None:
        entry = {"alias": "mine", "source": "embedded", "context_length": 8192, "parameters": 134515008}
        registry = tmp_path / "models.yaml"
        registry.write_text(yaml.safe_dump({"models": [entry]}), encoding="utf-8")
        fields = {"registry": str(registry), "train": {"limit": 3, "split": "train"}, "retrieve": {"tokenizer": "mine"}}
        only = Retrieve.model_validate(fields)
        assert [row["unit"] for row in plan(as_study(only), home, "retrieve")] == ["paths of 3 questions"]
        taught = Distill.model_validate({**fields, "distill": {"teachers": ["mine"], "recipes": ["fs1"]}})
        assert [row["unit"] for row in plan(as_study(taught), home, "distill")] == [
            "traces mine fs1",
            "training set fs1",
        ]

    def test_rows_have_the_same_columns(self, home: Home) -> None:
        made = make_plan(hub_study(), home)
        assert len({tuple(row) for row in unit_rows(made.units)}) == 1
        assert len({tuple(row) for row in model_rows(made.models)}) == 1
        json.dumps([unit_rows(made.units), model_rows(made.models)], allow_nan=False)


class TestLimited:
    def test_a_trial_has_a_name_of_its_own_and_keys_of_the_whole(self, home: Home) -> None:
        study = Study.model_validate(mini())
        few = limited(study, 2)
        assert few.name == "mini-first-2"
        assert limited(few, 2).name == "mini-first-2"
        assert limited(study, None) is study
        assert {chosen.limit for chosen in (few.train, *few.evaluate.datasets)} == {2}
        whole, part = (Orders(one, home) for one in (study, few))
        names = [orders.run_names()[0] for orders in (whole, part)]
        specs = [orders.run(*name).traces.spec for orders, name in zip((whole, part), names, strict=True)]
        assert specs[0].thought == specs[1].thought  # so rows are shared
        assert whole.retrieval == part.retrieval

    def test_a_limit_above_the_studys_changes_no_set(self) -> None:
        study = Study.model_validate(mini())
        assert limited(study, 1000).evaluate == study.evaluate


class TestCommands:
    def call(self, home: Home, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
        from flows.cli import _run, app

        monkeypatch.setenv("FACTSCALE_HOME", str(home.folder))
        monkeypatch.setattr("sys.argv", ["factscale", *arguments])
        return _run(app)

    def test_a_plan_as_json_by_model(
        self, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = str(write(tmp_path, mini()))
        assert (
            self.call(home, monkeypatch, "study", "plan", file, "--by", "model", "--format", "json", "--limit", "2")
            == 0
        )
        said = capsys.readouterr()
        rows = json.loads(said.out)
        assert said.err == ""
        assert {row["role"]: row["to_do"] for row in rows} == {"teaches": 1, "is trained": 1, "answers": 2}

    def test_what_is_not_here_is_said_beside_a_plan_for_programs(
        self, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = str(write(tmp_path, mini(retrieve={"endpoint": "mine"})))
        assert self.call(home, monkeypatch, "study", "plan", file, "--format", "json") == 0
        said = capsys.readouterr()
        assert len(json.loads(said.out)) == 7
        assert "- graph 'mine'" in said.err

    def test_a_dry_run_does_nothing(
        self, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = str(write(tmp_path, mini()))
        assert self.call(home, monkeypatch, "study", "run", file, "--dry-run", "--limit", "3") == 0
        said = capsys.readouterr().out
        assert "Plan of mini-first-3: units" in said
        assert "paths of 3 questions" in said
        assert self.call(home, monkeypatch, "nightly", "run", file, "--dry-run", "--train") == 0
        assert "Plan of mini: units" in capsys.readouterr().out
        assert home.store.query("SELECT count(*) AS n FROM units")[0]["n"] == 0
        assert not home.reports.exists()
