"""Where an export goes: a folder that appears whole or not at all, or a repository on the Hugging Face hub.

A folder is built beside its place under a hidden name, locked, and renamed when it is complete; what an earlier export left
there is replaced, anything else is refused. The same holds for a repository: files of ours are replaced, those of others
never. ``factscale.json`` in either says which files are ours.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from store.types import InputError, RunError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MARKER = "factscale.json"
TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 - a name, no token
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_THEIRS_TO_KEEP = frozenset({".gitattributes"})  # the hub puts it into every repository

Make = Callable[[Path], None]


class FolderTarget(NamedTuple):
    """A folder on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


class HubTarget(NamedTuple):
    """A repository ``owner/name`` on the hub; made private unless ``public``."""

    name: str
    kind: Literal["dataset", "model"]
    public: bool

    def __str__(self) -> str:
        return f"hub:{self.name} ({self.kind}, {'public' if self.public else 'private'})"


Target = FolderTarget | HubTarget


def target_named(text: str, kind: Literal["dataset", "model"], *, public: bool = False) -> Target:
    """The target that a person means: ``hub:owner/name``, or a folder.

    Raises:
        InputError: ``text`` may be either, no repository can have this name, or the folder is taken by something else.
    """
    if text.startswith("hub:"):
        return HubTarget(_repository(text.removeprefix("hub:")), kind, public)
    path = Path(text).expanduser()
    if not text.strip():
        raise InputError("--to is empty: name a folder, or a repository as hub:owner/name")
    if _HUB_ID.fullmatch(text) and not path.exists():
        raise InputError(f"--to {text}: say which is meant, hub:{text} (a repository) or ./{text} (a folder)")
    if public:
        raise InputError(
            f"--public is for a repository, and --to {text} is a folder: leave it out, or say hub:owner/name"
        )
    _check_free(path.absolute())
    return FolderTarget(path.absolute())


def token() -> str | None:
    """The hub's token, from the environment and nowhere else; never printed."""
    return os.environ.get(TOKEN_VARIABLE, "").strip() or None


def deliver(target: Target, make: Make, scratch: Path) -> str:
    """Let ``make`` fill a new folder, and put it where ``target`` says. Returns where it is.

    ``scratch`` is a folder for what is on its way to the hub.

    Raises:
        InputError: the place is taken by something else, there is no token, or the repository is public unasked.
        RunError: another process writes there, or the hub refuses or cannot be reached.
    """
    if isinstance(target, FolderTarget):
        with _whole(target.path) as folder:
            make(folder)
            _mark(folder)
        return str(target.path)
    secret = token()
    if secret is None:
        raise InputError(
            f"{target}: set {TOKEN_VARIABLE} to a token that may write there (huggingface.co/settings/tokens)"
        )
    with _hub_errors(target, secret):
        stale = _stale_files(target, secret)
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="export-", dir=scratch) as name:
        folder = Path(name)
        make(folder)
        _mark(folder)
        with _hub_errors(target, secret):
            return _upload(target, folder, stale, secret)


def listed_files(folder: Path) -> dict[str, int]:
    """Every file below ``folder`` by its path in it, with its size in bytes."""
    files = (path for path in sorted(folder.rglob("*")) if not path.is_dir() or path.is_symlink())
    return {path.relative_to(folder).as_posix(): path.lstat().st_size for path in files}


def _repository(name: str) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"--to hub:{name}: {error}") from None
    if "/" not in name:
        raise InputError(f"--to hub:{name}: name the owner too, hub:owner/{name}")
    return name


def _check_free(path: Path) -> None:
    """Raises InputError unless ``path`` is free: nothing is there, an empty folder, or an earlier export and nothing else."""
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_dir() or path.is_symlink():
        raise InputError(f"--to {path}: there is a file or a link of this name; name a new folder")
    found = listed_files(path)
    foreign = sorted(found.keys() - _marked(_read(path / MARKER)))
    if foreign:
        raise InputError(
            f"--to {path}: the folder holds {foreign[0]}, which is no part of an earlier export; name a new folder"
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _marked(text: str) -> set[str]:
    """The files that a marker names, itself included; none if it is no marker of ours."""
    try:
        marker = json.loads(text)
        return {MARKER, *map(str, marker["files"])} if marker["made_by"] == "factscale" else set()
    except (ValueError, KeyError, TypeError):
        return set()


def _mark(folder: Path) -> None:
    marker = {"made_by": "factscale", "files": listed_files(folder)}
    (folder / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` that takes its place when the block ends well, and is gone when it does not."""
    building = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    building.mkdir(exist_ok=True)
    descriptor = os.open(building, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _claim(building, descriptor)
        try:
            _empty(building)  # what a killed export left
            yield building
            _check_free(path)  # it may have been filled since
            _replace(path, building)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)


def _claim(building: Path, descriptor: int) -> None:
    """Lock the folder; the kernel frees it when the holder dies."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = building.exists() and building.stat().st_ino == os.fstat(descriptor).st_ino
    except BlockingIOError:
        mine = False
    if not mine:
        raise RunError(f"{building} is in use: another export writes there; wait for it")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _replace(path: Path, building: Path) -> None:
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    try:
        building.rename(path)
    except BaseException:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _api(secret: str) -> HfApi:
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=secret)


def _stale_files(target: HubTarget, secret: str) -> list[str]:
    """Files of an earlier export in the repository; empty where there is none yet. Refuses a repository of others."""
    from huggingface_hub.errors import RepositoryNotFoundError

    api = _api(secret)
    try:
        known = api.dataset_info(target.name) if target.kind == "dataset" else api.model_info(target.name)
    except RepositoryNotFoundError:
        return []
    if not known.private and not target.public:
        raise InputError(f"{target.name} is public on the hub: add --public if all may see this, or name another one")
    found = {sibling.rfilename for sibling in known.siblings or ()} - _THEIRS_TO_KEEP
    if not found:
        return []
    marker = ""
    if MARKER in found:
        with tempfile.TemporaryDirectory() as folder:
            file = api.hf_hub_download(target.name, MARKER, repo_type=target.kind, local_dir=folder)
            marker = _read(Path(file))
    if foreign := sorted(found - _marked(marker)):
        raise InputError(
            f"{target.name} holds {foreign[0]}, which is no part of an earlier export: name a new repository"
        )
    return sorted(found)


def _upload(target: HubTarget, folder: Path, stale: list[str], secret: str) -> str:
    """One upload of the whole folder; files of an earlier export that are not in it are deleted in the same commit."""
    api = _api(secret)
    api.create_repo(target.name, repo_type=target.kind, private=not target.public, exist_ok=True)
    done = api.upload_folder(
        repo_id=target.name,
        repo_type=target.kind,
        folder_path=folder,
        commit_message="Publish from factscale",
        # Shards are numbered by their count: old ones would be read beside the new ones.
        delete_patterns=stale or None,
    )
    return str(done.repo_url)


@contextmanager
def _hub_errors(target: HubTarget, secret: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (InputError, RunError):
        raise
    except HfHubHTTPError as error:
        status = error.response.status_code
        why = " ".join(str(error).split()).replace(secret, "***")
        mend = f"; check that {TOKEN_VARIABLE} is valid and may write there" if status in (401, 403) else ""
        raise RunError(f"{target}: the hub refuses ({status}){mend}: {why}") from None
    except Exception as error:  # no network, a broken reply, a full disk: the client raises many types
        why = " ".join(str(error).split()).replace(secret, "***")
        raise RunError(f"{target}: the hub cannot be reached or broke off: {why or type(error).__name__}") from None
