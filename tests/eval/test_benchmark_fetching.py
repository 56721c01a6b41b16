"""Fetching files over a real socket: what lands, what is refused, and that nothing is left of what failed."""

import gzip
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from file_server import Answer, FileServer
from made_benchmarks import array, cwq_record, mintaka_record

from eval.benchmarks import load
from eval.benchmarks.fetching import fetch, origin, register
from eval.benchmarks.registry import Benchmark, SplitFile
from store.types import InputError, RunError

DATA = json.dumps([mintaka_record(1), mintaka_record(2)]).encode()
SHA256 = hashlib.sha256(DATA).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def zipped(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return packed.getvalue()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({"/dev.json": Answer(DATA)}) as running:
        yield running


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.benchmarks.fetching._BACKOFF", 0.001)


def entry(*sources: dict[str, Any], name: str = "mintaka", **fields: Any) -> tuple[Benchmark, SplitFile]:
    """A benchmark with one split, of 2 records."""
    part = {"split": "dev", "file": "mintaka_dev.json", "published": 2, "sources": sources, **fields}
    page = "https://example.org/page"
    made = Benchmark.model_validate(
        {"name": name, "title": "M", "licence": "MIT", "paper": page, "page": page, "splits": [part]}
    )
    return made, made.splits[0]


def nothing_is_left(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if path.is_file() or path.name.startswith(".partial-")]


def test_what_lands(server: FileServer, tmp_path: Path) -> None:
    benchmark, part = entry({"url": f"{server.url}/dev.json"}, sha256=SHA256)
    landed = fetch(benchmark, part, tmp_path)
    assert landed.path == tmp_path / "mintaka" / "mintaka_dev.json"
    assert landed.path.read_bytes() == DATA
    assert (landed.sha256, landed.found.records, landed.new) == (SHA256, 2, True)
    said = origin(landed.path)
    assert (said["source"], said["sha256"], said["records"]) == (f"{server.url}/dev.json", SHA256, 2)
    assert sorted(path.name for path in landed.path.parent.iterdir()) == [
        "mintaka_dev.json",
        "mintaka_dev.json.origin.json",
    ]
    assert [question.id for question in load("mintaka", "dev", folder=tmp_path)] == ["m1", "m2"]
    second = fetch(benchmark, part, tmp_path)
    assert second == landed._replace(new=False)
    assert len(server.asked) == 1
    assert fetch(benchmark, part, tmp_path, again=True).new
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("body", "member"),
    [(gzip.compress(DATA), None), (zipped(data__dev=DATA), "data/dev"), (zipped(x=gzip.compress(DATA)), "x")],
)
def test_packed_files_land_unpacked(tmp_path: Path, body: bytes, member: str | None) -> None:
    with FileServer({"/packed": Answer(body)}) as server:
        place = {"url": f"{server.url}/packed", **({"member": member} if member else {})}
        assert fetch(*entry(place, sha256=SHA256), tmp_path).path.read_bytes() == DATA


def test_a_redirect_and_a_passing_failure(tmp_path: Path) -> None:
    answers: dict[str, Answer | Sequence[Answer]] = {
        "/old": Answer(status=302, headers={"Location": "/new?x=1"}),
        "/new": [Answer(status=503, headers={"Retry-After": "0"}), Answer(DATA)],
    }
    with FileServer(answers) as server:
        assert fetch(*entry({"url": f"{server.url}/old"}), tmp_path).found.questions == 2
        assert server.asked == ["/old", "/new?x=1", "/new?x=1"]


@pytest.mark.parametrize(
    ("answer", "fields", "message"),
    [
        (Answer(b"gone", 404), {}, "cannot be fetched: status 404"),
        (Answer(DATA, cut=10), {}, "cannot be fetched: .*IncompleteRead"),
        (Answer(b"<!DOCTYPE html><p>Sign in"), {}, "gave a web page in place of the file"),
        (Answer(gzip.compress(DATA)[:-9]), {}, "gave no whole gzip file"),
        (Answer(b"PK\x03\x04..."), {"member": "x"}, "gave no whole zip archive"),
        (Answer(zipped(y=DATA)), {"member": "x"}, "the archive has no file x"),
        (Answer(DATA), {"sha256": "0" * 64}, f"has sha256 {SHA256}, and {'0' * 64} is expected"),
        (Answer(DATA), {"published": 3}, "has 2 records, and 3 are published"),
        (
            Answer(b"[{}]"),
            {},
            r"what http://127.0.0.1:\d+/x( \(.*\))? gave, record 1, field 'answer': an object is expected",
        ),
        (Answer(b"\xff\xfe"), {}, "gave, line 1: not UTF-8"),
    ],
)
def test_what_is_refused(tmp_path: Path, answer: Answer, fields: dict[str, Any], message: str) -> None:
    member = {"member": fields["member"]} if "member" in fields else {}
    others = {key: value for key, value in fields.items() if key != "member"}
    with FileServer({"/x": answer}) as server:
        benchmark, part = entry({"url": f"{server.url}/x", **member}, **others)
        with pytest.raises(RunError, match=message) as caught:
            fetch(benchmark, part, tmp_path)
    assert "or fetch it by hand from https://example.org/page, then run `factscale data get mintaka --split dev" in str(
        caught.value
    )
    assert nothing_is_left(tmp_path)


def test_the_next_source_is_tried_and_a_failure_leaves_the_old_file(server: FileServer, tmp_path: Path) -> None:
    gone, good = {"url": f"{server.url}/gone"}, {"url": f"{server.url}/dev.json"}
    landed = fetch(*entry(gone, good), tmp_path)
    assert landed.source == good["url"]
    with pytest.raises(RunError, match=r"gone cannot be fetched: status 404.*; .*gone2 cannot"):
        fetch(*entry(gone, {"url": f"{server.url}/gone2"}), tmp_path, again=True)
    assert landed.path.read_bytes() == DATA
    assert origin(landed.path)["source"] == good["url"]


def test_an_address_that_nobody_answers_at(tmp_path: Path) -> None:
    with FileServer() as server:
        url = server.url
    with pytest.raises(RunError, match=f"{url}/x cannot be fetched: .*refused"):
        fetch(*entry({"url": f"{url}/x"}), tmp_path)


def test_without_a_source_the_page_and_the_command_are_named(tmp_path: Path) -> None:
    message = (
        "mintaka dev: no pinned address of its file is known; fetch it by hand from https://example.org/page, then run "
        r"`factscale data get mintaka --split dev --from FILE` \(take the big one\)"
    )
    with pytest.raises(InputError, match=message):
        fetch(*entry(note="take the big one"), tmp_path)


def test_a_folder_that_cannot_be_written(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "mintaka").touch()
    with pytest.raises(RunError, match=r"cannot be written: .*set FACTSCALE_CACHE to another folder"):
        fetch(*entry({"url": f"{server.url}/dev.json"}), tmp_path)


# By hand --------------------------------------------------------------------------------------------------------------


def test_a_file_fetched_by_hand(tmp_path: Path) -> None:
    packed = tmp_path / "any.gz"
    packed.write_bytes(gzip.compress(DATA))
    landed = register(*entry(sha256=SHA256), packed, tmp_path / "data")
    assert landed.path.read_bytes() == DATA
    assert origin(landed.path)["source"] == str(packed)


def test_an_archive_fetched_by_hand(tmp_path: Path) -> None:
    archive = tmp_path / "all.zip"
    archive.write_bytes(zipped(data__dev=DATA))
    place = {"url": "https://example.org/all.zip", "member": "data/dev"}
    assert register(*entry(place), archive, tmp_path / "data").found.records == 2
    with pytest.raises(InputError, match="the archive has no file other"):
        register(*entry({**place, "member": "other"}), archive, tmp_path / "data")
    with pytest.raises(InputError, match="a zip archive; unpack it, and name the file of mintaka dev"):
        register(*entry(), archive, tmp_path / "data")


def test_another_file_is_taken_unchecked_only(tmp_path: Path) -> None:
    file = array(tmp_path, mintaka_record(), name="mine.json")
    for fields, message in (
        ({"sha256": SHA256}, f"mine.json has sha256 .*, and {SHA256} is"),
        ({}, "mine.json has 1 records"),
    ):
        with pytest.raises(InputError, match=f"{message}.*`--from FILE --unchecked` takes another file all the same"):
            register(*entry(**fields), file, tmp_path / "data")
        assert nothing_is_left(tmp_path / "data")
        assert register(*entry(**fields), file, tmp_path / "data", unchecked=True).found.records == 1
        assert load("mintaka", "dev", folder=tmp_path / "data")[0].id == "m1"
        for path in (tmp_path / "data" / "mintaka").iterdir():
            path.unlink()


def test_a_known_copy_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b"\n".join(json.dumps(mintaka_record(number)).encode() for number in (1, 2)))
    copy = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "what": "records one a line"}
    assert register(*entry(sha256=SHA256, copies=[copy]), file, tmp_path / "data").found.records == 2


def test_what_its_loader_cannot_read_is_never_taken(tmp_path: Path) -> None:
    file = array(tmp_path, mintaka_record(answer={}), mintaka_record(2), name="bad.json")
    with pytest.raises(InputError, match=r"bad\.json, record 1, field 'answer\.answerType'"):
        register(*entry(), file, tmp_path / "data", unchecked=True)
    (tmp_path / "empty.json").write_bytes(b"")
    with pytest.raises(InputError, match=r"empty\.json has no record; give the file of mintaka dev"):
        register(*entry(), tmp_path / "empty.json", tmp_path / "data", unchecked=True)
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        register(*entry(), tmp_path / "none.json", tmp_path / "data")
    assert nothing_is_left(tmp_path / "data")


def test_names_beside_the_place_are_counted_with(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "cwq"
    folder.mkdir(parents=True)
    (folder / "names.tsv").write_text("m.0bb\tLudwig van Beethoven\n")
    file = array(tmp_path, cwq_record(answers=[{"answer": None, "answer_id": "m.0bb"}]), name="any.json")
    benchmark, part = entry(name="cwq", file="ComplexWebQuestions_dev.json", published=1)
    assert register(benchmark, part, file, tmp_path / "data").found.questions == 1


def test_a_gzipped_file_of_before_does_not_stay_beside_the_new_one(server: FileServer, tmp_path: Path) -> None:
    old = tmp_path / "mintaka" / "mintaka_dev.json.gz"
    old.parent.mkdir()
    old.write_bytes(gzip.compress(DATA))
    benchmark, part = entry({"url": f"{server.url}/dev.json"})
    assert not fetch(benchmark, part, tmp_path).new
    assert fetch(benchmark, part, tmp_path, again=True).path.suffix == ".json"
    assert not old.exists()
