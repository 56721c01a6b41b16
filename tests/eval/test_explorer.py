"""The trace explorer's pages as text: addresses, the marks in a thought, what is escaped, and the exported files."""

from __future__ import annotations

import base64
import hashlib
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest
from made_study import HOSTILE

from eval.explorer import ending, pieces, render_list, render_message, render_question, render_student, state_of
from eval.explorer_views import Choice, Filters, Frame, ListView, QuestionView, RunView, SampleMark, Shown
from eval.question_pages import export_questions, file_name, remove_questions
from store.types import InputError, RunError

FRAME = Frame(HOSTILE, (Choice("tiny", "fs1", "student", (16, None)), Choice(HOSTILE, "instruct", "baseline", (None,))))


def trace(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "trace_id": "t",
        "budget": 16,
        "thinking_tokens": 16,
        "thinking_chars": 10,
        "answer_tokens": 4,
        "cut": True,
        "forced": True,
        "finish": "stop",
        "ended": "marker",
        "stops": None,
        "extensions": 0,
        "self_contained": False,
        "prediction": "Paris",
        "prediction_key": "p",
        "how": "boxed",
        "correct": True,
        "rule": "exact",
        "answer_text": HOSTILE,
        "grades": ["correct"],
    }
    return {**made, **changes}


def ladder(*steps: tuple[int | None, int, bool]) -> tuple[dict[str, Any], ...]:
    return tuple(trace(budget=budget, thinking_chars=chars, cut=cut, forced=cut) for budget, chars, cut in steps)


def question(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "question_key": "k1",
        "dataset": "starter",
        "question_id": "q1",
        "split": "test",
        "text": f"Which city? {HOSTILE}",
        "answer_type": "entity",
        "hops": 2,
        "provenance": HOSTILE,
        "answers": [{"text": HOSTILE, "entity": "Q90", "aliases": ["a", "b", "c", HOSTILE]}],
        "nearest": "k2",
        "exact": True,
        "ngram": 0.5,
        "cosine": 0.9,
        "leak": "fact",
        "leaked_in": "k2",
        "flagged": True,
        "nearest_text": HOSTILE,
        "leaked_text": HOSTILE,
        "asked": True,
        "trained": False,
    }
    return {**made, **changes}


def view(**changes: Any) -> QuestionView:
    shown = Shown(
        0, f"thinking {HOSTILE}", ladder((16, 5, True), (None, 200, False)), [{"role": "user", "content": HOSTILE}]
    )
    marks = (SampleMark(0, "right"), SampleMark(1, "refused"))
    student = {"student_key": "s", "name": HOSTILE, "row_count": 3, "made_by": "fs1"}
    runs = tuple(
        RunView(choice, {"student_key": "s", "samples": 2}, None, marks, (shown,), student) for choice in FRAME.choices
    )
    link = {"role": "question", "entity": "Q1", "source": "gold_qid", "label": HOSTILE}
    judge = {"position": 0, "model": HOSTILE, "question": "contains"}
    made: dict[str, Any] = {
        "frame": FRAME,
        "question": question(),
        "links": [link],
        "runs": runs,
        "judges": [judge],
        "drawing": f"<svg xmlns='http://www.w3.org/2000/svg'><text>{HOSTILE}</text></svg>",
        "graph": HOSTILE,
    }
    return QuestionView(**{**made, **changes})


class Tags(HTMLParser):
    """The elements of a page, and its ids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


class TestFilters:
    def test_an_address_and_its_filters_are_the_same(self) -> None:
        filters = Filters(q="who & what", hops=0, show="a_only", a="fs1@big<i>7b & co", a_budget="none", page=3)
        address = filters.link("/explore")
        assert address == "/explore?q=who+%26+what&hops=0&show=a_only&page=3&a=fs1%40big%3Ci%3E7b+%26+co&a_budget=none"
        pairs = [pair.split("=") for pair in address.split("?")[1].split("&")]
        assert Filters.of({name: unquote_plus(value) for name, value in pairs}) == filters

    def test_what_is_at_its_default_is_not_in_the_address(self) -> None:
        assert Filters(show="all", sort="id", page=1).link("/explore") == "/explore"
        assert Filters.of({"q": " ", "hops": "", "a": ""}) == Filters()

    def test_a_question_is_opened_at_its_first_sample(self) -> None:
        assert Filters(page=4, a_sample=3, q="x").question_link("k/1") == "/question/k/1?q=x"

    @pytest.mark.parametrize(
        "query",
        [{"hops": "many"}, {"a_budget": "0"}, {"sort": "name"}, {"page": "-1"}, {"q": "x" * 201}, {"unknown": "1"}],
    )
    def test_nonsense_is_named(self, query: dict[str, str]) -> None:
        (name,) = query
        with pytest.raises(InputError, match=rf"^{name}=") as told:
            Filters.of(query)
        assert len(str(told.value)) < 200

    def test_only_filters_narrow_the_list(self) -> None:
        assert not Filters(sort="tokens", a="x", page=2).narrowed
        assert Filters(hops=0).narrowed
        assert Filters(show="both").narrowed


class TestPieces:
    def test_a_thought_is_split_where_budgets_cut_it(self) -> None:
        shown = Shown(0, "abcdefghij", ladder((2, 3, True), (4, 6, True), (None, 10, False)), [])
        found = pieces(shown, None)
        assert [piece.text for piece in found] == ["abc", "def", "ghij"]
        assert [[end["budget"] for end in piece.ends] for piece in found] == [[2], [4], []]
        assert [piece.beyond for piece in found] == [False, False, False]

    def test_what_the_chosen_budget_has_not_seen_is_beyond(self) -> None:
        shown = Shown(0, "abcdefghij", ladder((2, 3, True), (4, 6, True), (None, 10, False)), [])
        assert [piece.beyond for piece in pieces(shown, 2)] == [False, True, True]
        assert [piece.beyond for piece in pieces(shown, 4)] == [False, False, True]

    def test_budgets_that_ended_at_the_same_place_share_a_mark(self) -> None:
        shown = Shown(0, "abcdef", ladder((2, 3, True), (3, 3, True), (None, 6, False)), [])
        assert [[end["budget"] for end in piece.ends] for piece in pieces(shown, None)] == [[2, 3], []]

    def test_an_end_that_a_larger_budget_put_off_is_marked(self) -> None:
        shown = Shown(0, "abc Wait, def", ladder((40, 3, False), (80, 13, False)), [])
        first, last = pieces(shown, 80)
        assert (first.text, first.ends[0]["budget"], first.ends[0]["cut"]) == ("abc", 40, False)
        assert (last.text, last.ends) == (" Wait, def", ())

    def test_a_cut_at_the_very_end_keeps_its_mark(self) -> None:
        (piece,) = pieces(Shown(0, "abc", ladder((16, 3, True)), []), 16)
        assert piece.text == "abc"
        assert len(piece.ends) == 1

    @pytest.mark.parametrize("chars", [0, 999])
    def test_a_thought_that_is_empty_or_shorter_than_told_is_shown(self, chars: int) -> None:
        found = pieces(Shown(0, "", ladder((16, chars, True)), []), 16)
        assert [piece.text for piece in found] == [""]

    def test_text_is_never_lost(self) -> None:
        text = "0123456789" * 5
        shown = Shown(0, text, ladder((1, 0, True), (2, 13, True), (3, 49, True), (4, 50, True)), [])
        for budget in (1, 2, 3, 4, None):
            assert "".join(piece.text for piece in pieces(shown, budget)) == text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "cut at the budget, answer forced"),
        ({"cut": False, "forced": False}, "closed its thinking"),
        ({"cut": False, "forced": True, "ended": "eos"}, "ended its turn, answer asked for"),
        ({"cut": False, "forced": False, "ended": "length"}, "reached the limit"),
        ({"cut": False, "forced": False, "ended": None}, "ended by itself"),
        ({"finish": "length"}, "cut at the budget, answer forced; its answer was cut at the limit"),
        (
            {
                "cut": False,
                "forced": False,
                "ended": "length",
                "stops": [{"position": 16, "ended": "eos"}],
                "extensions": 2,
            },
            "ended its turn, 2 earlier ends put off",
        ),
    ],
)
def test_why_a_trace_ended(changes: dict[str, Any], words: str) -> None:
    assert ending(trace(**changes)) == words


@pytest.mark.parametrize(
    ("how", "correct", "state"),
    [
        ("boxed", True, "right"),
        ("boxed", False, "wrong"),
        ("none", False, "unparsed"),
        ("refused", False, "refused"),
        (None, False, "unscored"),
    ],
)
def test_the_state_of_a_trace(how: str | None, correct: bool, state: str) -> None:
    assert state_of(trace(how=how, correct=correct)) == state
    assert state_of(None) == "missing"


class TestPages:
    def test_every_text_of_every_page_is_escaped(self) -> None:
        row = {**question(), "place": 1, "total": 1, "a_correct": 1, "a_samples": 2, "a_majority": True}
        row |= {"b_correct": None, "b_samples": None, "b_majority": None}
        kinds = [{"dataset": HOSTILE, "hops": 2, "answer_type": "entity", "flagged": True, "questions": 1}]
        taught = {
            "recipe": "fs1",
            "model": HOSTILE,
            "held_out": True,
            "thinking_tokens": 3,
            "answer_tokens": 2,
            "position": 0,
        }
        taught |= {
            "prediction": HOSTILE,
            "training_set": "set",
            "thinking": HOSTILE,
            "answer_text": HOSTILE,
            "messages": [],
        }
        taught |= {"forced": False, "self_contained": False}
        student = {
            "name": HOSTILE,
            "made_by": "fs1",
            "base": HOSTILE,
            "row_count": 1,
            "training_set": HOSTILE,
            "seconds": 3.0,
        }
        student |= {
            "teachers": [{"model": HOSTILE, "traces": 1, "questions": 1, "held_out": 0}],
            "weights_hash": HOSTILE,
        }
        student |= {
            "held_out_before": None,
            "held_out_after": 1.0,
            "statistics": {"x": HOSTILE, "dropped": {HOSTILE: 1}},
        }
        student |= {"hyperparameters": {HOSTILE: 1}, "examples": [{**question(), "traces": 1, "held_out": False}]}
        filters = Filters(q=HOSTILE)
        pages = [
            render_list(ListView(FRAME, filters, kinds, [row], *FRAME.choices)),
            render_question(view(filters=filters, training=[taught], previous=HOSTILE, next="k3", place=2, total=3)),
            render_student(FRAME, student, filters),
            render_message(FRAME, HOSTILE, HOSTILE, retry=True),
        ]
        for page in pages:
            tags = Tags(page)
            assert [one.get("src") for one in tags.of("script")] == ["/explore/explorer.js"]
            assert all((one.get("src") or "").startswith("data:image/svg+xml;base64,") for one in tags.of("img"))
            assert not tags.of("style")
            assert not [
                name
                for _, attributes in tags.elements
                for name in attributes
                if name.startswith("on") or name == "style"
            ]
            assert HOSTILE in unescape(page)

    def test_ids_are_not_repeated(self) -> None:
        ids = [one["id"] for _, one in Tags(render_question(view())).elements if "id" in one]
        assert len(ids) == len(set(ids))

    def test_a_run_that_was_not_asked_is_told(self) -> None:
        runs = (view().runs[0], RunView(FRAME.choices[1], None, None))
        assert "This question was not asked in this run." in render_question(view(runs=runs))

    def test_signs_never_stand_alone(self) -> None:
        page = render_question(view())
        for sign, words in (("✓", "right"), ("⊘", "refused")):
            assert re.search(rf'<span aria-hidden="true">{sign}</span> {words}', page)

    def test_a_list_without_a_match_says_so(self) -> None:
        assert "No question is like this." in render_list(ListView(FRAME, Filters(), [], [], *FRAME.choices))


class TestExport:
    def test_pages_hold_everything_and_run_only_their_own_script(self, tmp_path: Path) -> None:
        second = view(question=question(question_key="k2", question_id="../../etc/passwd"))
        index = export_questions([view(), second], tmp_path / "questions")
        files = sorted(index.parent.iterdir())
        assert [file.name for file in files] == sorted(["index.html", file_name(view()), file_name(second)])
        for file in files:
            page = file.read_text(encoding="utf-8")
            tags = Tags(page)
            (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
            policy = next(
                one["content"] or "" for one in tags.of("meta") if one.get("http-equiv") == "Content-Security-Policy"
            )
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            assert f"script-src 'sha256-{digest}'" in policy
            assert policy.startswith("default-src 'none'")
            assert not tags.of("link")
            targets = [one[name] or "" for _, one in tags.elements for name in ("href", "src") if name in one]
            assert all(re.fullmatch(r"(data:.*|#[\w-]+|[\w.-]+\.html|\.\./index\.html)", target) for target in targets)

    def test_every_link_between_the_pages_leads_somewhere(self, tmp_path: Path) -> None:
        views = [view(question=question(question_key=f"k{place}", question_id=f"q{place}")) for place in range(3)]
        index = export_questions(views, tmp_path, back=None)
        for file in index.parent.iterdir():
            page = file.read_text(encoding="utf-8")
            ids = {one["id"] for _, one in Tags(page).elements if "id" in one}
            for one in Tags(page).of("a"):
                target = one["href"] or ""
                assert target[1:] in ids if target.startswith("#") else (tmp_path / target).is_file()

    @pytest.mark.parametrize("name", ["../../x", "", "a" * 300, "CON", "q?*|<>\n", "日本"])
    def test_file_names_are_safe_and_differ(self, name: str) -> None:
        first, second = (view(question=question(question_id=name, question_key=key)) for key in ("k1", "k2"))
        assert re.fullmatch(r"question-[a-z0-9-]{1,80}\.html", file_name(first))
        assert file_name(first) != file_name(second)

    def test_pages_of_an_earlier_export_go_and_other_files_stay(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        export_questions([view(question=question(question_id="old"))], tmp_path)
        export_questions([view(question=question(question_id="new"))], tmp_path)
        names = {file.name for file in tmp_path.iterdir()}
        assert names == {"notes.txt", "index.html", file_name(view(question=question(question_id="new")))}

    def test_an_export_is_removed_without_what_others_put_there(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        export_questions([view()], tmp_path)
        remove_questions(tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
        remove_questions(tmp_path / "none")

    def test_an_export_of_nothing_is_an_empty_list(self, tmp_path: Path) -> None:
        assert "0 questions" in export_questions([], tmp_path).read_text(encoding="utf-8")

    def test_a_folder_that_cannot_be_written_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "questions").write_text("a file")
        with pytest.raises(RunError, match="could not be written"):
            export_questions([view()], tmp_path / "questions")
