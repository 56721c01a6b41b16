"""Where the official files come from: the list that ships, what is wrong with others, and where fetched files lie."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from eval.benchmarks import LOADERS, load
from eval.benchmarks.records import SPLIT_WORDS
from eval.benchmarks.registry import (
    REGISTRY,
    Place,
    data_folder,
    fetched_file,
    load_registry,
    local_file,
    published,
    shipped,
)
from store.types import InputError, Split

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PARTS = [(entry, part) for entry in shipped().benchmarks for part in entry.splits]


def write(folder: Path, *splits: dict[str, Any], **fields: Any) -> Path:
    path = folder / "benchmarks.yaml"
    base = {"name": "mine", "title": "Mine", "licence": "MIT", "paper": "https://a.org", "page": "https://b.org"}
    made = [{"split": "test", "file": "mine_test.json", **split} for split in splits or ({},)]
    path.write_text(yaml.safe_dump({"benchmarks": [{**base, "splits": made, **fields}]}), encoding="utf-8")
    return path


def test_every_loader_of_a_public_benchmark_has_an_entry() -> None:
    assert {entry.name for entry in shipped().benchmarks} == set(LOADERS) - {"starter", "jsonl"}
    assert load_registry(REGISTRY) == shipped()


@pytest.mark.parametrize(("entry", "part"), PARTS, ids=lambda one: getattr(one, "file", getattr(one, "name", "")))
def test_files_say_their_split_and_sources_are_pinned(entry: Any, part: Any) -> None:
    words = {SPLIT_WORDS.get(word) for word in re.findall("[a-z]+", part.file.lower())} - {None}
    assert words == {part.split}
    assert part.published or entry.name == "fs1"
    for place in part.sources:
        if place.url and "githubusercontent" in place.url:
            assert re.search("/[0-9a-f]{40}/", place.url)


def test_published_numbers() -> None:
    assert published("cwq", "dev") == 3_519
    assert published("webqsp", "dev") is None
    assert published("starter", "test") is None
    assert sum(published(entry.name, "test") or 0 for entry in shipped().benchmarks) == 29_964


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"file": "../x"}, r"benchmarks\.mine\.splits\.test\.file: .*'\.\./x'"),
        ({"split": "validation"}, r"splits\.validation\.split: .*'train', 'dev' or 'test'"),
        ({"published": 0}, r"splits\.test\.published: .*\(got 0\)"),
        ({"sha256": "ABC"}, r"splits\.test\.sha256: .*'ABC'"),
        ({"hash": "x"}, r"splits\.test\.hash: unknown field: remove it"),
        ({"sources": [{}]}, r"sources\.0: a source has either `hub` .* or `url`"),
        ({"sources": [{"url": "ftp://a.org/x"}]}, "an https address is needed.*'ftp://a.org/x'"),
        ({"sources": [{"url": "http://a.org/x"}]}, "an https address is needed"),
        ({"sources": [{"url": "https://a.org/x", "revision": COMMIT}]}, "revision and file are for `hub`"),
        ({"sources": [{"hub": "owner", "revision": COMMIT, "file": "x"}]}, r"sources\.0\.hub: .*'owner'"),
        (
            {"sources": [{"hub": "a/b", "file": "x"}]},
            "revision None does not pin the hub dataset a/b; set the commit hash",
        ),
        ({"sources": [{"hub": "a/b", "revision": "main", "file": "x"}]}, "revision 'main' does not pin"),
        ({"sources": [{"hub": "a/b", "revision": COMMIT}]}, "hub a/b: name the file of the repository"),
        ({"sources": [{"hub": "a/b", "revision": COMMIT, "file": "x", "member": "y"}]}, "and no member"),
        ({"sources": [{"hub": "a/b", "url": "https://a.org"}]}, "either `hub`"),
    ],
)
def test_bad_entries(tmp_path: Path, split: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_registry(write(tmp_path, split))
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_what_is_there_twice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"benchmarks\.mine\.splits: split 'test' is there twice"):
        load_registry(write(tmp_path, {}, {"file": "other_test.json"}))
    with pytest.raises(InputError, match=r"file 'mine_test\.json' is there twice"):
        load_registry(write(tmp_path, {}, {"split": "dev"}))
    path = write(tmp_path)
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({"benchmarks": content["benchmarks"] * 2}))
    with pytest.raises(InputError, match="name 'mine' is there twice"):
        load_registry(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"benchmarks: {", "is not YAML"),
        (b"\xff", "is not YAML"),
        (b"- a", "needs a list `benchmarks`"),
        (b"benchmarks: []", "benchmarks: .*at least 1 item"),
    ],
)
def test_files_that_are_no_registry(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_registry(path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_registry(tmp_path / "none.yaml")


def test_unknown_names_and_splits() -> None:
    with pytest.raises(InputError, match=r"dataset 'mintak' is not in .*: did you mean 'mintaka'"):
        shipped().entry("mintak")
    with pytest.raises(InputError, match="dataset 'webqsp': it has no split 'dev', it has train, test"):
        shipped().entry("webqsp").of("dev")


def test_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACTSCALE_CACHE", str(tmp_path / "mine"))
    assert data_folder() == tmp_path / "mine" / "data"
    monkeypatch.delenv("FACTSCALE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_folder() == tmp_path / "factscale" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_folder() == Path.home() / ".cache" / "factscale" / "data"


@pytest.mark.parametrize("name", sorted(set(LOADERS) - {"starter", "jsonl"}))
@pytest.mark.parametrize("split", get_args(Split))
def test_without_its_file_a_benchmark_names_the_command(tmp_path: Path, name: str, split: Split) -> None:
    there = [part.split for part in shipped().entry(name).splits]
    message = f"run `factscale data get {name} --split {split}`" if split in there else f"it has no split '{split}'"
    with pytest.raises(InputError, match=message):
        load(name, split, folder=tmp_path)


def test_a_fetched_file_is_found_plain_and_gzipped(tmp_path: Path) -> None:
    part = shipped().entry("mintaka").of("dev")
    assert local_file("mintaka", part, tmp_path) is None
    (tmp_path / "mintaka").mkdir()
    packed = tmp_path / "mintaka" / "mintaka_dev.json.gz"
    packed.touch()
    assert fetched_file("mintaka", "dev", tmp_path) == packed
    plain = tmp_path / "mintaka" / "mintaka_dev.json"
    plain.touch()
    assert fetched_file("mintaka", "dev", tmp_path) == plain


def test_addresses() -> None:
    hub = Place(hub="a/b", revision=COMMIT, file="c/d.json")
    assert hub.address == f"https://huggingface.co/datasets/a/b/resolve/{COMMIT}/c/d.json"
    assert Place(url="https://a.org/x.zip", member="y.json").address == "https://a.org/x.zip (y.json)"
