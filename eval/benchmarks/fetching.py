"""Fetch a benchmark's official file from where the registry says, or take one that was fetched by hand.

A file lands whole or not at all, unpacked, under the registry's name: it is read by its loader first, its sha256 and its
number of records are held against the registry, and it is renamed into place. Beside it ``FILE.origin.json`` says where it
came from.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tempfile
import zipfile
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from eval.benchmarks import Count, count
from eval.benchmarks.freebase import names_for
from eval.benchmarks.hub import hub_file
from eval.benchmarks.records import Source, content
from eval.benchmarks.registry import Benchmark, Place, SplitFile, local_file
from store.types import InputError, RunError

_SECONDS = 60.0  # without a byte
_TRIES = 3
_BACKOFF = 1.0  # seconds before the second try, doubled each time
_AGAIN = (429, 500, 502, 503, 504)


class Landed(NamedTuple):
    """A file that is there now: where it came from, what it holds, and its digest. ``new``: it was not there before."""

    path: Path
    source: str
    sha256: str
    found: Count
    new: bool


def fetch(entry: Benchmark, part: SplitFile, folder: Path, *, again: bool = False) -> Landed:
    """The file of a split in ``folder``; fetched from the first source that gives it, unless it is there already.

    Raises InputError for a file that has to be fetched by hand, with its page and the command that takes it, and RunError
    where no source gives the file that the registry describes.
    """
    here = local_file(entry.name, part, folder)
    if here is not None and not again:
        return Landed(
            here, origin(here).get("source", "unknown"), content(here)[1], _counted(entry, part, here, here), new=False
        )
    by_hand = f"fetch it by hand from {entry.page}, then run `{command(entry, part)}`"
    if not part.sources:
        note = f" ({part.note})" if part.note else ""
        raise InputError(f"{entry.name} {part.split}: no pinned address of its file is known; {by_hand}{note}")
    failures = []
    for place in part.sources:
        try:
            return _land(
                entry,
                part,
                _unpacked(_download(place), place),
                place.address,
                folder,
                what=f"what {place.address} gave",
            )
        except (InputError, RunError) as error:
            failures.append(str(error))
    raise RunError(f"{entry.name} {part.split}: {'; '.join(failures)}. Try again later, or {by_hand}")


def register(entry: Benchmark, part: SplitFile, file: Path, folder: Path, *, unchecked: bool = False) -> Landed:
    """Take a file that was fetched by hand, plain, gzipped, or the zip archive that it is a member of.

    Raises InputError for a file that is not what the registry describes; ``unchecked`` takes it if its loader reads it.
    """
    data = content(file)[0]
    if data.startswith(b"PK\x03\x04"):
        members = [place.member for place in part.sources if place.member]
        if not members:
            raise InputError(f"{file}: a zip archive; unpack it, and name the file of {entry.name} {part.split}")
        data = _member(data, members[0], str(file))
    return _land(entry, part, data, str(file.resolve()), folder, what=str(file), unchecked=unchecked)


def command(entry: Benchmark, part: SplitFile) -> str:
    """The command that takes a file fetched by hand."""
    return f"factscale data get {entry.name} --split {part.split} --from FILE"


def origin(path: Path) -> dict[str, Any]:
    """What was written down when a file landed (source, sha256, records, fetched); {} for a file put there otherwise."""
    try:
        found = json.loads(_origin_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _origin_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.origin.json")


def _land(
    entry: Benchmark, part: SplitFile, data: bytes, source: str, folder: Path, *, what: str, unchecked: bool = False
) -> Landed:
    """``what``: how messages call the data."""
    sha256 = hashlib.sha256(data).hexdigest()
    if part.known and sha256 not in part.known and not unchecked:
        known = " or ".join(part.known)
        raise InputError(f"{what} has sha256 {sha256}, and {known} is expected{_ANYWAY}")
    home = folder / entry.name
    path = home / part.file
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=home) as work:
            partial = Path(work) / part.file  # under its own name, which says its split
            with partial.open("wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            try:
                found = _counted(entry, part, partial, path)
            except InputError as error:
                raise InputError(str(error).replace(str(partial), what)) from None
            if not found.records:
                raise InputError(f"{what} has no record; give the file of {entry.name} {part.split}")
            if part.published is not None and found.records != part.published and not unchecked:
                raise InputError(f"{what} has {found.records:,} records, and {part.published:,} are published{_ANYWAY}")
            said = {
                "source": source,
                "sha256": sha256,
                "records": found.records,
                "fetched": f"{datetime.now(UTC):%FT%TZ}",
            }
            (Path(work) / "origin").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
            # In this order: what is written down is of the file that lies there, or nothing is.
            for old in (_origin_file(path), path.with_name(f"{path.name}.gz")):
                old.unlink(missing_ok=True)
            partial.replace(path)
            (Path(work) / "origin").replace(_origin_file(path))
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}; set FACTSCALE_CACHE to another folder") from error
    return Landed(path, source, sha256, found, new=True)


_ANYWAY = "; `--from FILE --unchecked` takes another file all the same"


def _counted(entry: Benchmark, part: SplitFile, file: Path, final: Path) -> Count:
    names = names_for(Source(entry.name, part.split, final))
    return count(entry.name, part.split, path=file, names=names)._replace(published=part.published)


def _download(place: Place) -> bytes:
    return hub_file(place) if place.hub is not None else _from_web(place.url or "")


def _from_web(url: str) -> bytes:
    """The body behind an https address. Raises RunError with what went wrong."""
    import urllib3

    retry = urllib3.Retry(_TRIES, redirect=10, backoff_factor=_BACKOFF, status_forcelist=_AGAIN, raise_on_status=False)
    timeout = urllib3.Timeout(connect=_SECONDS, read=_SECONDS)
    with urllib3.PoolManager(headers={"User-Agent": "factscale", "Accept-Encoding": "identity"}) as pool:
        try:
            reply = pool.request("GET", url, retries=retry, timeout=timeout)
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise RunError(f"{url} cannot be fetched: {' '.join(str(reason).split())}") from error
    if reply.status != 200:
        raise RunError(f"{url} cannot be fetched: status {reply.status} {reply.reason or ''}".rstrip())
    last = urlsplit(reply.geturl() or url)
    if last.scheme == "http" and urlsplit(url).scheme == "https":
        raise RunError(f"{url} cannot be fetched: it leads to {last.hostname} without encryption")
    return reply.data


def _unpacked(data: bytes, place: Place) -> bytes:
    """The file itself: out of its archive, out of gzip."""
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise RunError(f"{place.address} gave a web page in place of the file")
    if place.member is not None:
        data = _member(data, place.member, place.url or "")
    try:
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RunError(f"{place.address} gave no whole gzip file ({error})") from error


def _member(data: bytes, member: str, where: str) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(member)
    except KeyError:
        raise InputError(f"{where}: the archive has no file {member}") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise RunError(f"{where} gave no whole zip archive ({error})") from error
