"""A student for others to load: its weights, tokenizer and configuration as they are, and a card with its whole descent.

Only safetensors and text leave this machine: a folder that holds a pickle is refused, and paths of this machine are taken out
of the configuration.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from eval.card_facts import ChainFacts, CheckFacts, ModelFacts, ResultFacts, TrainingFacts
from eval.cards import model_card
from models.embedded import LICENSE, embedded_key
from models.fetching import WEIGHT_FILES
from models.finetune import ADAPTER_FIELDS, LOG, StudentManifest, load_manifest, verify
from models.formats import format_named
from store.connection import Store
from store.home import Home
from store.scores import score_study
from store.types import InputError
from tasks.exports import compared, key_begins, training_benchmarks, training_facts

CARD = "README.md"
_HUB_KEY = re.compile(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})")
_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"})
_CONFIGS = ("adapter_config.json", "config.json", "tokenizer_config.json")
_NAMES_OF_BASE = ("base_model_name_or_path", "_name_or_path", "name_or_path")
_LOCAL = ("is_local", "local_files_only")  # of the machine that trained it


class FoundStudent(NamedTuple):
    """A student of the store; ``older`` are others of the same name (from other data, hyperparameters or bases)."""

    key: str
    name: str
    row: dict[str, Any]
    older: int


def find_student(store: Store, named: str) -> FoundStudent:
    """The student of this name (also as ``BASE-TRAINING_SET[-VARIANT]``), the newest of several, or of this key or its beginning.

    Raises:
        InputError: there is none, or several keys begin so.
    """
    known = store.query(
        "SELECT s.* FROM students s LEFT JOIN units u ON u.unit_key = s.student_key "
        "ORDER BY u.landed_at DESC NULLS LAST, s.student_key"
    )
    rows = [row for row in known if named in (row["name"], _called(row))]
    if rows:
        return FoundStudent(rows[0]["student_key"], rows[0]["name"], rows[0], len(rows) - 1)
    rows = [row for row in known if key_begins(row["student_key"], named)]
    if len(rows) > 1:
        raise InputError(f"student {named}: the keys of {len(rows)} students begin so; give more of it")
    if not rows:
        names = ", ".join(dict.fromkeys(map(_called, known))) or "none yet"
        raise InputError(f"student {named}: not in this store; students: {names}")
    return FoundStudent(rows[0]["student_key"], rows[0]["name"], rows[0], 0)


def model_facts(home: Home, student: FoundStudent, license_: str | None = None) -> ModelFacts:
    """What the card of a student tells. Raises InputError where its folder is gone, or holds a pickle."""
    store = home.store
    study = _study(store, student.key)
    if study is not None:
        score_study(store, study["study_key"])  # of a study that landed before there were scores; else nothing to do
    with store.connection(read_only=True):  # opened once for all that is read
        return _facts(home, student, study, license_)


def model_files(home: Home, facts: ModelFacts) -> dict[str, Path | bytes]:
    """What an export of the student holds: files as they lie in its folder, and bytes of those that are written anew."""
    folder = home.students / facts.key
    files: dict[str, Path | bytes] = {CARD: model_card(facts).encode()}
    for pattern in (*WEIGHT_FILES, LOG):
        for path in sorted(folder.glob(pattern)):
            files[path.name] = _config(path, facts) if path.name in _CONFIGS else path
    return files


def write_card(home: Home, student: FoundStudent) -> None:
    """Put the card of a student into its folder, in place of an earlier one. Its row need not have landed yet."""
    _write(home.students / student.key, model_facts(home, student))


def write_file_card(folder: Path, base: str, training: TrainingFacts) -> None:
    """Put the card of a student of the base called ``base`` into its folder, which was trained on examples from files.

    Raises:
        InputError: there is no complete student.
    """
    manifest = _manifest(folder)
    _write(
        folder,
        ModelFacts(
            **told_by(manifest, base), name=f"{base}-{training.recipe}", key=manifest.key, training=training, benchmarks=(),
            study=None, study_key=None, results=(), compared=False, chain=None,
        ),
    )  # fmt: skip


def _write(folder: Path, facts: ModelFacts) -> None:
    """Whole or not at all: a reader never sees half a card."""
    partial = folder / f".{CARD}.partial"
    partial.write_text(model_card(facts), encoding="utf-8")
    partial.replace(folder / CARD)


def write_model(home: Home, facts: ModelFacts, folder: Path, *, link: bool = False) -> None:
    """Fill ``folder`` after checking the weights against their sha256; ``link`` (for a folder that is thrown away) spares
    the copy where the disk is the same.

    Raises:
        RunError: weights are not what the manifest says.
    """
    verify(home.students / facts.key)
    for name, content in model_files(home, facts).items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            _place(content, folder / name, link=link)


def _called(row: dict[str, Any]) -> str:
    return "-".join(filter(None, (row["base"], row["trained_on"] or row["recipe"], row["variant"])))


def told_by(manifest: StudentManifest, base: str) -> dict[str, Any]:
    """The fields of :class:`ModelFacts` that a student's own manifest fills; ``base`` is its base's alias."""
    hub = _HUB_KEY.match(manifest.base_key)
    form = format_named(manifest.format)
    result = manifest.result
    return {
        "method": manifest.kind,
        "base": base,
        "base_key": manifest.base_key,
        "base_id": hub[1] if hub else None,
        "base_revision": hub[2] if hub else None,
        "base_license": LICENSE if manifest.base_key.startswith(embedded_key()) else None,
        "think_open": form.think_open,
        "think_close": form.think_close,
        "answer_open": form.forced_answer,
        "hyperparameters": _hyperparameters(manifest),
        "examples": result.examples,
        "held_out_examples": result.held_out_examples,
        "dropped": result.dropped.model_dump(),
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "device": result.device,
        "precision": result.precision,
        "held_out_before": result.base_loss,
        "held_out_after": result.held_out_loss,
        "versions": {**manifest.versions, "factscale (this export)": version("factscale")},
        "weights": manifest.weights,
    }


def _facts(home: Home, student: FoundStudent, study: dict[str, Any] | None, license_: str | None) -> ModelFacts:
    store, row = home.store, student.row
    return ModelFacts(
        **told_by(_manifest(home.students / student.key), row["base"]),
        name=_called(row),
        key=student.key,
        training=training_facts(store, row["training_set"], name=row["trained_on"]),
        benchmarks=training_benchmarks(store, [row["training_set"]]),
        checks=_checks(store, student),
        study=study["name"] if study else None,
        study_key=study["study_key"] if study else None,
        results=_results(store, study["study_key"], student) if study else (),
        compared=study is not None and compared(store, study["study_key"]),
        chain=_chain(store, student),
        license=license_,
    )


def _manifest(folder: Path) -> StudentManifest:
    manifest = load_manifest(folder)
    if manifest is None:
        raise InputError(
            f"student {folder.name}: no complete weights in {folder}; run `finetune` again to train it once more"
        )
    pickles = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICKLES)
    if pickles:
        raise InputError(
            f"student {folder.name}: {pickles[0]} may hold a pickle, which can run code; remove it from the folder"
        )
    return manifest


def _hyperparameters(manifest: StudentManifest) -> dict[str, Any]:
    known = manifest.hyperparameters.model_dump(mode="json")
    return {name: value for name, value in known.items() if manifest.kind == "lora" or name not in ADAPTER_FIELDS}


def _config(path: Path, facts: ModelFacts) -> bytes:
    known = json.loads(path.read_bytes())
    known = {name: value for name, value in known.items() if name not in _LOCAL}
    known |= {name: facts.base_id or facts.base for name in _NAMES_OF_BASE if name in known}
    if "base_model_name_or_path" in known:
        known["revision"] = facts.base_revision
    return (json.dumps(known, indent=2, ensure_ascii=False) + "\n").encode()


def _place(source: Path, target: Path, *, link: bool) -> None:
    if link:
        try:
            os.link(source.resolve(), target)
        except OSError:  # another disk, or one without links
            pass
        else:
            return
    shutil.copyfile(source, target)


def _study(store: Store, student_key: str) -> dict[str, Any] | None:
    """The newest study that asked the student."""
    rows = store.query(
        "SELECT s.study_key, s.name FROM studies s SEMI JOIN (SELECT study_key FROM study_runs WHERE student_key = ?) "
        "USING (study_key) ORDER BY s.started_at DESC LIMIT 1",
        [student_key],
    )
    return rows[0] if rows else None


def _results(store: Store, study_key: str, student: FoundStudent) -> tuple[ResultFacts, ...]:
    """Its rows of the leaderboard, and beside them those of its base as it is."""
    rows = store.query(_RESULTS, {"study": study_key, "student": student.key, "base": student.row["base"]})
    return tuple(ResultFacts(**row) for row in rows)


def _checks(store: Store, student: FoundStudent) -> tuple[CheckFacts, ...]:
    """How it does on dev questions, beside its base as it is, asked the same in the same way, where either was asked them."""
    rows = store.query(
        "SELECT s.dev_dataset AS dataset, s.n, s.accuracy, s.low, s.high, s.boxed, b.accuracy AS base_accuracy, "
        "b.boxed AS base_boxed FROM student_quality s LEFT JOIN student_quality b ON b.student_key IS NULL "
        "AND b.base_key = s.base_key AND b.dev_asked = s.dev_asked LEFT JOIN units u ON u.unit_key = b.check_key "
        "WHERE s.student_key = ? AND s.check_key IS NOT NULL "
        # A base can have been asked in several layouts of its turn.
        "QUALIFY row_number() OVER (PARTITION BY s.check_key ORDER BY u.landed_at DESC NULLS LAST, b.check_key) = 1 "
        "ORDER BY dataset, s.check_key",
        [student.key],
    )
    return tuple(CheckFacts(**row) for row in rows)


def _chain(store: Store, student: FoundStudent) -> ChainFacts | None:
    """The first training trace whose question has a path that its teacher was shown, else the first trace."""
    rows = store.query(
        "SELECT tr.position, tr.trace_id, q.dataset, q.question_id, g.snapshot, p.triples FROM training_rows tr "
        "JOIN questions q USING (question_key) "
        "LEFT JOIN paths p ON tr.recipe = 'fs1' AND p.question_key = tr.question_key AND p.kept AND p.retrieval_key IN "
        "(SELECT retrieval_key FROM study_runs WHERE student_key = $student) "
        "LEFT JOIN retrievals g ON g.retrieval_key = p.retrieval_key AND g.question_key = p.question_key "
        "WHERE tr.training_set = $set AND NOT tr.held_out ORDER BY p.rank IS NULL, tr.position, p.rank LIMIT 1",
        {"student": student.key, "set": student.row["training_set"]},
    )
    if not rows:
        return None
    row = rows[0]
    return ChainFacts(
        path=_labelled(store, row["snapshot"], json.loads(row["triples"])) if row["triples"] else (),
        dataset=row["dataset"],
        question_id=row["question_id"],
        trace=row["trace_id"],
        position=row["position"],
    )


def _labelled(store: Store, snapshot: str, triples: list[list[Any]]) -> tuple[str, ...]:
    ids = sorted({str(part) for triple in triples for part in triple[:3]})
    known = store.query(
        "SELECT id, label FROM labels WHERE snapshot = $snapshot AND list_contains($ids, id)",
        {"snapshot": snapshot, "ids": ids},
    )
    labels = {row["id"]: row["label"] for row in known}
    return tuple(", ".join(labels.get(str(part), str(part)) for part in triple[:3]) for triple in triples)


_RESULTS = f"""
WITH mine AS (
    SELECT run_key, dataset FROM study_runs WHERE study_key = $study AND student_key = $student
), base AS (
    SELECT r.run_key, r.dataset FROM study_runs r SEMI JOIN mine USING (dataset)
    WHERE r.study_key = $study AND r.role = 'student' AND r.setting = 'instruct' AND r.model = $base
)
SELECT {", ".join(ResultFacts.model_fields)} FROM leaderboard SEMI JOIN (FROM mine UNION ALL FROM base) USING (run_key)
WHERE study_key = $study ORDER BY dataset, budget NULLS LAST, setting = 'instruct' DESC
"""  # noqa: S608 - names of this code
