"""A whole study in a shared store on a real PostgreSQL: it lands there, nothing is made twice, and no file is made beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mini_study
import pytest
from postgres import PASSWORD, missing, postgres_server

from flows.parameters import Study
from store.home import Home

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]
STUDY = Study.model_validate(mini_study.mini())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home")
    with postgres_server() as server, pytest.MonkeyPatch.context() as patch:
        server.create("factscale")
        patch.setenv("FACTSCALE_HOME", str(folder))
        patch.setenv("FACTSCALE_STORE", server.url("factscale", folder / "lake"))
        patch.setenv("PGPASSWORD", PASSWORD)
        yield Home(folder)
        Home(folder).store.close()


def test_a_study_lands_is_reported_and_is_not_made_again(home: Home) -> None:
    from flows.plan import plan
    from flows.server import prefect_api
    from flows.study import study

    with prefect_api(home):
        page = Path(study(STUDY))
        assert page.is_file()
        landed = home.store.query("SELECT unit_key, landed_at FROM units ORDER BY ALL")
        assert len(landed) >= 9
        study(STUDY)
        assert home.store.query("SELECT unit_key, landed_at FROM units ORDER BY ALL") == landed
    assert {row["state"] for row in plan(STUDY, home)} == {"done"}
    assert not (home.folder / "factscale.duckdb").exists()
    board = home.store.query_untrusted("SELECT setting, n FROM leaderboard ORDER BY ALL")
    assert {row["n"] for row in board} == {mini_study.TEST}
