"""Another process with a lake open, for tests of what several do at once."""

from __future__ import annotations

import subprocess
import sys

from store.connection import Store


class Writer:
    """Another process with the lake open, that does what ``code`` says and prints when it is there."""

    def __init__(self, store: Store, code: str) -> None:
        script = f"import sys, time\nfrom store.connection import Store\nstore = Store(sys.argv[1])\n{code}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, store.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.process.stdout.close()
        self.process.stdin.close()

    def said(self) -> str:
        """The next line that it prints; empty once it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        """Give it a line to read."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
