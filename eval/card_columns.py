"""The columns of published datasets and what they mean, in the order of the files; a card prints them."""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """A column and its meaning."""

    name: str
    meaning: str


_QUESTION = (
    Column("dataset", "the benchmark of the question"),
    Column("question_id", "its id there"),
    Column("question", "its text"),
    Column("answer_type", "entity, number, date, boolean or text"),
    Column("hops", "relations between question and answer; null: unknown"),
    Column("gold", "gold answers (text, Wikidata id, aliases); any one of them is right"),
)
_ASKED = (
    Column("model", "who answered, as tables call it: the base's alias, with mix and variant of several students"),
    Column("base", "the alias alone"),
    Column("trained_on", "the student's training set: a recipe's, or a mix by its name; null: a model as it is"),
    Column("variant", "of the student in a sweep; empty: there is none"),
    Column("role", "student or baseline"),
    Column(
        "setting", "instruct, cot (asked to think step by step), rt or fs1 (students of that recipe), mix (of several)"
    ),
)
_BUDGET = Column("budget", "thinking tokens at most; null: no limit")

COLUMNS: dict[str, tuple[Column, ...]] = {
    "training": (
        Column("messages", "what the student is asked: role and content of each turn"),
        Column("thinking", "the teacher's thought, which the student learns"),
        Column("answer", "the answer that was read from the teacher's reply, which the student learns"),
        *_QUESTION,
        Column("recipe", "rt: the teacher saw the question alone; fs1: its knowledge-graph paths too"),
        Column("teacher", "the model that thought"),
        Column("teacher_messages", "what the teacher was asked"),
        Column("graph", "the linearised paths of the question, one triple a line; null for rt"),
        Column("teacher_answer", "the teacher's whole answer, after its thought"),
        Column("sample", "index among the teacher's traces of the question"),
        Column("prompt_tokens", "of the teacher's prompt"),
        Column("thinking_tokens", "of the thought"),
        Column("answer_tokens", "of the teacher's answer"),
        Column("position", "place in the training set"),
        Column("trace_id", "key of the trace in the store"),
    ),
    "traces": (
        *_ASKED,
        *_QUESTION,
        Column("flagged", "whether the question overlaps with training questions; null: not compared"),
        Column("sample", "index among the parallel traces of a question"),
        _BUDGET,
        Column("thinking", "the thought up to the budget"),
        Column("answer_text", "what came after it"),
        Column("prediction", "the answer that was read from the trace; null: none"),
        Column("how", "where it was read; refused or none: there is no answer"),
        Column("correct", "whether the matcher took it for right"),
        Column("rule", "the matcher's rule"),
        Column("verdicts", "of each judge its id, question and grade; a null grade: no valid verdict"),
        Column("cut", "whether the budget cut the thought"),
        Column("forced", "whether an answer was forced"),
        Column("finish", "why the answer ended"),
        Column("extensions", "ends of thinking that were put off"),
        Column("prompt_tokens", "of the prompt"),
        Column("thinking_tokens", "of the thought up to the budget"),
        Column("answer_tokens", "of the answer"),
        Column("student_key", "the student that answered; null: a model as it is"),
        Column("trace_id", "key of the trace in the store"),
    ),
    "leaderboard": (
        *_ASKED,
        Column("parameters", "of the base model; null: unknown"),
        Column("dataset", "the benchmark"),
        _BUDGET,
        Column("questions", "that were asked"),
        Column("n", "questions with a scored trace"),
        Column("accuracy", "by the matcher: the mean over questions of the share of right samples"),
        Column("standard_error", "of the accuracy, over questions"),
        Column("majority", "share of questions whose commonest answer is right"),
        Column("pass_1", "pass@1, which is the accuracy"),
        Column("pass_2", "pass@2 (unbiased, Chen et al. 2021); null: fewer samples"),
        Column("pass_4", "pass@4"),
        Column("pass_8", "pass@8"),
        Column("pass_16", "pass@16"),
        Column("n_clean", "questions that do not overlap with training questions"),
        Column("accuracy_clean", "the accuracy on those"),
        Column("traces", "that were scored"),
        Column("cut", "traces whose thought the budget cut"),
        Column("forced", "traces whose answer was forced"),
        Column("unparsed", "traces without an answer that could be read"),
        Column("refused", "traces that refuse"),
        Column("missing", "traces that never landed"),
        Column("judge_accuracy", "share right by the first judge; null: none"),
        Column("thinking_tokens", "mean of a trace"),
        Column("answer_tokens", "mean of a trace"),
    ),
    "questions": (
        *_ASKED,
        *_QUESTION,
        Column("flagged", "whether the question overlaps with training questions"),
        _BUDGET,
        Column("samples", "scored traces"),
        Column("correct", "of them right by the matcher"),
        Column("majority", "whether the commonest answer of the first k samples is right, k from 1"),
        Column("votes", "samples that gave the commonest answer"),
        Column("classes", "distinct answers"),
        Column("cut", "traces whose thought the budget cut"),
        Column("forced", "traces whose answer was forced"),
        Column("unparsed", "traces without an answer that could be read"),
        Column("refused", "traces that refuse"),
        Column("judged", "predictions with a valid verdict of the first judge"),
        Column("judged_correct", "of them right by the judge"),
        Column("thinking_tokens", "of all samples together"),
        Column("answer_tokens", "of all samples together"),
    ),
}
"""By kind (``training``, ``traces``: the same in all configurations) or by configuration (``leaderboard``, ``questions``)."""
