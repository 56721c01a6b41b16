"""How a bench ends: missed bars on standard error, one JSON object as the last line of the output, and the exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any


def finish(bench: str, missed: Sequence[str], *, check: bool, **said: Any) -> int:
    """Tell what was ``said`` and which bars were ``missed``. The exit status: 1 for a missed bar with ``check``, else 0."""
    for bar in missed:
        print(f"missed: {bar}", file=sys.stderr)
    print(json.dumps({"bench": bench, **said, "missed": list(missed)}))
    return 1 if check and missed else 0
