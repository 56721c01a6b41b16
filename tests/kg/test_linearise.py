"""Linearised paths: one line a statement, true direction, nothing twice."""

from __future__ import annotations

from kg.linearise import linearise, unlabelled
from store.types import Path, Triple

LABELS = {
    "Q1": "Ulm",
    "Q2": "Germany",
    "Q3": "Albert Einstein",
    "P19": "place of birth",
    "P17": "country",
    "P569": "date of birth",
}
BIRTH, COUNTRY = Triple("Q3", "P19", "Q1"), Triple("Q1", "P17", "Q2")
DATE = Triple("Q3", "P569", "1879-03-14", True)


def path(*triples: Triple) -> Path:
    return Path(source="Q2", target="Q3", triples=triples)


def test_true_direction_labels_and_literals() -> None:
    assert linearise([path(COUNTRY, BIRTH), path(DATE)], LABELS) == (
        "Ulm, country, Germany\nAlbert Einstein, place of birth, Ulm\nAlbert Einstein, date of birth, 1879-03-14"
    )


def test_nothing_is_printed_twice() -> None:
    again = path(Triple("Q4", "P17", "Q2"))
    text = linearise([path(COUNTRY, BIRTH), path(COUNTRY), again], {**LABELS, "Q4": "Ulm"})
    assert text.splitlines() == ["Ulm, country, Germany", "Albert Einstein, place of birth, Ulm"]


def test_a_limit_leaves_out_whole_paths_but_not_the_first() -> None:
    assert linearise([path(DATE), path(COUNTRY, BIRTH), path(COUNTRY)], LABELS, max_triples=2).splitlines() == [
        "Albert Einstein, date of birth, 1879-03-14",
        "Ulm, country, Germany",
    ]
    assert linearise([path(COUNTRY, BIRTH)], LABELS, max_triples=1) == "Ulm, country, Germany"
    assert linearise([path(COUNTRY)], LABELS, max_triples=0) == ""


def test_no_paths_no_text() -> None:
    assert linearise([], LABELS) == ""


def test_a_line_break_in_a_label_makes_no_line() -> None:
    assert linearise([path(COUNTRY)], {**LABELS, "Q1": "Ulm\nan der Donau"}) == "Ulm an der Donau, country, Germany"


def test_unlabelled_names_ids_but_no_literals() -> None:
    paths = [path(COUNTRY, BIRTH), path(DATE)]
    assert unlabelled(paths, LABELS) == set()
    assert unlabelled(paths, {"Q1": "Ulm", "P17": " "}) == {"Q2", "Q3", "P17", "P19", "P569"}
    assert linearise([path(COUNTRY)], {}) == "Q1, P17, Q2"
