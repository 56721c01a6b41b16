"""What holds for every test."""

import atexit
import os
import shutil
import tempfile

import pytest

# Printed tables are as wide as in a log file, also in a process of pytest-xdist, which sets the terminal's width.
os.environ["COLUMNS"] = "120"

# No test writes into a store that somebody works with.
os.environ.pop("FACTSCALE_STORE", None)

# Set before Prefect is imported: no test sees what another run of the tests left, and nobody's own Prefect sees the tests.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="factscale-prefect-")
atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with real models and servers first, in their order: one that is begun last keeps all others waiting for its end."""
    long = {item.path for item in items if item.get_closest_marker("real")}
    items.sort(key=lambda item: item.path not in long)
