"""One PostgreSQL and one lake for the tests of the shared store: each takes seconds to make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from postgres import PASSWORD, Postgres, postgres_server

from store.connection import Store

WAIT = 30.0  # seconds: enough on a busy machine


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LANGUAGE", "de")  # of its messages, where lc_messages is not C
            running = stack.enter_context(postgres_server())
        running.execute("ALTER SYSTEM SET lc_messages = 'C'")
        running.execute("SELECT pg_reload_conf()")
        yield running


@pytest.fixture(scope="session")
def lake(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One lake for most tests: making one takes seconds. Each uses a snapshot of labels of its own."""
    server.create("lake")
    store = Store(server.url("lake", tmp_path_factory.mktemp("data")), lock_timeout=WAIT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        store.query("SELECT 1")
    yield store
    store.close()


@pytest.fixture(autouse=True, scope="module")
def _password() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        yield
