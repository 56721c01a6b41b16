"""Cards of what is published: the README.md of a dataset or a model in the form of the Hugging Face hub.

Pure functions from facts to text, so that a card can be shown in a report without an export. The YAML in front is what the
hub and ``datasets.load_dataset`` read; the Markdown after it is for people. Names and texts that come from models and
benchmarks are made inert; a licence stands in a card only if somebody gave it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.card_columns import COLUMNS
from eval.card_facts import DatasetFacts, ExampleFacts, ModelFacts, ResultFacts, TrainingFacts
from eval.card_markdown import TERMS, card, code, fenced, plain, provenance, sources, table
from eval.findings import counted, listed

_PAPER = "[arXiv 2505.11140](https://arxiv.org/abs/2505.11140)"
_MADE = f"Made by factscale, an open pipeline for the study of {_PAPER}."
_SHOWN = 1200  # characters of a text that a card shows

_TITLES = {"training": "Training sets", "traces": "Evaluated traces", "results": "Results"}
_INTROS = {
    "training": "Reasoning traces of teacher models whose answers are right: what the students of a study were trained on.",
    "traces": "Every evaluated trace of a study: a model's thought on a question, cut at a budget of thinking tokens, the answer "
    "after it, and the verdicts on it.",
    "results": "The numbers of a study: its leaderboard, and the scores of every question that it is made of.",
}
_TEST_ANSWERS = "It holds gold answers of test questions: keep it out of training data."
_SCORES = (
    "`correct` is the verdict of a matcher, which can miss a right answer in unusual words and can be taken in by a wrong one "
    "that resembles a gold answer; judges are models, and err too."
)
_LIMITS = {
    "training": "A trace is here because its final answer was taken for a gold answer; nobody has checked the steps before it. "
    "The text was written by language models and is not filtered otherwise. No question stands in both splits. Facts shown to "
    "teachers are those of one snapshot of a knowledge graph.",
    "traces": f"The text was written by language models, wrong and offensive text included. {_SCORES} {_TEST_ANSWERS}",
    "results": f"{_SCORES} Samples of a question are not independent: the standard error is over questions. {_TEST_ANSWERS}",
}
_USE = (
    "Meant for research on what longer reasoning, and training on knowledge-graph paths, change in factual accuracy. It knows "
    "what its base model knows: it is asked without paths, it can state wrong facts with confidence, and its reasoning need not "
    "be what its answer rests on. It has no training for safety beyond that of its base. Do not rely on it where a wrong "
    "answer does harm."
)
_RECIPES = {
    "rt": "trained on reasoning traces of a teacher that saw the question alone",
    "fs1": "trained on reasoning traces of a teacher that saw the question and its knowledge-graph paths",
}


def dataset_card(facts: DatasetFacts) -> str:
    """The README.md of a dataset export, whose files lie in ``data/CONFIGURATION/SPLIT-*.parquet``."""
    splits = [(one, split) for one in facts.configs for split in one.splits]
    return card(
        _dataset_front(facts),
        [
            f"# {_TITLES[facts.kind]} of the study {plain(facts.study)}",
            f"{_INTROS[facts.kind]} {_MADE}",
            "## Contents",
            table(
                ("configuration", "split", "rows", "questions", "tokens", "what it holds"),
                [
                    (c.name, s.name, f"{s.rows:,}", f"{s.questions:,}", f"{s.tokens:,}" if s.tokens else "–", c.note)
                    for c, s in splits
                ],
            ),
            fenced(_dataset_code(facts), "python"),
            *_columns(facts),
            *_dataset_making(facts),
            *_example(facts.example),
            *sources(facts.benchmarks, facts.license),
            "## Limits",
            _LIMITS[facts.kind],
            *provenance(
                {"study": facts.study} | ({"study key": facts.study_key} if facts.study_key else {}), facts.versions
            ),
        ],
    )


def model_card(facts: ModelFacts) -> str:
    """The README.md of a student: where it comes from, how it was trained, what it can do, how it is loaded."""
    base = plain(facts.base_id or facts.base)
    what = f"A LoRA adapter for {base}" if facts.method == "lora" else f"{base}, fine-tuned in full"
    return card(
        _model_front(facts),
        [
            f"# {plain(facts.name)}",
            f"{what}: {_taught(facts.training)}. It thinks, then answers. {_MADE}",
            "## Load it",
            fenced(_model_code(facts), "python"),
            *_base(facts),
            *_checks(facts),
            *_results(facts),
            *_training(facts),
            *_lineage(facts),
            "## Use and limits",
            _USE,
            *sources(facts.benchmarks, facts.license, base=facts.base_id or facts.base),
            *provenance({"student key": facts.key, "base key": facts.base_key}, facts.versions),
            table(("file", "sha256"), sorted(facts.weights.items())),
        ],
    )


def _dataset_front(facts: DatasetFacts) -> dict[str, Any]:
    front: dict[str, Any] = {"pretty_name": f"{_TITLES[facts.kind]} of the study {facts.study}"}
    front |= {"license": facts.license} if facts.license else {}
    front |= {"language": ["en"]} if {one.dataset for one in facts.benchmarks} <= TERMS.keys() else {}
    rows = sum(split.rows for one in facts.configs for split in one.splits)
    front["task_categories"] = ["question-answering"]
    front["tags"] = ["factscale", "reasoning", "factuality", "knowledge-graph"]
    front["size_categories"] = [_size(rows)]
    front["configs"] = [
        {
            "config_name": one.name,
            "data_files": [
                {"split": s.name, "path": s.file or f"data/{one.name}/{s.name}-*.parquet"} for s in one.splits
            ],
        }
        for one in facts.configs
    ]
    return front


def _model_front(facts: ModelFacts) -> dict[str, Any]:
    lora = facts.method == "lora"
    front: dict[str, Any] = {"license": facts.license} if facts.license else {}
    if facts.base_id:
        front |= {"base_model": facts.base_id, "base_model_relation": "adapter" if lora else "finetune"}
    front |= {"library_name": "peft" if lora else "transformers", "pipeline_tag": "text-generation"}
    front["tags"] = ["factscale", "reasoning", "factuality", *([] if facts.training.files else [facts.training.recipe])]
    return front


def _size(rows: int) -> str:
    """The hub's size category."""
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
    return next((name for place, name in enumerate(names) if rows < 10 ** (place + 3)), "n>1B")


def _dataset_code(facts: DatasetFacts) -> str:
    first = facts.configs[0]
    names = ", ".join(repr(one.name) for one in facts.configs)
    return (
        "from datasets import load_dataset\n\n"
        f"# {names}; the folder or the hub id of this dataset\n"
        f"rows = load_dataset(FOLDER_OR_ID, {first.name!r}, split={first.splits[0].name!r})"
    )


def _columns(facts: DatasetFacts) -> list[str]:
    named = [one.name for one in facts.configs] if facts.kind == "results" else [facts.kind]
    parts = ["## Columns"]
    for name in named:
        parts += [f"Of `{name}`:"] if len(named) > 1 else []
        parts.append(
            table(("column", "meaning"), [(f"`{column}`", meaning) for column, meaning in COLUMNS[name]], trusted=(0,))
        )
    return parts


def _dataset_making(facts: DatasetFacts) -> list[str]:
    if facts.kind == "training":
        return ["## How it was made", *(_made(one) for one in facts.training), *_quality(facts.training)]
    judges = [f"{plain(one.model)} (question `{code(one.question)}`, id `{code(one.judge)}`)" for one in facts.judges]
    return [
        "## How it was scored",
        f"Answers were read and matched by {listed([f'`{code(name)}`' for name in facts.scorers])}. "
        + (f"Judges: {listed(judges)}. " if judges else "No model judged them. ")
        + _overlap(facts.compared),
    ]


def _taught(one: TrainingFacts) -> str:
    """Of what it is a student."""
    if one.files:
        return "trained on examples that were read from files"
    if one.recipe in _RECIPES:
        return f"a student of the recipe `{code(one.recipe)}`, {_RECIPES[one.recipe]}"
    return f"a student of the mix `{code(one.recipe)}` of teachers' reasoning traces"


def _made(one: TrainingFacts) -> str:
    if one.files:
        named = listed([f"`{code(file)}` (sha256 `{hash_[:16]}`)" for file, hash_ in sorted(one.files.items())])
        by = f" by {listed([plain(name) for name in one.teachers])}" if one.teachers else ""
        return (
            f"**{plain(one.recipe)}** (`{code(one.training_set)}`): {counted(one.rows, 'example')}{by} on "
            f"{counted(one.questions, 'question')}, {one.held_out:,} of them held out of training, from {named}."
        )
    teachers = listed([plain(name) for name in one.teachers])
    weights = f" ({listed([f'`{code(key)}`' for key in one.teacher_keys])})" if one.teacher_keys else ""
    mixed = [f"{count:,} {recipe}" for recipe, count in one.recipes.items()] if len(one.recipes) > 1 else []
    told = [
        f"**{plain(one.recipe)}** (`{code(one.training_set)}`): {counted(one.rows, 'trace')}"
        f"{f' ({listed(mixed)})' if mixed else ''} by {teachers}{weights}"
    ]
    told[0] += f" on {counted(one.questions, 'question')}, {one.held_out:,} of them held out of training."
    if one.candidates is not None:
        right = "" if one.accuracy is None else f", of which {100 * one.accuracy:.1f} % were right"
        told.append(f"They were chosen from {counted(one.candidates, 'trace')}{right}.")
    if one.accept is not None:
        told.append(
            _ACCEPTED[one.accept] + (f" (`{code(one.judge)}`)." if one.judge and one.accept != "exact" else ".")
        )
    if one.max_tokens is not None:
        told.append(f"No example has more than {one.max_tokens:,} tokens.")
    if one.dropped:
        counts = [f"{plain(reason)} {number:,}" for reason, number in sorted(one.dropped.items())]
        told.append(f"Left out: {', '.join(counts)}.")
    if one.mean_thinking_tokens is not None:
        told.append(f"The candidates' thoughts have {one.mean_thinking_tokens:,.0f} tokens in the mean.")
    return " ".join(told)


_ACCEPTED = {
    "exact": "A trace was accepted where its answer matches a gold one",
    "judge": "A trace was accepted where a judge took its answer for a gold one",
    "both": "A trace was accepted where its answer matches a gold one and a judge agrees",
}


def _quality(sets: Sequence[TrainingFacts]) -> list[str]:
    """What the teachers' traces were worth: a row a set, and one for each recipe and teacher where there are several."""
    rows = []
    for one in sets:
        sources = one.statistics.get("sources", ())
        rows += [_quality_row(one.recipe, "all", one.statistics)] if one.statistics.get("candidates") else []
        if len(sources) > 1:
            rows += [_quality_row(f"{one.recipe}: {s['recipe']}", s["teacher"], s) for s in sources]
    if not rows:
        return []
    heads = (
        "set",
        "teacher",
        "traces",
        "kept",
        "right, %",
        "near in meaning, %",
        "right by judge, %",
        "thinking tokens",
    )
    return [
        "Of all the teachers' traces, before any was left out; a trace without an answer counts as wrong. Thinking tokens are "
        "the mean, those of the kept traces, and the longest kept example with prompt and answer, as a student reads it.",
        table((*heads, "of kept", "longest example"), rows),
    ]


def _quality_row(name: str, teacher: str, known: Mapping[str, Any]) -> tuple[str, ...]:
    def number(field: str) -> str:
        value = known.get(field)
        return "–" if value is None else f"{value:,.0f}"

    shares = [_share(known.get(field)) for field in ("accuracy", "semantic_match", "judge_accuracy")]
    lengths = ("mean_thinking_tokens", "mean_kept_thinking_tokens", "max_example_tokens")
    return (name, teacher, number("candidates"), number("kept"), *shares, *map(number, lengths))


def _example(one: ExampleFacts | None) -> list[str]:
    if one is None:
        return []
    text = f"Question: {_cut(one.question)}\n\nThought: {_cut(one.thinking)}\n\nAnswer: {_cut(one.answer)}"
    return ["## An example", f"A row of `{code(one.config)}`, shortened:", fenced(text, "text")]


def _base(facts: ModelFacts) -> list[str]:
    if facts.base_id:
        page = f"[its page](https://huggingface.co/{facts.base_id})"
        return [
            f"The base is {plain(facts.base_id)} at revision `{code(facts.base_revision or 'main')}`; {page} names its licence."
        ]
    terms = f" Its licence is `{code(facts.base_license)}`." if facts.base_license else ""
    embedded = facts.base_key.startswith("embedded:")
    where = (
        "`python -m models.embedded` of factscale prints its folder"
        if embedded
        else "take the folder that it came from"
    )
    need = f"The base, {plain(facts.base)}, has no name on the hub (`{code(facts.base_key)}`): {where}."
    return [
        (need if facts.method == "lora" else f"The base, {plain(facts.base)}, is `{code(facts.base_key)}`.") + terms
    ]


def _model_code(facts: ModelFacts) -> str:
    base, revision = facts.base_id or "FOLDER_OF_THE_BASE", facts.base_revision
    pinned = f", revision={revision!r}" if facts.base_id and revision else ""
    load = (
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        "student = FOLDER_OR_ID  # of this model\n"
        f"base = AutoModelForCausalLM.from_pretrained({base!r}{pinned})\n"
        "model = PeftModel.from_pretrained(base, student)\n"
        if facts.method == "lora"
        else "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        "student = FOLDER_OR_ID  # of this model\nmodel = AutoModelForCausalLM.from_pretrained(student)\n"
    )
    return (
        f"{load}tokenizer = AutoTokenizer.from_pretrained(student)\n\n"
        'chat = [{"role": "user", "content": "Who wrote Hamlet? Put your final answer in \\\\boxed{}."}]\n'
        "prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)\n"
        f"prompt += {facts.think_open!r}  # it thinks first\n"
        'inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)\n'
        "reply = model.generate(**inputs, max_new_tokens=512)\n"
        'print(tokenizer.decode(reply[0, inputs["input_ids"].shape[1] :]))\n'
        f"# what it was trained to write: the thought, then {facts.think_close!r}, then {facts.answer_open!r} and the answer"
    )


def _checks(facts: ModelFacts) -> list[str]:
    if not facts.checks:
        return []
    rows = [
        (
            one.dataset,
            f"{one.n:,}",
            f"{_share(one.accuracy)} ({100 * one.low:.1f}–{100 * one.high:.1f})",
            _share(one.base_accuracy),
            _share(one.boxed),
            _share(one.base_boxed),
        )
        for one in facts.checks
    ]
    heads = ("dev questions", "n", "accuracy, % (95 % interval)", "of the base", "answers in a box, %", "of the base")
    return ["## On dev questions", "Asked once each, greedily; it was not trained on them.", table(heads, rows)]


def _results(facts: ModelFacts) -> list[str]:
    if facts.training.files:
        return []
    if not facts.results:
        return ["## Results", "No study in this store has asked it yet."]
    rows = [
        (
            one.dataset,
            one.setting,
            "none" if one.budget is None else f"{one.budget:,}",
            f"{one.n:,}",
            _share(one.accuracy, one.standard_error),
            *_clean(one, facts.compared),
            f"{one.cut:,} of {one.traces:,}",
            f"{one.unparsed + one.refused:,}",
            f"{one.missing:,}",
        )
        for one in facts.results
    ]
    heads = (
        "dataset",
        "setting",
        "budget",
        "n",
        "accuracy ± SE, %",
        "n clean",
        "accuracy clean, %",
        "flagged",
        "cut",
        "no answer",
    )
    return [
        "## Results",
        f"In the study {plain(facts.study or '')} (`{code(facts.study_key or '')}`): this student (setting "
        f"`{code(facts.training.recipe)}`), and its base model where it was asked as it is. n counts questions; the budget is of "
        "thinking tokens; the standard error is over questions. Traces without an answer that can be read count as wrong; "
        f"missing ones never landed and are left out. {_overlap(facts.compared)}",
        table((*heads, "missing"), rows),
    ]


def _training(facts: ModelFacts) -> list[str]:
    before, after = (f"{one:.3f}" if one is not None else "–" for one in (facts.held_out_before, facts.held_out_after))
    dropped = [f"{plain(reason)} {number:,}" for reason, number in sorted(facts.dropped.items()) if number]
    rows = [(name, str(value)) for name, value in facts.hyperparameters.items() if value is not None]
    return [
        "## Training",
        _made(facts.training),
        f"{counted(facts.examples, 'example')} were learned in {counted(facts.steps, 'step')} ({facts.tokens:,} tokens, "
        f"{facts.seconds:,.0f} s on {plain(facts.device)}, {plain(facts.precision)}), the loss on the completion alone"
        + (f"; dropped: {', '.join(dropped)}" if dropped else "")
        + f". Loss on {counted(facts.held_out_examples, 'held-out example')}: {before} before, {after} after (nats a token).",
        table(("hyperparameter", "value"), rows),
    ]


def _lineage(facts: ModelFacts) -> list[str]:
    named = f"training set `{code(facts.training.training_set)}` → student `{code(facts.key)}`"
    which = facts.training.training_set[:12]
    again = (
        f"`factscale train {code(which)} --student {code(facts.base)}` with the hyperparameters above makes it again."
    )
    if facts.training.files:
        again = f"`factscale train FILES --student {code(facts.base)}` with the hyperparameters above makes it again."
        return ["## Lineage", f"Files → {named}. {again}"]
    told = [
        "## Lineage",
        f"Path → trace → {named}. `factscale db query` shows every step in the view `lineage`. {again}",
    ]
    if facts.chain is not None:
        one = facts.chain
        text = "\n".join((*one.path, f"-> question {one.dataset} {one.question_id}", f"-> trace {one.trace}"))
        text += f"\n-> row {one.position} of training set {facts.training.training_set}\n-> student {facts.key}"
        told += ["An example:", fenced(text, "text")]
    return told


def _clean(one: ResultFacts, compared: bool) -> tuple[str, str, str]:
    """Clean questions, the accuracy on them, flagged questions."""
    if not compared:
        return "–", "–", "–"
    return f"{one.n_clean:,}", _share(one.accuracy_clean), f"{one.n - one.n_clean:,}"


def _overlap(compared: bool) -> str:
    if not compared:
        return "These questions were not compared with those of training, so that none is flagged."
    return "Flagged questions overlap with what students were trained on; clean leaves them out."


def _share(value: float | None, error: float | None = None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}" + ("" if error is None else f" ± {100 * error:.1f}")


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " …"
