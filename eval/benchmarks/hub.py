"""Rows of hub datasets and of local folders, through the ``datasets`` library: pinned, and without running any code.

``datasets`` no longer runs the loading scripts of a repository; one that has a script is refused with its name. It is
imported on use only, since it takes seconds.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from eval.benchmarks.records import SPLIT_WORDS
from eval.benchmarks.registry import Place, check_pinned
from store.types import InputError, RunError, Split


class Rows(NamedTuple):
    """One split of a dataset: its rows in order with the wanted columns, the names of all columns, how messages name it, and
    what a provenance begins with."""

    rows: list[dict[str, Any]]
    columns: tuple[str, ...]
    where: str
    provenance: str


def hub_rows(
    hub: str,
    revision: str | None,
    split: Split,
    columns: Sequence[str],
    *,
    config: str | None,
    hub_split: str | None,
    cache: Path,
) -> Rows:
    """One split of a hub dataset at a commit, ``columns`` alone of it (first parts of their names).

    ``hub_split``: the hub's name of the split, else the one that means the same. A commit does not change, so that what is
    in ``cache`` (a folder a commit, configuration and split) is taken without asking the hub.

    Raises InputError for a dataset that is not pinned, not there, or has no such configuration or split, and RunError
    where the hub cannot be reached.
    """
    import datasets

    check_pinned(hub, revision)
    where = f"{hub}@{(revision or '')[:12]}"
    kept = cache / hub.replace("/", "--") / (revision or "") / (config or "default") / (hub_split or f"as-{split}")
    with _told(where):
        if not kept.is_dir():
            _keep(hub, revision, config, lambda builder: _split_name(builder, where, split, hub_split), kept)
        dataset = datasets.load_from_disk(str(kept))
        rows, there = _rows(dataset, columns)
    name = str(dataset.split)
    of = f"{where}/{config}" if config else where
    return Rows(rows, there, f"{of}, split {name!r}", f"{hub}@{revision} {name}")


def _keep(hub: str, revision: str | None, config: str | None, named: Callable[[Any], str], kept: Path) -> None:
    """Fetch one split and rename it into place; of several processes that do so the first one's stays."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=kept.parent) as work:
        # With the prefix a folder of the same name is not taken for the hub's.
        builder = _builder(f"hf://datasets/{hub}", config, Path(work), revision=revision)
        _split_alone(builder, named(builder)).save_to_disk(f"{work}/kept")
        with suppress(OSError):
            Path(work, "kept").rename(kept)
        if not kept.is_dir():
            raise RunError(f"{kept} cannot be written; set FACTSCALE_CACHE to another folder")


def folder_rows(
    folder: Path, split: Split, columns: Sequence[str], *, config: str | None, hub_split: str | None
) -> Rows:
    """One split of a local dataset folder (Parquet, JSON, CSV ...). Arguments and errors as of :func:`hub_rows`."""
    with tempfile.TemporaryDirectory(prefix="factscale-") as cache, _told(str(folder)):
        builder = _builder(str(folder.resolve()), config, Path(cache))
        name = _split_name(builder, str(folder), split, hub_split)
        rows, there = _rows(_split_alone(builder, name), columns)
        digest = hashlib.sha256()
        for file in sorted(map(str, builder.config.data_files[name])):
            digest.update(hashlib.sha256(Path(file).read_bytes()).digest())
    return Rows(rows, there, f"{folder}, split {name!r}", f"sha256:{digest.hexdigest()} {name}")


def hub_file(place: Place) -> bytes:
    """One file of a hub dataset at its commit. Raises RunError where it cannot be fetched."""
    import datasets

    with _quiet():
        config = datasets.DownloadConfig(disable_tqdm=True)
        manager = datasets.DownloadManager(download_config=config)
        try:
            return Path(manager.download(f"hf://datasets/{place.hub}@{place.revision}/{place.file}")).read_bytes()
        except Exception as error:  # many types: no network, no such repository, commit or file, a gated one
            raise RunError(f"{place.address} cannot be fetched: {_line(error)}") from error


def _builder(path: str, config: str | None, cache: Path, **revision: Any) -> Any:
    import datasets

    return datasets.load_dataset_builder(path, config, cache_dir=str(cache), **revision)


def _split_name(builder: Any, where: str, split: Split, wanted: str | None) -> str:
    """The dataset's own name of a split."""
    there = [str(name) for name in builder.config.data_files or {}]
    if wanted is not None:
        if wanted not in there:
            raise InputError(f"{where}: hub_split {wanted!r} is not there; it has {', '.join(there)}")
        return wanted
    same = [name for name in there if SPLIT_WORDS.get(name.lower()) == split]
    if len(same) != 1:
        found = "several splits mean" if same else "no split is called"
        raise InputError(f"{where}: {found} {split!r}; it has {', '.join(there)}: name one in hub_split")
    return same[0]


def _split_alone(builder: Any, name: str) -> Any:
    """One split of a dataset; the others are neither fetched nor need they have the same columns."""
    builder.config.data_files = {name: builder.config.data_files[name]}
    builder.download_and_prepare(verification_mode="no_checks")  # which would ask for the other splits
    return builder.as_dataset(split=name)


def _rows(dataset: Any, columns: Sequence[str]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    there = tuple(dataset.column_names)
    # Pictures and sounds of other columns would be decoded.
    wanted = [column for column in there if column in columns]
    return (list(dataset.select_columns(wanted)) if wanted else []), there


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Errors of ``datasets`` as ours, in one line."""
    import httpx
    from datasets.exceptions import DatasetGenerationError, DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    with _quiet():
        try:
            yield
        except (InputError, RunError):
            raise
        except DatasetGenerationError as error:
            raise InputError(
                f"{where}: its files cannot be read ({_line(error.__cause__ or error)}); mend them"
            ) from error
        except (DatasetsError, HfHubHTTPError, OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            passing = isinstance(error, ConnectionError | httpx.RequestError | LocalEntryNotFoundError)
            if passing or "LocalEntryNotFoundError" in str(error) or (status and (status == 429 or status >= 500)):
                raise RunError(
                    f"{where} cannot be fetched: {_line(error)}; start again when it can be reached"
                ) from error
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
                raise RunError(
                    f"{where} cannot be kept: {_line(error)}; set FACTSCALE_CACHE to another folder"
                ) from error
            # No usable file, an unknown configuration, a loading script, a commit that is not there, a gated repository.
            raise InputError(f"{where}: {_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars, and without the log of every attempt: what failed in the end is told."""
    import datasets

    were = datasets.are_progress_bars_disabled()
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "datasets")]
    levels = [logger.level for logger in loggers]
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not were:
            datasets.enable_progress_bars()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
