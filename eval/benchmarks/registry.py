"""Where the official files of the benchmarks come from, and where they lie here once they were fetched.

``deployments/benchmarks.yaml`` lists the files of every split: pinned sources, the content's sha256 where it is known,
the published number of records. What is fetched lies in ``~/.cache/factscale/data/NAME/``.

Run alone: ``python -m eval.benchmarks.registry`` prints the list.
"""

from __future__ import annotations

import difflib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from store.types import Frozen, InputError, Split

REGISTRY = Path(__file__).resolve().parents[2] / "deployments" / "benchmarks.yaml"

HUB_ID = r"^[\w.-]+/[\w.-]+$"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = r"^[0-9a-f]{64}$"
_FILE = r"^[\w-][\w.-]*$"


def check_pinned(hub: str, revision: str | None) -> None:
    """Raises InputError for a hub dataset without a commit: "main" changes under a study."""
    if revision is None or not _COMMIT.fullmatch(revision):
        raise InputError(
            f"revision {revision!r} does not pin the hub dataset {hub}; set the commit hash (40 hex digits) that "
            f"https://huggingface.co/datasets/{hub}/commits/main shows"
        )


class Place(Frozen):
    """Where one file can be fetched: ``file`` of the hub dataset ``hub`` at the commit ``revision``, or a ``url`` (https),
    of which ``member`` is the file inside a zip archive."""

    hub: str | None = Field(default=None, pattern=HUB_ID)
    revision: str | None = None
    file: str | None = Field(default=None, min_length=1)
    url: str | None = None
    member: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.hub is None) == (self.url is None):
            raise ValueError("a source has either `hub` with `revision` and `file`, or `url`")
        if self.hub is not None:
            check_pinned(self.hub, self.revision)
            if self.file is None or self.member is not None:
                raise ValueError(f"hub {self.hub}: name the file of the repository in `file`, and no member")
        elif self.revision is not None or self.file is not None:
            raise ValueError("revision and file are for `hub`; leave them out beside `url`")
        return self

    @field_validator("url")
    @classmethod
    def _https(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost"):
                raise ValueError("an https address is needed")
        return url

    @property
    def address(self) -> str:
        """What a person can open or download."""
        if self.hub is not None:
            return f"https://huggingface.co/datasets/{self.hub}/resolve/{self.revision}/{self.file}"
        return f"{self.url} ({self.member})" if self.member else self.url or ""


class KnownCopy(Frozen):
    """Another form of a file with the same records. ``sha256`` is of the unpacked content."""

    sha256: str = Field(pattern=_SHA256)
    what: str = Field(min_length=1)


class SplitFile(Frozen):
    """The file of one split: the name it is kept under, what is known of its content, and where it comes from."""

    split: Split
    file: str = Field(pattern=_FILE)
    published: int | None = Field(default=None, ge=1)
    sha256: str | None = Field(default=None, pattern=_SHA256)
    copies: tuple[KnownCopy, ...] = ()
    note: str = ""
    sources: tuple[Place, ...] = ()

    @property
    def known(self) -> dict[str, str]:
        """What each known digest stands for."""
        official = {self.sha256: "as in the registry"} if self.sha256 else {}
        return official | {copy.sha256: f"a known copy: {copy.what}" for copy in self.copies}


class Benchmark(Frozen):
    """One benchmark. ``name`` is that of its loader."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    title: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    paper: str = Field(pattern="^https://")
    page: str = Field(pattern="^https://")
    splits: tuple[SplitFile, ...] = Field(min_length=1)

    @field_validator("splits")
    @classmethod
    def _once(cls, splits: tuple[SplitFile, ...]) -> tuple[SplitFile, ...]:
        for field in ("split", "file"):
            values = [getattr(one, field) for one in splits]
            if twice := sorted({value for value in values if values.count(value) > 1}):
                raise ValueError(f"{field} {twice[0]!r} is there twice")
        return splits

    def of(self, split: Split) -> SplitFile:
        """The file of a split; InputError where the benchmark has no such split."""
        for one in self.splits:
            if one.split == split:
                return one
        there = ", ".join(one.split for one in self.splits)
        raise InputError(
            f"dataset {self.name!r}: it has no split {split!r}, it has {there}; for a file of yours give path"
        )


class BenchmarkRegistry(Frozen):
    """All benchmarks of one file."""

    path: Path
    benchmarks: tuple[Benchmark, ...] = Field(min_length=1)

    @field_validator("benchmarks")
    @classmethod
    def _once(cls, benchmarks: tuple[Benchmark, ...]) -> tuple[Benchmark, ...]:
        names = [one.name for one in benchmarks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"name {twice[0]!r} is there twice")
        return benchmarks

    def find(self, name: str) -> Benchmark | None:
        """The benchmark called ``name``, if it is there."""
        return next((one for one in self.benchmarks if one.name == name), None)

    def entry(self, name: str) -> Benchmark:
        """The benchmark called ``name``; InputError that names near ones where there is none."""
        if found := self.find(name):
            return found
        known = [one.name for one in self.benchmarks]
        close = difflib.get_close_matches(name.lower(), known, n=1)
        suggestion = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(f"dataset {name!r} is not in {self.path}: {suggestion}known ones: {', '.join(known)}")


def load_registry(path: Path) -> BenchmarkRegistry:
    """Read and check a registry. Raises InputError that names the file, the benchmark, the field and the mend."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the list of benchmarks {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"the list of benchmarks {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or not isinstance(data.get("benchmarks"), list):
        raise InputError(f"the list of benchmarks {path} needs a list `benchmarks`")
    try:
        return BenchmarkRegistry.model_validate({**data, "path": path})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(_spoken(problem["loc"], data))
        mend = "unknown field: remove it" if problem["type"] == "extra_forbidden" else problem["msg"]
        shown = "" if isinstance(problem["input"], dict | list | Frozen) else f" (got {problem['input']!r})"
        raise InputError(f"{path}: {field}: {mend.removeprefix('Value error, ')}{shown}") from None


def _spoken(location: tuple[Any, ...], data: Any) -> list[str]:
    """The way to a field, with names and splits in the place of the numbers of list items."""
    words = []
    for part in location:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            data = None
        named = data.get("name") or data.get("split") if isinstance(data, dict) else None
        words.append(str(named) if isinstance(part, int) and isinstance(named, str) else str(part))
    return words


@lru_cache(maxsize=1)
def shipped() -> BenchmarkRegistry:
    """The list that comes with factscale."""
    return load_registry(REGISTRY)


def published(name: str, split: Split) -> int | None:
    """Records of the official file, as its paper or page gives them; None for what has no such number."""
    entry = shipped().find(name)
    return next((one.published for one in entry.splits if one.split == split), None) if entry else None


def data_folder() -> Path:
    """``data`` in ``$FACTSCALE_CACHE``, else in ``$XDG_CACHE_HOME/factscale``, else in ``~/.cache/factscale``. Not made here."""
    if named := os.environ.get("FACTSCALE_CACHE"):
        return Path(named).expanduser() / "data"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "factscale" / "data"


def local_file(name: str, part: SplitFile, folder: Path) -> Path | None:
    """The file of a split in ``folder``, plain or gzipped; None if it was not fetched."""
    names = (part.file, f"{part.file}.gz")
    return next((path for file in names if (path := folder / name / file).is_file()), None)


def fetched_file(name: str, split: Split, folder: Path | None = None) -> Path:
    """The file of a public benchmark that `factscale data get` has fetched.

    Raises InputError for a split that the benchmark does not have, and for a file that is not there, with the command.
    """
    part = shipped().entry(name).of(split)
    found = local_file(name, part, folder or data_folder())
    if found is None:
        raise InputError(
            f"dataset {name!r}, split {split!r}: its file was not fetched yet; run `factscale data get {name} --split "
            f"{split}`, or give path"
        )
    return found


def _print() -> None:
    for entry in shipped().benchmarks:
        for part in entry.splits:
            print(f"{entry.name:10} {part.split:6} {part.published or 0:>7,} {part.file}")


if __name__ == "__main__":
    _print()
