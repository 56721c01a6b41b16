"""Count what a benchmark's file holds: ``python -m eval.benchmarks DATASET SPLIT [FILE]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from eval.benchmarks import LOADERS, count
from store.types import InputError


def main() -> int:
    """Print records, questions and what is left out; 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m eval.benchmarks", description=__doc__)
    parser.add_argument("dataset", choices=sorted(LOADERS))
    parser.add_argument("split", choices=("train", "dev", "test"))
    parser.add_argument("file", type=Path, nargs="?")
    chosen = parser.parse_args()
    try:
        print(count(chosen.dataset, chosen.split, path=chosen.file))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
