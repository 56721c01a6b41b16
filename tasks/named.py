"""Training sets and students of the store by what people call them: ``STUDY:NAME``, a key, or the beginning of one."""

from __future__ import annotations

from typing import Any, NamedTuple

from store.connection import Store
from store.types import InputError
from tasks.exports import find_study, key_begins
from tasks.student_exports import FoundStudent, find_student


class FoundSet(NamedTuple):
    """A training set of the store: its key, and its name in the study that made it (a recipe or a mix)."""

    key: str
    name: str


def find_training_set(store: Store, named: str) -> FoundSet:
    """The training set that ``STUDY:NAME`` or a key (its first 6 digits or more) means.

    Raises:
        InputError: there is none, or several keys begin so; names what there is.
    """
    if ":" in named:
        study, name = named.rsplit(":", 1)
        rows = store.query(
            "SELECT name, training_set FROM study_training_sets WHERE study_key = ? ORDER BY name",
            [find_study(store, study).key],
        )
        for row in rows:
            if row["name"] == name:
                return FoundSet(row["training_set"], name)
        names = ", ".join(row["name"] for row in rows) or "none"
        raise InputError(f"training set {named}: the training sets of this study are {names}")
    known = store.query("SELECT training_set, name FROM training_sets ORDER BY name, training_set")
    rows = [row for row in known if key_begins(row["training_set"], named)]
    if len(rows) == 1:
        return FoundSet(rows[0]["training_set"], rows[0]["name"])
    if rows:
        raise InputError(f"training set {named}: {len(rows)} keys begin so; give more of it")
    sets = ", ".join(f"{row['training_set'][:8]} ({row['name']})" for row in known) or "none yet"
    raise InputError(
        f"training set {named}: not in this store, which has {sets}; or give STUDY:NAME, or a folder or file with examples"
    )


def find_trained(store: Store, named: str) -> FoundStudent:
    """The student that ``STUDY:TRAINING_SET[:VARIANT]`` means, or what :func:`find_student` makes of another name.

    Raises:
        InputError: there is none, or there are several; names what there is.
    """
    if ":" not in named:
        return find_student(store, named)
    study, trained_on, *rest = named.split(":", 2)
    rows = _of_study(store, study)
    found = [row for row in rows if row["trained_on"] == trained_on and (not rest or row["variant"] == rest[0])]
    if len(found) == 1:
        return FoundStudent(found[0]["student_key"], found[0]["name"], found[0], 0)
    fits = found or rows
    listed = ", ".join(f"{row['student_key'][:8]} ({_described(row)})" for row in fits) or "none yet"
    how = "several fit; give a key or a variant" if found else "none fits"
    raise InputError(f"student {named}: {how}. Students of this study: {listed}")


def _described(row: dict[str, Any]) -> str:
    return "/".join(filter(None, (row["base"], row["trained_on"], row["variant"])))


def _of_study(store: Store, study: str) -> list[dict[str, Any]]:
    """The students of an evaluated study, under the names that they have in it."""
    return store.query(
        "SELECT s.* REPLACE (u.base AS base, u.trained_on AS trained_on, u.variant AS variant) FROM students s "
        "JOIN study_students u USING (student_key) WHERE u.study_key = ? ORDER BY u.base, u.trained_on, u.variant, student_key",
        [find_study(store, study).key],
    )
