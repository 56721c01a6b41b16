"""Linearised paths: one line a statement, true direction, nothing twice, whole paths within a limit."""

from __future__ import annotations

import random
import re
from math import log2

import pytest

from kg import starter
from kg.linearise import linearise
from store.types import Detail, InputError, Path, Triple

LABELS = {
    "Q1": "Ulm",
    "Q2": "Germany",
    "Q3": "Albert Einstein",
    "Q4": "Grover Cleveland",
    "Q5": "President of the United States",
    "Q6": "Chester A. Arthur",
    "Q7": "Mount Everest",
    "Q8": "metre",
    "Q9": "Apple Inc.",
    "P17": "country",
    "P19": "place of birth",
    "P39": "position held",
    "P127": "owned by",
    "P569": "date of birth",
    "P580": "start time",
    "P582": "end time",
    "P585": "point in time",
    "P1365": "replaces",
    "P2044": "elevation above sea level",
}
BIRTH, COUNTRY = Triple("Q3", "P19", "Q1"), Triple("Q1", "P17", "Q2")
DATE = Triple("Q3", "P569", "1879-03-14", True)
OFFICE = Triple("Q4", "P39", "Q5")
HEIGHT = Triple("Q7", "P2044", "8848.86", True)
TERMS = (
    Detail(qualifiers=(("P1365", "Q6", False), ("P582", "1889-03-04", True), ("P580", "1885-03-04", True))),
    Detail(qualifiers=(("P580", "1893", True), ("P582", "1897", True))),
    Detail(),
)


def path(*triples: Triple) -> Path:
    return Path(source="Q2", target="Q3", triples=triples)


def words(text: str) -> int:
    return len(text.split())


def sentence(triple: Triple, *details: Detail, labels: dict[str, str] = LABELS, **extra: str) -> str:
    return linearise([path(triple)], {**labels, **extra}, details={triple: details}, form="verbalised").text


class TestLines:
    def test_true_direction_labels_and_literals(self) -> None:
        found = linearise([path(COUNTRY, BIRTH), path(DATE)], LABELS)
        assert found.text == (
            "Ulm, country, Germany\nAlbert Einstein, place of birth, Ulm\nAlbert Einstein, date of birth, 1879-03-14"
        )
        assert found.lines == tuple(found.text.splitlines())
        assert found.triples == (COUNTRY, BIRTH, DATE)
        assert (found.tokens, found.dropped, found.unlabelled) == (None, 0, ())

    def test_nothing_is_printed_twice(self) -> None:
        again = path(Triple("Q10", "P17", "Q2"))
        found = linearise([path(COUNTRY, BIRTH), path(COUNTRY), again], {**LABELS, "Q10": "Ulm"})
        assert found.lines == ("Ulm, country, Germany", "Albert Einstein, place of birth, Ulm")
        assert found.triples == (COUNTRY, BIRTH), "the first triple that printed a line"
        assert found.dropped == 0, "the third says what the first says"

    def test_a_statement_stands_where_it_came_first(self) -> None:
        found = linearise([path(BIRTH), path(COUNTRY, BIRTH)], LABELS, form="verbalised")
        assert found.lines == ("Albert Einstein was born in Ulm.", "Ulm is in the country Germany.")

    def test_no_paths_no_text(self) -> None:
        found = linearise([], LABELS, max_tokens=5, count=words)
        assert (found.text, found.lines, found.tokens, found.dropped) == ("", (), 0, 0)

    @pytest.mark.parametrize("gap", ["\n", "\r\n", "\x85", "\u2028", "\v"])
    @pytest.mark.parametrize("form", ["fs1", "verbalised"])
    def test_a_line_break_in_a_name_makes_no_line(self, gap: str, form: str) -> None:
        labels = {**LABELS, "Q1": f"Ulm{gap}an der Donau"}
        found = linearise([path(COUNTRY, BIRTH)], labels, form=form)  # type: ignore[arg-type]
        assert len(found.text.splitlines()) == len(found.lines) == 2
        assert "Ulm an der Donau" in found.lines[0]

    def test_ids_without_a_label_are_reported(self) -> None:
        found = linearise([path(COUNTRY, BIRTH), path(DATE)], {"Q1": "Ulm", "P17": " "})
        assert found.lines[0] == "Ulm, P17, Q2"
        assert found.unlabelled == ("P17", "Q2", "Q3", "P19", "P569")
        told = linearise([path(BIRTH)], {"Q1": "Ulm"}, form="verbalised")
        assert told.text == "Q3 was born in Ulm."
        assert told.unlabelled == ("Q3",), "the sentence does not print the property"


class TestDetails:
    def test_a_date_is_cut_to_its_precision(self) -> None:
        def printed(*precisions: int) -> tuple[str, ...]:
            return linearise([path(DATE)], LABELS, details={DATE: tuple(Detail(precision=p) for p in precisions)}).lines

        assert printed(9) == ("Albert Einstein, date of birth, 1879",)
        assert printed(10) == ("Albert Einstein, date of birth, 1879-03",)
        assert printed(11) == ("Albert Einstein, date of birth, 1879-03-14",)
        assert printed(9, 11, 9) == (*printed(9), *printed(11)), "what is printed otherwise has its own line"

    def test_a_quantity_has_its_unit(self) -> None:
        def printed(unit: str) -> str:
            return linearise([path(HEIGHT)], LABELS, details={HEIGHT: (Detail(unit=unit),)}).text

        assert printed("Q8") == "Mount Everest, elevation above sea level, 8848.86 metre"
        assert printed("Q199") == "Mount Everest, elevation above sea level, 8848.86", "1 is no unit"
        found = linearise([path(HEIGHT)], LABELS, details={HEIGHT: (Detail(unit="Q11573"),)})
        assert found.unlabelled == ("Q11573",)

    def test_qualifiers_of_each_statement(self) -> None:
        assert linearise([path(OFFICE)], LABELS, details={OFFICE: TERMS}).lines == (
            "Grover Cleveland, position held, President of the United States "
            "(start time 1885-03-04; end time 1889-03-04; replaces Chester A. Arthur) (start time 1893; end time 1897)",
        )
        twice = linearise([path(OFFICE)], LABELS, details={OFFICE: TERMS[1:2] * 2}).text
        assert twice.count("1893") == 1


class TestSentences:
    @pytest.mark.parametrize(
        ("label", "expected"),
        [
            ("capital", "The capital of S is O."),
            ("symptoms and signs", "The symptoms and signs of S include O."),
            ("crew member(s)", "The crew members of S include O."),
            ("media franchise", "The media franchise of S is O."),
            ("series", "The series of S is O."),
            ("shares border with", "S shares border with O."),
            ("has part(s) of the class", "S has parts of the class O."),
            ("is the study of", "S is the study of O."),
            ("owned by", "S is owned by O."),
            ("used by", "S is used by O."),
            ("located in/on physical feature", "S is located in/on physical feature O."),
            ("said to be the same as", "S is said to be the same as O."),
            ("indigenous to", "S is indigenous to O."),
            ("native language", "The native language of S is O."),
            ("student of", "S is a student of O."),
            ("owner of", "S is an owner of O."),
            ("member of sports team", "S is a member of sports team O."),
            ("archives at", "S has archives at O."),
            ("from narrative universe", "S is from narrative universe O."),
            ("this taxon is source of", "S: this taxon is source of O."),
        ],
    )
    def test_by_the_form_of_the_label(self, label: str, expected: str) -> None:
        assert sentence(Triple("S", "P0", "O"), P0=label) == expected

    @pytest.mark.parametrize(
        ("triple", "expected"),
        [
            (Triple("S", "P31", "O"), "S is an island."),
            (Triple("S", "P279", "O"), "S is a kind of island."),
            (Triple("S", "P106", "A"), "S is a union leader by occupation."),
            (Triple("S", "P69", "O"), "S was educated at island."),
            (Triple("S", "P40", "O"), "A child of S is island."),
            (Triple("S", "P569", "1879-03-14", True), "S was born on 14 March 1879."),
            (Triple("S", "P577", "1949", True), "S was published in 1949."),
            (Triple("S", "P570", "-0427-05-07", True), "S died on 7 May 427 BCE."),
            (Triple("S", "P0", "1879-03-14", True), "The first flight of S is 14 March 1879."),
            (Triple("S", "P0", "1879", True), "The first flight of S is 1879."),
            (Triple("S", "P0", "-0427", True), "The first flight of S is -0427."),  # nothing says that it is a date
            (Triple("S", "P127", "Q9"), "S is owned by Apple Inc."),
        ],
    )
    def test_common_properties_and_literals(self, triple: Triple, expected: str) -> None:
        names = {"O": "island", "A": "union leader", "P40": "child", "P0": "first flight"}
        assert sentence(triple, **names) == expected

    def test_precision_units_and_times(self) -> None:
        assert sentence(DATE, Detail(precision=9)) == "Albert Einstein was born in 1879."
        assert sentence(DATE, Detail(precision=10)) == "Albert Einstein was born in March 1879."
        assert (
            sentence(HEIGHT, Detail(unit="Q8")) == "The elevation above sea level of Mount Everest is 8848.86 metres."
        )
        speed = Triple("Q7", "P0", "3", True)
        assert sentence(speed, Detail(unit="U"), P0="speed", U="foot per hour").endswith("is 3 feet per hour.")
        assert sentence(speed, Detail(unit="U"), P0="heat", U="degree Celsius").endswith("is 3 degrees Celsius.")

    @pytest.mark.parametrize(
        ("value", "precision", "expected"),
        [
            ("-0427-05-07", 9, "in 427 BCE"),
            ("-0427-05-07", 10, "in May 427 BCE"),
            ("0476-09-04", 9, "in 476 CE"),
            ("0476-09-04", 10, "in September 476 CE"),
            ("1886-01-01", 8, "in the 1880s"),
            ("1886-01-01", 7, "in the 19th century"),
            ("-12000-01-01", 5, "about 10,000 BCE"),
        ],
    )
    def test_dates_of_any_precision(self, value: str, precision: int, expected: str) -> None:
        triple = Triple("Q1", "P571", value, True)
        assert sentence(triple, Detail(precision=precision)) == f"Ulm came into being {expected}."

    def test_qualifiers_are_clauses(self) -> None:
        assert sentence(OFFICE, *TERMS) == (
            "Grover Cleveland held the position of President of the United States from 4 March 1885 to 4 March 1889 "
            "(replaces: Chester A. Arthur) and from 1893 to 1897."
        )
        for qualifiers, expected in [
            ((("P580", "1885", True),), "since 1885."),
            ((("P582", "1885", True),), "until 1885."),
            ((("P585", "1885-03-04", True),), "on 4 March 1885."),
            ((("P585", "1885", True), ("P1365", "5", True)), "in 1885 (replaces: 5)."),
        ]:
            told = sentence(OFFICE, Detail(qualifiers=qualifiers))
            assert told == f"Grover Cleveland held the position of President of the United States {expected}"

    def test_any_label_gives_one_sentence_with_both_names(self) -> None:
        generator = random.Random(1)
        pieces = ["of", "by", "has", "is", "named", "part", "members", "(s)", "/", ",", "{s}", "%", "'", "Ω", "", "per"]
        for _ in range(2000):
            label = " ".join(generator.choices(pieces, k=generator.randint(1, 4)))
            told = sentence(Triple("S", "P0", "O"), P0=label)
            assert re.fullmatch(r".*\bS\b.* O\.", told), label

    def test_every_property_of_the_starter_reads_as_a_sentence(self) -> None:
        labels = {pid: prop.label for pid, prop in starter.properties().items()}
        labels |= {qid: entity.label for qid, entity in starter.entities().items()}
        for fact in {fact.property: fact for fact in starter.facts()}.values():
            triple = Triple(fact.subject, fact.property, fact.object, fact.datatype != "item")
            told = sentence(triple, labels=labels)
            assert told.endswith(".")
            assert labels[fact.subject] in told
            assert re.search(
                r" (is|was|has|are|were|received|held|worked|died|shares|flows|lies|comes|came|played) ", told
            )


class TestLimits:
    def chain(self, count: int, hops: int = 2) -> list[Path]:
        return [
            path(*(Triple(f"Q{n}{hop}", "P17", f"Q{n}{hop + 1}") for hop in range(hops))) for n in range(1, count + 1)
        ]

    def test_max_triples_leaves_out_whole_paths_but_not_the_first(self) -> None:
        found = linearise([path(DATE), path(COUNTRY, BIRTH), path(COUNTRY)], LABELS, max_triples=2)
        assert found.triples == (DATE, COUNTRY)
        assert found.dropped == 1
        cut = linearise([path(COUNTRY, BIRTH)], LABELS, max_triples=1)
        assert (cut.triples, cut.dropped) == ((COUNTRY,), 1)

    def test_max_tokens_leaves_out_the_last_paths(self) -> None:
        paths = self.chain(40)
        whole = linearise(paths, {}, max_tokens=10_000, count=words)
        assert (len(whole.lines), whole.tokens, whole.dropped) == (80, 240, 0)
        for limit in (6, 7, 11, 12, 100, 239):
            found = linearise(paths, {}, max_tokens=limit, count=words)
            assert found.tokens == words(found.text) == limit // 6 * 6, "3 words a line, 2 lines a path"
            assert found.triples == tuple(t for one in paths[: limit // 6] for t in one.triples)
            assert found.dropped == 80 - limit // 6 * 2

    def test_the_first_path_is_cut_and_one_line_stays(self) -> None:
        paths = self.chain(5, hops=3)
        assert linearise(paths, {}, max_tokens=8, count=words).triples == paths[0].triples[:2]
        found = linearise(paths, {}, max_tokens=1, count=words)
        assert found.triples == paths[0].triples[:1]
        assert (found.tokens, found.dropped) == (3, 14), "more than the limit, and it says so"

    @pytest.mark.parametrize("size", [1, 2, 10, 1000])
    @pytest.mark.parametrize("limit", [1, 7, 50, 10**6])
    def test_tokens_are_counted_a_few_times_only(self, size: int, limit: int) -> None:
        texts: list[str] = []

        def count(text: str) -> int:
            texts.append(text)
            return words(text)

        linearise(self.chain(size), {}, max_tokens=limit, count=count)
        assert len(texts) <= log2(size) + 4
        assert len(set(texts)) == len(texts)

    def test_tokens_are_counted_without_a_limit_too(self) -> None:
        assert linearise([path(COUNTRY)], LABELS, count=words).tokens == 3

    def test_both_limits(self) -> None:
        found = linearise(self.chain(9), {}, max_triples=6, max_tokens=13, count=words)
        assert len(found.lines) == 4
        assert found.dropped == 14

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_triples": 0}, "max_triples 0"),
            ({"max_tokens": -1, "count": words}, "max_tokens -1"),
            ({"max_tokens": 5}, "`count`"),
            ({"form": "xml"}, "'xml'"),
        ],
    )
    def test_bad_options(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(InputError, match=message):
            linearise([path(COUNTRY)], LABELS, **options)  # type: ignore[arg-type]
