"""Making a lake: by several at once, by one that is killed, and in a folder that holds something."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lake_process import Writer
from postgres import Postgres, missing

from store.connection import Store
from store.types import InputError

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

# Stops between the lake and the mark in its folder.
HALF_MADE = """
from store import lake_opening
def stop(*_):
    print("made", flush=True)
    time.sleep(120)
lake_opening.mark_folder = stop
store.query("SELECT 1")
"""


def test_a_lake_whose_maker_is_at_work_is_waited_for_and_one_whose_maker_was_killed_is_finished(
    server: Postgres, tmp_path: Path
) -> None:
    server.create("half")
    store = Store(server.url("half", tmp_path / "half"))
    with Writer(store, HALF_MADE) as maker, ThreadPoolExecutor(1) as pool:
        assert maker.said() == "made"
        landed = pool.submit(store.land, {"labels": [{"snapshot": "s", "id": "Q90", "label": "Paris"}]})
        with pytest.raises(TimeoutError):
            landed.result(timeout=2)
        maker.process.kill()
        assert landed.result(timeout=60) == 1
    lake = store.lake
    assert lake is not None
    assert json.loads((tmp_path / "half" / "factscale-lake.json").read_text(encoding="utf-8")) == {"lake": lake.id()}
    store.close()


def test_no_lake_is_made_in_a_folder_that_holds_something(server: Postgres, tmp_path: Path) -> None:
    server.create("taken")
    (tmp_path / "training_sets").mkdir()
    store = Store(server.url("taken", tmp_path))
    with pytest.raises(InputError, match=rf"folder {tmp_path} is not empty \(training_sets\): name an empty"):
        store.query("SELECT 1")
    assert not store.exists()
