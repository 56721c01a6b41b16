"""The trace explorer as a person meets it: a real server over a real store, and its pages in a real browser."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from browser import CHROMIUM, Page, browser
from made_study import FLAGGED, HOSTILE, STUDY, Made, make

import flows.explorer
from eval.question_pages import export_questions
from flows.explorer import explorer_app, running_explorer, serve_explorer
from store.home import Home
from store.scores import score_study
from store.types import InputError
from tasks.exploring import Explorer

QUESTIONS = 60  # more than a page has
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


class Served(NamedTuple):
    """A served study: its facts, where it lies, and the server's address."""

    made: Made
    home: Home
    report: Path
    url: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = Home(tmp_path_factory.mktemp("home"))
    made = make(home.store, questions=QUESTIONS, samples=2)
    score_study(home.store, STUDY)
    report = home.reports / "made"
    views = Explorer(home.store, STUDY, "made").exported_views(["q0", "q1", "q2", "t2"])
    export_questions(views, report / "questions")
    (report / "index.html").write_text("<title>drawn</title><style>p { color: red }</style><p>The report</p>")
    (report / ".hidden.html").write_text("half a page")
    (report / "plot.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (home.folder / "secret.txt").write_text("not for readers")
    (report / "way-out").symlink_to(home.folder / "secret.txt")
    with running_explorer(home, STUDY, report) as url:
        yield Served(made, home, report, url)


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browser() as page:
        yield page


def get(served: Served, path: str, **headers: str) -> httpx.Response:
    return httpx.get(served.url + path, headers=headers, trust_env=False)


class TestServer:
    def test_the_report_is_served_as_it_was_drawn(self, served: Served) -> None:
        found = get(served, "/")
        assert "The report" in found.text
        assert "'unsafe-inline'" in found.headers["content-security-policy"]
        assert "sandbox" in get(served, "/plot.svg").headers["content-security-policy"]
        assert "Questions" in get(served, "/questions/").text

    def test_without_a_report_the_list_is_where_one_lands(self, served: Served, tmp_path: Path) -> None:
        with running_explorer(served.home, STUDY, tmp_path / "not-drawn") as url:
            assert httpx.get(url, trust_env=False).headers["location"] == "/explore"
            assert httpx.get(f"{url}/index.html", trust_env=False).status_code == 404
            assert ">Report</a>" not in httpx.get(f"{url}/explore", trust_env=False).text

    @pytest.mark.parametrize(
        "path",
        [
            "/../secret.txt",
            "/%2e%2e/%2e%2e/secret.txt",
            "/..%2f..%2fsecret.txt",
            "//etc/passwd",
            "/way-out",
            "/.hidden.html",
            "/questions/%00",
            "/no-such-page",
        ],
    )
    def test_nothing_outside_the_report_is_served(self, served: Served, path: str) -> None:
        with socket.create_connection((urlsplit(served.url).hostname, urlsplit(served.url).port), timeout=10) as wire:
            wire.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: wire.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 404")
        assert b"not for readers" not in answer
        assert b"half a page" not in answer
        assert b"Traceback" not in answer

    @pytest.mark.parametrize("path", ["/", "/explore", "/question/q0", "/plot.svg", "/student/student-fs1"])
    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
    def test_nothing_can_be_written(self, served: Served, method: str, path: str) -> None:
        assert httpx.request(method, served.url + path, trust_env=False).status_code == 405

    def test_a_head_request_gets_headers_only(self, served: Served) -> None:
        found = httpx.head(f"{served.url}/question/q1", trust_env=False)
        assert found.status_code == 200
        assert not found.content

    @pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""])
    def test_on_loopback_only_its_names_are_answered(self, served: Served, host: str) -> None:
        assert get(served, "/explore", Host=host).status_code == 400
        assert get(served, "/", Host=host).status_code == 400
        for good in ("localhost", "LOCALHOST:1234", "127.0.0.1"):
            assert get(served, "/explore", Host=good).status_code == 200

    def test_another_host_must_be_named_and_is_then_answered(self, served: Served) -> None:
        with running_explorer(served.home, STUDY, served.report, host="0.0.0.0") as url:  # noqa: S104
            port = urlsplit(url).port
            found = httpx.get(f"http://127.0.0.1:{port}/explore", headers={"Host": "big.lab"}, trust_env=False)
            assert found.status_code == 200

    @pytest.mark.parametrize(
        "path", ["/", "/explore", "/question/q0", "/question/none", "/explore?hops=x", "/plot.svg"]
    )
    def test_every_answer_keeps_to_itself(self, served: Served, path: str) -> None:
        headers = get(served, path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in headers

    def test_explorer_pages_allow_no_inline_script(self, served: Served) -> None:
        policy = get(served, "/question/q0").headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "script-src 'self'" in policy

    @pytest.mark.parametrize(
        "path", ["/explore", "/question/q0", "/question/t1", "/student/student-fs1", "/questions/"]
    )
    def test_every_text_is_escaped(self, served: Served, path: str) -> None:
        page = get(served, path).text
        assert "&lt;script&gt;alert(" in page
        assert "<script>alert(" not in page
        assert "<img src=http" not in page
        assert "<i>7b" not in page

    def test_what_is_not_there_is_told(self, served: Served) -> None:
        for path, words in (("/question/none", "no question of this key"), ("/student/none", "no student of this key")):
            found = get(served, path)
            assert found.status_code == 404
            assert words in found.text

    @pytest.mark.parametrize(
        ("query", "words"),
        [
            ("hops=x", "hops=x"),
            ("show=everything", "show=everything"),
            ("page=0", "page=0"),
            ("a_budget=-5", "a_budget=-5"),
            ("a_budget=17", "no run of the study has this budget"),
            ("a=fs1@nobody", "no such model and setting"),
            ("colour=<b>red", "colour=&lt;b&gt;red: is no parameter"),
        ],
    )
    def test_an_address_without_sense_is_told(self, served: Served, query: str, words: str) -> None:
        for path in ("/explore", "/question/q0"):
            found = get(served, f"{path}?{query}")
            assert found.status_code == 400
            assert words in found.text

    def test_a_store_that_is_held_is_told_and_asked_again(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(flows.explorer, "LOCK_SECONDS", 0.2)
        code = "import duckdb, sys; db = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
        with running_explorer(served.home, STUDY, served.report) as url:
            command = [sys.executable, "-c", code, str(served.home.store.path)]
            with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as holder:
                assert holder.stdout is not None
                assert holder.stdout.readline() == "held\n"
                for path in ("/explore", "/question/q1"):
                    found = httpx.get(url + path, trust_env=False)
                    assert found.status_code == 503
                    assert found.headers["retry-after"] == "3"
                    assert '<meta http-equiv="refresh" content="3">' in found.text
                    assert "locked by another process" in found.text
                assert httpx.get(url, trust_env=False).status_code == 200  # the report needs no store
                holder.communicate()
            assert httpx.get(f"{url}/explore", trust_env=False).status_code == 200

    def test_between_pages_the_store_is_free(self, served: Served) -> None:
        get(served, "/explore")
        code = "import duckdb, sys; duckdb.connect(sys.argv[1]).close()"
        subprocess.run([sys.executable, "-c", code, str(served.home.store.path)], check=True, timeout=60)

    def test_a_store_that_is_gone_is_told_and_not_made(self, tmp_path: Path) -> None:
        home = Home(tmp_path)
        make(home.store, questions=2, samples=1)
        with running_explorer(home, STUDY, tmp_path / "report") as url:
            home.store.path.unlink()
            assert httpx.get(f"{url}/explore", trust_env=False).status_code == 503
            assert not home.store.path.exists()

    def test_bad_input_is_refused_before_anything_is_served(self, served: Served, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no store at"):
            explorer_app(Home(tmp_path), STUDY, tmp_path)
        with pytest.raises(InputError, match="has not landed"):
            explorer_app(served.home, "another", tmp_path)
        with pytest.raises(InputError, match=r"cannot be listened on .*with --port"):
            serve_explorer(served.home, STUDY, tmp_path, port=urlsplit(served.url).port or 0)
        with pytest.raises(InputError, match=r"cannot be listened on .*with --host"):
            serve_explorer(served.home, STUDY, tmp_path, host="no.such.host.invalid")

    def test_a_signal_ends_it_well(self, served: Served) -> None:
        code = (
            "import sys; from pathlib import Path; from store.home import Home; from flows.explorer import serve_explorer; "
            "serve_explorer(Home(Path(sys.argv[1])), sys.argv[2], Path('x'), port=0, on_start=lambda url: print(url, flush=True))"
        )
        command = [sys.executable, "-c", code, str(served.home.folder), STUDY]
        with ExitStack() as stack:
            started = [
                (number, stack.enter_context(subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True)))
                for number in (signal.SIGINT, signal.SIGTERM)
            ]
            kept_open = stack.enter_context(httpx.Client(trust_env=False))
            for number, process in started:
                assert process.stdout is not None
                assert process.stderr is not None
                url = process.stdout.readline().strip()
                assert kept_open.get(f"{url}/explore/explorer.css").status_code == 200
                os.kill(process.pid, number)
                assert process.wait(timeout=20) == 0
                assert process.stderr.read() == ""


class TestQuestionPage:
    def test_both_runs_stand_side_by_side_with_their_cuts(self, served: Served) -> None:
        page = get(served, "/question/q1?a_budget=16").text
        assert page.count('<article class="run') == 2
        fact = next(f for f in served.made.facts if (f.run, f.question, f.sample, f.budget) == ("run-3", 1, 0, 16))
        assert ("✂ budget 16 (shown below): cut here" in page) == fact.cut
        assert "judge judge-model-2 (grade):" in page
        assert '<a href="/student/student-fs1?a_budget=16">tiny-135m-fs1</a>' in page

    def test_overlap_is_told_with_the_nearest_training_question(self, served: Served) -> None:
        copied, leaked = FLAGGED
        assert "A training question has the same words." in get(served, f"/question/q{copied}").text
        page = get(served, f"/question/q{leaked}").text
        assert "This question overlaps with training." in page
        assert "A training prompt holds its fact: <q>What is the capital of land 1?" in page
        assert f'<a href="/question/t{leaked % 3}">' in page
        page = get(served, "/question/q1").text
        assert "overlaps with training" not in page
        assert "Nearest training question" in page

    def test_a_training_question_shows_paths_and_what_was_taught(self, served: Served) -> None:
        page = get(served, "/question/t2").text
        assert "data:image/svg+xml;base64," in page
        assert "Paths as a teacher reads them" in page
        assert "taught by teacher-1" in page
        assert "teacher thinks, fs1 2" in page

    def test_a_question_that_an_old_list_does_not_hold_is_shown_without_a_place(self, served: Served) -> None:
        assert "not in the list" in get(served, "/question/q1?q=number+7").text

    def test_a_sample_that_never_landed_is_told(self, served: Served) -> None:
        assert "This sample has not landed." in get(served, "/question/q1?a_sample=9").text


@needs_browser
class TestBrowser:
    @pytest.mark.parametrize(
        "path",
        [
            "/explore",
            "/question/q0",
            "/question/t2",
            "/student/student-fs1",
            "/explore?q=nothing+like+it",
            "/questions/",
        ],
    )
    def test_pages_open_without_a_complaint_and_fit(self, served: Served, tab: Page, path: str) -> None:
        tab.open(served.url + path)
        assert tab.complaints == []
        assert tab.run("document.documentElement.scrollWidth") <= 1280
        assert tab.run("document.title").endswith("made · factscale")
        assert {urlsplit(url).netloc for url in tab.requests if not url.startswith("data:")} == {
            urlsplit(served.url).netloc
        }
        assert tab.run("document.querySelectorAll('main, h1').length") == 2
        assert tab.run("[...document.querySelectorAll('input:not([type=hidden]), select')].every(x => x.labels.length)")
        assert tab.run("[...document.images].every(x => x.naturalWidth > 0)")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("path", ["/explore", "/question/q0?a_budget=16", "/student/student-fs1"])
    def test_words_stand_out_from_what_is_behind_them(self, served: Served, tab: Page, path: str, scheme: str) -> None:
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        tab.open(served.url + path)
        assert tab.run("getComputedStyle(document.body).backgroundColor === 'rgb(252, 252, 251)'") == (
            scheme == "light"
        )
        assert tab.run(CONTRAST) == []
        tab.call("Emulation.setEmulatedMedia", features=[])

    def test_a_form_filters_and_its_address_can_be_shared(self, served: Served, tab: Page) -> None:
        tab.open(f"{served.url}/explore")
        assert tab.run("document.querySelector('.count').innerText").startswith(f"{QUESTIONS} questions")
        tab.run("document.querySelector('[name=hops]').value = '2'")
        tab.press("/")
        tab.write("CITY number")
        with tab.loading():
            tab.press("Enter")
        assert parse_qs(urlsplit(tab.run("location.href")).query, keep_blank_values=True) == {
            "q": ["CITY number"],
            "hops": ["2"],
            "a": ["fs1@tiny-135m"],
            "b": ["instruct@tiny-135m"],
        }
        expected = [f"q{place}" for place in range(QUESTIONS) if place % 3 == 1 and place != 9]
        shown = "[...document.querySelectorAll('a[data-row]')].map(x => x.pathname.split('/').pop())"
        assert tab.run(shown) == expected
        assert tab.run("document.querySelector('.count').innerText").startswith(
            f"{len(expected)} of {QUESTIONS} questions"
        )

    def test_keys_lead_through_list_and_questions(self, served: Served, tab: Page) -> None:
        tab.open(f"{served.url}/explore?hops=3")
        for key, row in (("j", 0), ("j", 1), ("ArrowDown", 2), ("k", 1)):
            tab.press(key)
            assert tab.run("[...document.querySelectorAll('a[data-row]')].indexOf(document.activeElement)") == row
        assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        with tab.loading():
            tab.press("Enter")
        assert tab.run("location.pathname + location.search") == "/question/q5?hops=3"
        for key, place in (("n", "/question/q8?hops=3"), ("p", "/question/q5?hops=3")):
            with tab.loading():
                tab.press(key)
            assert tab.run("location.pathname + location.search") == place
        with tab.loading():
            tab.press("2")
        assert (
            tab.run("[...document.querySelectorAll('.strip [aria-current]')].map(x => x.innerText[0]).join()") == "2,2"
        )
        tab.press("?")
        assert tab.run("document.getElementById('keys').open")
        tab.press("?")
        assert not tab.run("document.getElementById('keys').open")
        with tab.loading():
            tab.press("u")
        assert tab.run("location.pathname + location.search") == "/explore?hops=3"
        assert tab.complaints == []

    def test_letters_in_a_field_are_letters(self, served: Served, tab: Page) -> None:
        tab.open(f"{served.url}/explore")
        tab.press("/")
        for letter in "j?n2":
            tab.press(letter)
        assert tab.run("document.activeElement.value") == "j?n2"
        assert not tab.run("document.getElementById('keys').open")

    def test_samples_and_budgets_are_links(self, served: Served, tab: Page) -> None:
        tab.open(f"{served.url}/question/q1")
        with tab.loading():
            tab.run("document.querySelectorAll('.strip')[1].querySelectorAll('a')[1].click()")
        with tab.loading():
            tab.run("document.querySelector('.ladder-table a').click()")
        assert set(parse_qs(urlsplit(tab.run("location.href")).query)) == {"b_sample", "a_budget"}

    def test_exported_pages_work_from_a_folder(self, served: Served, tab: Page) -> None:
        folder = served.report / "questions"
        tab.open((folder / "index.html").as_uri())
        tab.press("/")
        tab.write("lima")  # a gold answer
        assert tab.run("document.querySelector('[data-count]').innerText") == "1 of 4 questions"
        assert tab.run("[...document.querySelectorAll('tbody tr')].filter(x => x.offsetParent).length") == 1
        tab.press("Escape")
        tab.press("j")
        with tab.loading():
            tab.press("Enter")
        assert tab.run("document.querySelector('h1').innerText") == "Which city is number 1?"
        tab.press("2")
        opened = "[...document.querySelectorAll('details.sample[open]')].map(x => x.dataset.sample).join('')"
        assert set(tab.run(opened)) == {"2"}
        with tab.loading():
            tab.press("p")
        assert HOSTILE in tab.run("document.querySelector('h1').innerText")
        assert tab.complaints == []
        assert tab.run("document.documentElement.scrollWidth") <= 1280
        assert {urlsplit(url).scheme for url in tab.requests} <= {"file", "data"}

    def test_an_exported_list_shows_every_row_without_scripts(self, served: Served, tab: Page) -> None:
        tab.call("Emulation.setScriptExecutionDisabled", value=True)
        try:
            tab.open((served.report / "questions" / "index.html").as_uri())
            document = tab.call("DOM.getDocument")["root"]["nodeId"]
            shown = tab.call("DOM.querySelectorAll", nodeId=document, selector="tr[data-words]:not([hidden])")
            forms = tab.call("DOM.querySelectorAll", nodeId=document, selector="form:not([hidden])[data-filter]")
        finally:
            tab.call("Emulation.setScriptExecutionDisabled", value=False)
        assert len(shown["nodeIds"]) == 4
        assert forms["nodeIds"] == []


# Texts whose contrast with the nearest painted background is below 4.5 (WCAG AA), with the ratio.
CONTRAST = """
(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = (c) => [0, 1, 2].map((i) => c[i] / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; }
    return [255, 255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const words = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!words || e.closest('dialog, select, script, svg, .sr, .skip') || !e.offsetParent) continue;
    const [a, b] = [light(rgba(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push(`${e.className || e.tagName}: ${ratio.toFixed(2)}`);
  }
  return found;
})()
"""
