"""Linking: names and mentions, Freebase ids, the order of sources, and what is right on real questions."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kg.endpoint import Endpoint
from kg.linking import Linked, coverage, link, mids_of, read_mid_map
from kg.mentions import LabelIndex
from kg.names import Name, candidate_spans, graph_names, lookup, name_key, words
from kg.server import local_endpoint
from store.types import Answer, InputError, Link, Question

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "linked").is_dir(), reason=f"no real data at {DATA}")

INDEX = LabelIndex(
    [
        Name("Paris", "Q90", degree=900),
        Name("Paris", "Q830149", degree=5),  # in Texas
        Name("Hilton", "Q47899", alias=True, degree=3),
        Name("Paris Hilton", "Q47899", degree=3),
        Name("author", "Q482980", degree=800),
        Name("Play", "Q1", degree=2),
        Name("The Who", "Q93346", degree=40),
        Name("Who", "Q2", degree=4),
        Name("United States", "Q30", degree=5000),
        Name("US", "Q30", alias=True, degree=5000),
        Name("president of the United States", "Q11696", degree=60),
        Name("Academy Awards", "Q19020", degree=100),
        Name("1984", "Q208460", degree=9),
        Name("Beyoncé", "Q36153", degree=20),
        Name("Straße des 17. Juni", "Q157043", degree=1),
        Name("Springfield", "Q20", degree=7),
        Name("Springfield", "Q3", degree=7),
    ]
)


def found(text: str) -> list[tuple[str, str]]:
    return [(mention.text, mention.candidates[0].entity) for mention in INDEX.mentions(text)]


def question(text: str = "Who?", *, answers: tuple[Answer, ...] = (Answer(text="x"),), **more: object) -> Question:
    return Question.model_validate(
        {"id": "q", "dataset": "d", "split": "test", "text": text, "answers": answers} | more
    )


class TestWords:
    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("Beyonc\u00e9", "beyonce"),
            ("BEYONCE\u0301", "beyonce"),
            ("Stra\u00dfe", "strasse"),
            ("\ufb01sh", "fish"),
            ("\u0130stanbul", "istanbul"),
            ("J.K.  Rowling\u2019s", "j k rowling s"),
            ("AC/DC", "ac dc"),
            ("\uff21\uff22\uff23", "abc"),
            ("\u6771\u4eac", "\u6771\u4eac"),
            ("_?! \u0301", ""),
        ],
    )
    def test_keys(self, text: str, key: str) -> None:
        assert name_key(text) == key

    def test_spans_are_of_the_original_text_whatever_it_holds(self) -> None:
        chance = random.Random(7)
        letters = "aZ s\u00df\u0130\ufb01\u0301\u0345\u037a\u00bd\uac00\u1100\u1161\u0e01\u0e31\u0915\u093e\U0001d400\ufdfa'-_."
        for _trial in range(3000):
            text = "".join(
                chance.choice(letters) if chance.random() < 0.8 else chr(chance.randrange(1, 0xD7FF)) for _ in range(12)
            )
            last = 0
            for word in words(text):
                assert last <= word.start < word.end <= len(text)
                assert [one.key for one in words(text[word.start : word.end])] == [word.key]
                assert word.key
                assert " " not in word.key
                last = word.end


class TestMentions:
    def test_the_span_is_the_mention_in_the_original_text(self) -> None:
        text = "Was  BEYONCE\u0301 \u2014 or beyonc\u00e9 \u2014 at the Stra\u00dfe\u2003des \u201c17. Juni\u201d?"
        mentions = INDEX.mentions(text)
        assert [text[one.start : one.end] for one in mentions] == [one.text for one in mentions]
        assert {(one.text, one.candidates[0].entity) for one in mentions} == {
            ("BEYONCE\u0301", "Q36153"),
            ("beyonc\u00e9", "Q36153"),
            ("Stra\u00dfe\u2003des \u201c17. Juni", "Q157043"),
        }

    def test_every_planted_name_is_found_in_random_text(self) -> None:
        chance = random.Random(11)
        names = [
            "\u00c9mile Zola",
            "\ufb01nlandia",
            "Gro\u00dfglockner",
            "\u6771\u4eac",
            "Q-Tip",
            "\u0141\u00f3d\u017a",
        ]
        index = LabelIndex(Name(text, f"Q{number}") for number, text in enumerate(names, 1))
        for _trial in range(500):
            name = chance.choice(names)
            noise = ["".join(chr(chance.randrange(0x20, 0x2FF)) for _ in range(6)) for _ in range(2)]
            text = f"{noise[0]} {name.upper() if chance.random() < 0.3 else name}\t{noise[1]}"
            hits = index.mentions(text)
            assert [text[one.start : one.end] for one in hits] == [one.text for one in hits]
            assert name_key(name) in {name_key(one.text) for one in hits}

    def test_only_whole_words(self) -> None:
        assert found("a comparison with Parisian life") == []

    def test_the_longest_wins(self) -> None:
        assert found("Where was Paris Hilton born?") == [("Paris Hilton", "Q47899")]

    def test_a_proper_name_wins_over_the_common_name_around_it(self) -> None:
        assert found("Who was the 1st president of the United States?") == [("United States", "Q30")]

    def test_the_entity_with_the_higher_degree_comes_first_and_the_other_after(self) -> None:
        [mention] = INDEX.mentions("how big is paris", k=5)
        assert [one.entity for one in mention.candidates] == ["Q90", "Q830149"]
        assert mention.candidates[0].score > 0.5 > mention.candidates[1].score > 0

    def test_equal_candidates_are_ordered_by_their_number(self) -> None:
        [mention] = INDEX.mentions("Where is Springfield?", k=2)
        assert [one.entity for one in mention.candidates] == ["Q3", "Q20"]

    def test_a_common_noun_ranks_below_a_name(self) -> None:
        mentions = INDEX.mentions("which author lived in paris")
        assert [one.text for one in mentions] == ["paris", "author"]
        assert mentions[1].candidates[0].score < 0.5

    def test_a_name_in_lower_case_counts_little_where_casing_tells(self) -> None:
        [told], [silent] = INDEX.mentions("Did Bob play here?"), INDEX.mentions("did bob play here")
        assert told.candidates[0].score < silent.candidates[0].score

    def test_part_of_a_longer_capitalised_name_counts_little(self) -> None:
        [part], [whole] = INDEX.mentions("Where is Paris Texas?"), INDEX.mentions("Where is Paris, Texas?")
        assert part.candidates[0].score < whole.candidates[0].score

    def test_plural_and_singular_meet(self) -> None:
        assert found("Who won an Academy Award?") == [("Academy Award", "Q19020")]

    @pytest.mark.parametrize(
        "text",
        ["who is it", "Who is it?", "who are the who", "tell us about who", "WHO IS US", "in 1984", "the", "", "?!"],
    )
    def test_question_words_and_numbers_never_link(self, text: str) -> None:
        assert found(text) == []

    def test_stop_words_link_as_they_are_written(self) -> None:
        assert set(found("Did The Who tour the US?")) == {("The Who", "Q93346"), ("US", "Q30")}

    def test_an_empty_index(self) -> None:
        assert LabelIndex([]).mentions("Paris") == []
        assert LabelIndex([]).whole("Paris") is None


class TestWhole:
    def test_a_whole_name_and_no_part(self) -> None:
        best = INDEX.whole("PARIS.")
        assert best is not None
        assert best.entity == "Q90"
        assert 0.5 < best.score < 1
        assert INDEX.whole("Paris, Texas") is None
        assert INDEX.whole("Academy Award") is None

    @pytest.mark.parametrize(("text", "entity"), [("1984", "Q208460"), ("the who", "Q93346")])
    def test_names_that_are_no_mention_in_a_sentence(self, text: str, entity: str) -> None:
        best = INDEX.whole(text)
        assert best is not None
        assert best.entity == entity


class TestCandidateSpans:
    def test_capitalised_runs(self) -> None:
        spans = candidate_spans("Who wrote The Lord of the Rings in Oxford?")
        assert {"Lord of the Rings", "Oxford"} <= set(spans)
        assert not {"Who", "wrote", "Rings in"} & set(spans)

    def test_quoted_text_comes_first_whatever_its_case(self) -> None:
        assert candidate_spans("Who sang \u201cpurple rain\u201d in Oslo?")[0] == "purple rain"

    def test_lower_case_takes_all_runs_without_stop_words_at_the_ends(self) -> None:
        spans = candidate_spans("who influenced samuel taylor coleridge")
        assert {"samuel taylor coleridge", "samuel", "influenced samuel taylor coleridge"} <= set(spans)
        assert not any(span.startswith("who") for span in spans)

    def test_their_number_is_bounded(self) -> None:
        assert len(candidate_spans(" ".join(f"word{i}" for i in range(500)))) == 40
        assert candidate_spans("who is it 1984") == []


NT = """
<E/Q64> <LABEL> "Berlin"@en .
<E/Q64> <LABEL> "Berlin"@mul .
<E/Q64> <LABEL> "Berlim"@pt .
<E/Q64> <ALIAS> "Berlin, Germany"@en .
<E/Q821244> <LABEL> "Berlin"@en .
<E/Q821244> <SITELINKS> "7"^^<http://www.w3.org/2001/XMLSchema#integer> .
<E/Q7> <LABEL> "Say \\"hi\\" } \\\\ { ; DROP"@en .
<E/P36> <LABEL> "capital"@en .
<E/Q183> <D/P36> <E/Q64> .
<E/Q183> <D/P1376> <E/Q64> .
<E/Q183> <N/P36> <E/Q64> .
<E/Q64> <D/P646> "/m/0156q" .
<E/Q900> <D/P646> "/m/0156q" .
<E/Q64> <D/P2671> "/g/11abc" .
"""
SHORT = {
    "<E/": "<http://www.wikidata.org/entity/",
    "<D/": "<http://www.wikidata.org/prop/direct/",
    "<N/": "<http://www.wikidata.org/prop/",
    "<LABEL>": "<http://www.w3.org/2000/01/rdf-schema#label>",
    "<ALIAS>": "<http://www.w3.org/2004/02/skos/core#altLabel>",
    "<SITELINKS>": "<http://wikiba.se/ontology#sitelinks>",
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("facts")
    text = NT.lstrip()
    for short, name in SHORT.items():
        text = text.replace(short, name)
    (place / "facts.nt").write_text(text)
    with local_endpoint([place / "facts.nt"], place) as address:
        yield address


@pytest.fixture
def endpoint(url: str) -> Endpoint:
    return Endpoint(url, snapshot="test")


INJECTION = 'Say "hi" } \\ { ; DROP'
NAMES = [
    Name("Berlin", "Q64", degree=2),
    Name("Berlin", "Q821244"),
    Name("Berlin, Germany", "Q64", alias=True, degree=2),
    Name(INJECTION, "Q7"),
]


@pytest.mark.real
class TestNamesOfAnEndpoint:
    def test_all_names_of_a_graph_with_their_degrees(self, endpoint: Endpoint) -> None:
        assert graph_names(endpoint) == NAMES
        assert endpoint.requests == 3

    def test_in_parts_it_is_the_same(self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kg.names.PART_ROWS", 1)  # one digit of the id a part, so that Q7 is in none but its own
        monkeypatch.setattr("kg.names.log10", lambda _share: 2.0)
        assert graph_names(endpoint) == NAMES
        assert endpoint.requests > 200

    def test_a_graph_too_large_is_refused(self, endpoint: Endpoint) -> None:
        with pytest.raises(InputError, match="more than 3 names"):
            graph_names(endpoint, limit=3)

    def test_lookup_of_spans(self, endpoint: Endpoint) -> None:
        assert lookup(endpoint, ["berlin", "Berlin", "nothing"]) == [
            Name("Berlin", "Q64"),
            Name("Berlin", "Q821244", degree=7),
        ]
        assert endpoint.requests == 1
        assert lookup(endpoint, []) == []

    @pytest.mark.parametrize(
        "span",
        [INJECTION, '"@en } ?e ?p ?o . { #', "\\", "\\u0022", "'''", '"""', "a\nb\r\t", "\u202e\U0001f600", "{{x}}"],
    )
    def test_text_stays_text(self, endpoint: Endpoint, span: str) -> None:
        assert [name.entity for name in lookup(endpoint, [span])] == (["Q7"] if span == INJECTION else [])

    def test_text_that_is_no_text(self, endpoint: Endpoint) -> None:
        with pytest.raises(InputError):
            lookup(endpoint, ["\ud800"])


@pytest.mark.real
class TestMidsOfAnEndpoint:
    def test_lowest_item_of_each_known_id(self, endpoint: Endpoint) -> None:
        assert mids_of(endpoint, ["m.0156q", "/m/0156q", "/g/11abc", "m.0none"]) == {"m.0156q": "Q64", "g.11abc": "Q64"}
        assert endpoint.requests == 1

    def test_batches(self, endpoint: Endpoint) -> None:
        assert mids_of(endpoint, [f"m.0{i}" for i in range(5)] + ["m.0156q"], batch=2) == {"m.0156q": "Q64"}
        assert endpoint.requests == 3

    @pytest.mark.parametrize("mid", ['m.0" } #', "m.", "Q64", "", "/m/0156q\n", "M.0156Q"])
    def test_what_is_no_id_is_refused(self, endpoint: Endpoint, mid: str) -> None:
        with pytest.raises(InputError, match="Freebase id"):
            mids_of(endpoint, ["m.0156q", mid])
        assert endpoint.requests == 0


class TestMidMap:
    def test_both_spellings_junk_and_repeats(self, tmp_path: Path) -> None:
        file = tmp_path / "map.tsv.gz"
        rows = [
            "mid\tqid\tsource",
            "m.0156q\tQ64\ta",
            "/m/02mjmr\tQ76",
            "UnknownMID\tQ1",
            "/m/0156q\tQ900",
            "m.0156q\tQ64",
        ]
        with gzip.open(file, "wt") as stream:
            stream.write("\r\n".join(rows) + "\r\n")
        found = read_mid_map(file)
        assert found == {"m.0156q": "Q64", "m.02mjmr": "Q76"}
        assert (found.skipped, found.repeated) == (1, 1)

    def test_columns_go_by_their_names(self, tmp_path: Path) -> None:
        (tmp_path / "map.tsv").write_text("\ufeffqid\tx\tmid\nQ64\t\tm.0156q\n", encoding="utf-8")
        assert read_mid_map(tmp_path / "map.tsv") == {"m.0156q": "Q64"}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("mid\tqid\nm.1\tQ1\nm.2\tq2\n", "line 3: qid 'q2'"),
            ("mid\tqid\nm.1\n", "line 2: 1 columns"),
            ("m.1\tQ1\n", "line 1"),
            ("", "line 1"),
        ],
    )
    def test_malformed_files(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "map.tsv").write_text(text)
        with pytest.raises(InputError, match=message):
            read_mid_map(tmp_path / "map.tsv")

    def test_unreadable_files(self, tmp_path: Path) -> None:
        whole = gzip.compress(b"mid\tqid\n" + random.Random(1).randbytes(9000).hex().encode())
        for name, content in {
            "a.gz": b"mid\tqid\n",
            "b.gz": whole[:4000],
            "c.gz": whole[:50] + bytes(99),
            "d": b"\xff",
        }.items():
            (tmp_path / name).write_bytes(content)
            with pytest.raises(InputError, match=name):
                read_mid_map(tmp_path / name)
        with pytest.raises(InputError, match="missing"):
            read_mid_map(tmp_path / "missing.tsv")


class TestLink:
    def test_gold_ids_come_first_and_keep_names_out(self) -> None:
        links = (
            Link(entity="m.05qtj", role="question", source="gold_mid"),
            Link(entity="Q142", role="question"),
            Link(entity="m.0f8l9c", role="question", source="gold_mid"),
            Link(entity="m.0unknown", role="question", source="gold_mid"),
        )
        mids = {"m.05qtj": "Q90", "m.0f8l9c": "Q142"}
        assert link(question("Is Paris Hilton in Paris?", links=links), mids=mids, index=INDEX) == (
            Linked("Q142", "question", "gold_qid"),
            Linked("Q90", "question", "mid_map"),
        )

    def test_names_stand_in_for_ids_that_no_map_has(self) -> None:
        links = (Link(entity="m.0unknown", role="question", source="gold_mid"),)
        [one] = link(question("Where was Paris Hilton born?", links=links), mids={}, index=INDEX)
        assert one[:6] == ("Q47899", "question", "label", "Paris Hilton", 10, 22)
        assert 0.15 < one.score < 1

    def test_at_most_three_and_each_entity_once(self) -> None:
        text = "Paris, Beyonc\u00e9, Springfield, Paris Hilton, Paris: who is older?"
        links = link(question(text), mids={}, index=INDEX)
        assert len({one.entity for one in links}) == len(links) == 3
        assert [one.score for one in links] == sorted((one.score for one in links), reverse=True)

    def test_weak_mentions_are_no_links(self) -> None:
        assert link(question("Did Bob play here?"), mids={}, index=INDEX) == ()

    def test_no_index_no_names(self) -> None:
        assert link(question("Where is Paris?"), mids={}, index=None) == ()

    def test_answers_by_their_text_or_an_alias(self) -> None:
        answers = (Answer(text="PARIS"), Answer(text="B.", aliases=("nobody", "Beyonce")), Answer(text="Berlin"))
        first, second = link(question(answers=answers), mids={}, index=INDEX)
        assert first[:6] == ("Q90", "answer", "label", "PARIS", 0, 5)
        assert second[:6] == ("Q36153", "answer", "label", "Beyonce", None, None)

    def test_gold_entities_of_answers(self) -> None:
        answers = (Answer(text="Paris", entity="Q830149"), Answer(text="Springfield"))
        links = (Link(entity="Q830149", role="answer"),)
        expected = (Linked("Q830149", "answer", "gold_qid"),)
        assert link(question(answers=answers, links=links), mids={}, index=INDEX) == expected

    def test_an_answer_that_the_question_names_is_kept(self) -> None:
        asked = question("Is Paris or Springfield larger?", answers=(Answer(text="Paris"),))
        roles = {(one.entity, one.role) for one in link(asked, mids={}, index=INDEX)}
        assert roles == {("Q90", "question"), ("Q3", "question"), ("Q90", "answer")}

    @pytest.mark.parametrize(
        ("kind", "entities"), [("number", []), ("date", []), ("text", []), ("entity", ["Q208460"])]
    )
    def test_numbers_link_only_where_an_entity_is_asked_for(self, kind: str, entities: list[str]) -> None:
        asked = question(answers=(Answer(text="1984"),), answer_type=kind)
        assert [one.entity for one in link(asked, mids={}, index=INDEX)] == entities

    def test_coverage(self) -> None:
        links = (Link(entity="Q90", role="question"),)
        asked = [
            question("Is Paris large?", links=links, answers=(Answer(text="Paris"),)),
            question("Is Paris large?", answers=(Answer(text="yes"),), answer_type="boolean"),
            question("Is it?", answers=(Answer(text="nothing"),)),
            question("Is it?", dataset="c"),
        ]
        rows = coverage(asked, [link(one, mids={}, index=INDEX) for one in asked])
        assert [tuple(row.values()) for row in rows] == [
            ("c", "question", "none", 1, 1.0),
            ("c", "answer", "none", 1, 1.0),
            ("d", "question", "gold_qid", 1, 1 / 3),
            ("d", "question", "label", 1, 1 / 3),
            ("d", "question", "none", 1, 1 / 3),
            ("d", "answer", "label", 1, 1 / 3),
            ("d", "answer", "none", 1, 1 / 3),
            ("d", "answer", "literal", 1, 1 / 3),
        ]


@pytest.fixture(scope="module")
def real_index() -> LabelIndex:
    """An index over the real extract, read from its N-Triples: the server has its own test above."""
    form = re.compile(r'<\S+/entity/(Q\d+)> <(\S+)> (?:<\S+/entity/(Q\d+)>|"(.*)"@en) \.')
    degrees: Counter[str] = Counter()
    names: list[tuple[str, str, bool]] = []
    with gzip.open(DATA / "kg" / "wikidata_extract.nt.gz", "rt") as lines:
        for line in lines:
            if (match := form.match(line)) is None:
                continue
            entity, relation, pointed, text = match.groups()
            if pointed:
                degrees[pointed] += 1
            else:
                names.append((json.loads(f'"{text}"') if "\\" in text else text, entity, relation.endswith("altLabel")))
    return LabelIndex(Name(text, entity, alias, degrees[entity]) for text, entity, alias in names)


@needs_data
@pytest.mark.parametrize(
    ("dataset", "hits", "precision"),
    [("mintaka_test", 0.70, 0.78), ("webqsp_test", 0.79, 0.84), ("cwq_test", 0.69, 0.75)],
)
def test_hits_on_real_questions(real_index: LabelIndex, dataset: str, hits: float, precision: float) -> None:
    with gzip.open(DATA / "linked" / f"{dataset}.jsonl.gz", "rt") as lines:
        records = [json.loads(line) for line in lines]
    # Of questions whose gold entities come from the dataset, and are in the graph.
    records = [
        one for one in records if one["link"] != "label" and one["question_qids"] and one["linked_question_qids"]
    ]
    assert len(records) > 1000
    right = linked = 0
    for one in records:
        links = [got for got in link(question(one["question"]), mids={}, index=real_index) if got.role == "question"]
        linked += bool(links)
        right += bool(links) and links[0].entity in one["question_qids"]
    assert right / len(records) >= hits
    assert right / linked >= precision


@needs_data
def test_the_real_map_of_freebase_ids() -> None:
    found = read_mid_map(DATA / "kg" / "freebase_mid2qid.tsv.gz")
    assert len(found) > 16_000
    assert found["m.010016"] == "Q128306"
    assert found.skipped == 1
