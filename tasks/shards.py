"""Parquet shards as ``datasets.load_dataset`` finds them: ``train-00000-of-00003.parquet``, zstd, written as rows come.

No more than a row group is in memory at a time, however many rows there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SHARD_BYTES = 450 * 1024**2
_GROUP_BYTES = 32 * 1024**2  # of a row group before compression: a shard is at most so much longer than its limit
# Chunks by content: the hub stores only what differs from an earlier upload.
_WRITTEN: dict[str, Any] = {"compression": "zstd", "write_page_index": True, "use_content_defined_chunking": True}


def write_shards(folder: Path, split: str, tables: Iterable[pa.Table], shard_bytes: int = SHARD_BYTES) -> int:
    """Write the rows of ``tables`` (of one schema) into shards of about ``shard_bytes``. Returns the number of rows.

    A shard's name holds their number, so that they are renamed when the last one is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[Path] = []
    rows = 0
    groups = _groups(tables)
    group = next(groups, None)
    while group is not None:
        parts.append(folder / f"{split}-{len(parts):05d}.part")
        with pq.ParquetWriter(parts[-1], group.schema, **_WRITTEN) as writer:
            while group is not None and parts[-1].stat().st_size < shard_bytes:
                writer.write_table(group, row_group_size=group.num_rows)
                rows += group.num_rows
                group = next(groups, None)
    for place, part in enumerate(parts):
        part.rename(folder / f"{split}-{place:05d}-of-{len(parts):05d}.parquet")
    return rows


def write_file(path: Path, tables: Iterable[pa.Table]) -> int:
    """The rows of ``tables`` in one file. Returns their number; there is no file for none."""
    rows = 0
    groups = _groups(tables)
    group = next(groups, None)
    if group is None:
        return 0
    with pq.ParquetWriter(path, group.schema, **_WRITTEN) as writer:
        while group is not None:
            writer.write_table(group, row_group_size=group.num_rows)
            rows += group.num_rows
            group = next(groups, None)
    return rows


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for table in tables:
        if table.num_rows:
            waiting.append(table)
        if sum(one.nbytes for one in waiting) >= _GROUP_BYTES:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
