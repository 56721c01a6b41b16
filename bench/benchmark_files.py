"""The six benchmarks as files of the real data, for benches and tests that read all of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from store.types import Split

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FILES: dict[str, tuple[Split, str]] = {
    "webqsp": ("test", "webqsp/WebQSP.test.jsonl.gz"),
    "cwq": ("test", "cwq/ComplexWebQuestions_test.json.gz"),
    "grailqa": ("dev", "grailqa/grailqa_dev_full.jsonl.gz"),
    "exaqt": ("test", "exaqt/timequestions_test.json.gz"),
    "simpleqa": ("test", "simpleqa/simple_qa_test_set.csv.gz"),
    "mintaka": ("dev", "mintaka/mintaka_dev.json.gz"),
}
"""Split and file of each, below the folder ``benchmarks`` of the data."""


def named_cwq(folder: Path, data: Path = DATA) -> Path:
    """The CWQ file in ``folder``, with the names of its answers beside it, which the official file does not have for all."""
    names: dict[str, str] = {}
    with gzip.open(data / "linked" / "cwq_test.jsonl.gz", "rt", encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            if len(record.get("answer_mids", ())) == len(record["answers"]):
                names |= zip(record["answer_mids"], record["answers"], strict=True)
    folder.mkdir(exist_ok=True)
    table = "".join(f"{mid}\t{' '.join(name.split())}\n" for mid, name in names.items())
    (folder / "names.tsv").write_text(table, encoding="utf-8")
    source = data / "benchmarks" / FILES["cwq"][1]
    link = folder / source.name
    link.unlink(missing_ok=True)
    link.symlink_to(source)
    return link
