"""Facts files into an oxigraph store, once: a *place*, the folder named by the files' content.

A place holds ``data/`` (the store), ``loaded.json`` (the marker, written last: without it nothing counts as loaded),
``load.log`` and ``lock``. The lock is held exclusively while loading or removing and shared while serving, so that no
store is taken away from under a server; the kernel releases it however a process ends.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from kg.oxigraph import Child, first_error, oxigraph_binary, oxigraph_version
from store.types import InputError, RunError, digest

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and those of all files, as they lie on disk."""

FORMATS = {".nt": "nt", ".ttl": "ttl"}  # suffix -> oxigraph's name of the format; each also with .gz

_GZIP = b"\x1f\x8b"
_PIECE = 1 << 20
_PLACE = re.compile(r"[0-9a-f]{16}-\d[\d.]*(-lenient)?")
_SKIPPED = b"Parsing error"  # begins a line of the log for each one that lenient loading leaves out


def snapshot_of(files: Sequence[Path]) -> str:
    """Hex sha256 over the files' bytes as they lie on disk, whatever their names and order.

    Raises InputError for no file, and for one that is missing, no file, or neither N-Triples nor Turtle by its suffix.
    """
    if not files:
        raise InputError("no facts file was given: name at least one N-Triples or Turtle file")
    for file in files:
        _format(file)
    return digest(sorted(map(_hash, files)), length=64)


def load(files: Sequence[Path], directory: Path, *, lenient: bool = False, on_progress: Progress | None = None) -> Path:
    """The place of the files below ``directory``; they are loaded unless that was done before.

    Strict by default: the first line that does not parse ends it. ``lenient`` leaves such lines out (:func:`skipped`
    counts them) and takes the invalid IRIs of real Wikidata dumps; it has a place of its own. Raises InputError for
    files that cannot be read, do not parse, are cut (gzip) or change meanwhile, RunError if oxigraph is missing or
    fails for another reason, such as a full disk. After an error no part of the store is left.
    """
    snapshot = snapshot_of(files)
    binary = oxigraph_binary()
    place = directory / f"{snapshot[:16]}-{oxigraph_version(binary)}{'-lenient' if lenient else ''}"
    while not is_loaded(place):
        try:
            with locked(place, fcntl.LOCK_EX | fcntl.LOCK_NB):
                if not is_loaded(place):
                    _sweep(directory)
                    _load(binary, files, place, snapshot, lenient, on_progress)
        except BlockingIOError:  # another process loads it
            time.sleep(0.05)
        except OSError as error:
            raise RunError(
                f"{place} cannot be written ({error.strerror}): free some space, or use another disk"
            ) from error
    return place


def is_loaded(place: Path) -> bool:
    """Whether the place holds all of its files."""
    return (place / "loaded.json").is_file()


def skipped(place: Path) -> int:
    """Lines that lenient loading has left out; 0 for a strict one."""
    return int(json.loads((place / "loaded.json").read_text(encoding="utf-8")).get("skipped", 0))


def remove(place: Path) -> bool:
    """Remove a place unless it is being loaded or served: True if it is gone."""
    if not place.is_dir():
        return True
    try:
        with locked(place, fcntl.LOCK_EX | fcntl.LOCK_NB):
            (place / "loaded.json").unlink(missing_ok=True)  # first, so that a killed removal leaves no half place
            shutil.rmtree(place)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(place: Path, operation: int) -> Iterator[None]:
    """Hold the place's lock, with one of flock's operations. Raises BlockingIOError if LOCK_NB is asked and it is held."""
    while True:
        place.mkdir(parents=True, exist_ok=True)
        try:
            lock = (place / "lock").open("a")
        except FileNotFoundError:  # removed in between
            continue
        with lock:
            fcntl.flock(lock, operation)
            if _same_file(lock, place / "lock"):  # else the place was removed while this waited
                yield
                return


def _same_file(opened: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _sweep(directory: Path) -> None:
    """Remove what killed loads have left; places that another process is loading are locked, and stay."""
    for place in directory.iterdir():
        if _PLACE.fullmatch(place.name) and not is_loaded(place):
            remove(place)


def _format(file: Path) -> str:
    suffixes = file.name.removesuffix(".gz")
    for suffix, name in FORMATS.items():
        if suffixes.endswith(suffix):
            return name
    wanted = ", ".join([*FORMATS, *(f"{suffix}.gz" for suffix in FORMATS)])
    raise InputError(f"facts file {file} is none of {wanted}: convert it, or name it by what it holds")


def _hash(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            if stream.read(2) == _GZIP and file.suffix != ".gz":
                raise InputError(f"facts file {file} is compressed: name it {file.name}.gz")
            stream.seek(0)
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(file, error) from error


def _load(
    binary: Path, files: Sequence[Path], place: Path, snapshot: str, lenient: bool, on_progress: Progress | None
) -> None:
    marker, data, log = place / "loaded.json", place / "data", place / "load.log"
    shutil.rmtree(data, ignore_errors=True)  # what a killed load has left
    meter = _Meter(sum(file.stat().st_size for file in files), on_progress)
    hashes, left_out = list[str](), 0
    try:
        for file in files:
            hashes.append(_load_file(binary, file, data, log, lenient, meter))
            with log.open("rb") as said:
                left_out += sum(line.startswith(_SKIPPED) for line in said)
        if digest(sorted(hashes), length=64) != snapshot:
            names = ", ".join(map(str, files))
            raise InputError(f"{names} changed while being loaded: load again when nothing writes there")
        if len(files) > 1:
            _optimize(binary, data, log)
        partial = marker.with_suffix(".part")
        partial.write_text(json.dumps({"files": [str(file) for file in files], "skipped": left_out}))
        partial.replace(marker)
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        raise


def _load_file(binary: Path, file: Path, data: Path, log: Path, lenient: bool, meter: _Meter) -> str:
    """Load one file through oxigraph's standard input, as it reads no gzip. Returns the sha256 of the bytes read."""
    command = [str(binary), "load", "--location", str(data), "--format", _format(file)]
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb", buffering=0) as pipe:
        try:
            with log.open("wb") as output:
                loading = Child([*command, "--lenient"] if lenient else command, output.fileno(), reader)
        finally:
            os.close(reader)
        try:
            read = _pour(file, pipe, meter)
        except BaseException:
            loading.stop(grace=0)  # before the pipe is closed: its end would be taken for that of the facts
            raise
    if loading.wait() != 0:
        raise _refusal(file, log, lenient)
    return read


def _pour(file: Path, pipe: io.FileIO, meter: _Meter) -> str:
    """Write the file's content, decompressed, until its end or until the reader is gone. Returns as _load_file does."""
    try:
        with _Counted(file, meter) as counted:
            content = gzip.GzipFile(fileobj=io.BufferedReader(counted)) if file.suffix == ".gz" else counted
            while piece := content.read(_PIECE):
                view = memoryview(piece)
                while view:
                    view = view[pipe.write(view) :]
            return counted.hash.hexdigest()
    except BrokenPipeError:
        return ""  # oxigraph has ended: its exit status and its log say why
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"facts file {file} is no whole gzip file ({error}): fetch it again") from error
    except OSError as error:
        raise _unreadable(file, error) from error


def _optimize(binary: Path, data: Path, log: Path) -> None:
    """Merge the layers that several loads leave: queries then take a sixth less CPU. One layer would gain nothing."""
    with log.open("wb") as output:
        code = Child([str(binary), "optimize", "--location", str(data)], output.fileno()).wait()
    if code != 0:
        raise RunError(f"oxigraph failed while optimizing {data}: {first_error(log)}. Its log is {log}.")


def _refusal(file: Path, log: Path, lenient: bool) -> Exception:
    said = first_error(log)
    if "Parser error" not in said:
        return RunError(f"oxigraph failed while loading {file}: {said}. Its log is {log}.")
    kind = {"nt": "N-Triples", "ttl": "Turtle"}[_format(file)]
    hint = "" if lenient else " A dump with a few bad lines can be loaded leniently (--lenient), which leaves them out."
    return InputError(f"oxigraph cannot load {file}: {said}. Check that it is {kind}.{hint}")


def _unreadable(file: Path, error: OSError) -> InputError:
    return InputError(f"facts file {file} cannot be read ({error.strerror}): check its path")


class _Meter:
    """Bytes read of all files together."""

    def __init__(self, total: int, on_progress: Progress | None) -> None:
        self._done, self._total, self._tell = 0, total, on_progress

    def add(self, count: int) -> None:
        self._done += count
        if self._tell is not None:
            self._tell(self._done, self._total)


class _Counted(io.RawIOBase):
    """A file whose bytes are hashed and counted as they are read."""

    def __init__(self, file: Path, meter: _Meter) -> None:
        self.hash, self._file, self._meter = hashlib.sha256(), file.open("rb"), meter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self.hash.update(memoryview(buffer)[:count])
        self._meter.add(count)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
