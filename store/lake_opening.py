"""Opening a lake, and making it where there is none: a process that is killed here leaves what the next one finishes."""

from __future__ import annotations

import os
import socket
import tempfile

import duckdb

from store.extensions import load_lake_extensions
from store.lake_address import LakeAddress
from store.lake_errors import is_missing
from store.lake_folder import check_folder, found_lake, mark_folder, new_folder
from store.lake_lock import LakeLock
from store.lake_schema import CATALOG, SCHEMA, lake_sql
from store.migrations import applied, migrate, pending
from store.sql import literal, quiet

# Set when a lake is made. Rows of up to so many a table and transaction go into PostgreSQL until the lake is compacted: a file
# for each would be tens of thousands of files. Small row groups, since one question's texts are read without the others'.
_OPTIONS = {"data_inlining_row_limit": "200", "parquet_compression": "zstd", "parquet_row_group_size": "4096"}
# Of every connection: a host that goes away without a word is noticed in a minute, and a lock may be held as long as it takes.
_SESSION = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "idle_in_transaction_session_timeout": "0",
    "statement_timeout": "0",
}


def prepared(address: LakeAddress, lock: LakeLock) -> duckdb.DuckDBPyConnection:
    """The lake, attached as ``store`` and with the present schema; made where there is none.

    Raises InputError and RunError, and DuckDB's errors, which :func:`store.lake_errors.clear_error` makes clear.
    """
    db = connected(address)
    try:
        if not attach(db, address, "CREATE_IF_NOT_EXISTS false"):
            _create(db, address, lock)
        db.execute("USE store")
        # Without tables it is still being made, or whoever made it was killed. Its folder is marked before it gets tables:
        # one that has tables and no mark is a folder that is not mounted here.
        if applied(db):
            check_folder(db, CATALOG, address)
        if pending(db, address.name):
            with lock.held(db, CATALOG):
                if not applied(db):
                    _settle(db, address)
                check_folder(db, CATALOG, address)
                migrate(db, address.name, lake_sql)
    except BaseException:
        db.close()
        raise
    return db


def connected(address: LakeAddress) -> duckdb.DuckDBPyConnection:
    """DuckDB with its extensions, and the password where no statement shows it."""
    db = quiet(duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}))
    try:
        load_lake_extensions(db)
        parts = {"HOST": address.host, "PORT": address.port, "DATABASE": address.database, "USER": address.user}
        parts["PASSWORD"] = address.password
        said = ", ".join(f"{key} {literal(str(value))}" for key, value in parts.items() if value is not None)
        db.execute(f"CREATE SECRET catalog (TYPE postgres, {said})")
        db.execute("SET GLOBAL TimeZone = 'UTC'")
        db.execute(f"SET temp_directory = {literal(tempfile.gettempdir() + f'/factscale-{os.getpid()}.tmp')}")
        # The system's page cache has the files already, and this process may need its memory for a model.
        db.execute("SET enable_external_file_cache = false")
        db.execute("SET python_enable_replacements = false")
        # Whoever writes has the lock, so a commit that another came before is of one who lost it: to try again would put
        # its rows beside the same keys.
        db.execute("SET GLOBAL ducklake_max_retry_count = 0")
    except BaseException:
        db.close()
        raise
    return db


def attach(db: duckdb.DuckDBPyConnection, address: LakeAddress, mode: str = "") -> bool:
    """Attach the lake as ``store``; False where there is none. Without a ``mode`` it is made."""
    # The folder is told apart by what stands in it (check_folder): hosts may mount it in different places.
    where = f"DATA_PATH {literal(str(address.data))}, OVERRIDE_DATA_PATH true"
    try:
        db.execute(
            f"ATTACH {literal('ducklake:postgres:' + _client(address))} AS store "
            f"(METADATA_SCHEMA {literal(SCHEMA)}, META_SECRET 'catalog', {where}{', ' + mode if mode else ''})"
        )
    except duckdb.Error as error:
        if is_missing(error):
            return False
        raise
    return True


def _create(db: duckdb.DuckDBPyConnection, address: LakeAddress, lock: LakeLock) -> None:
    db.execute(f"ATTACH {literal(_client(address))} AS catalog (TYPE postgres, SECRET catalog)")
    with lock.held(db, "catalog"):
        # Still: another process may have had the lock before.
        if not attach(db, address, "CREATE_IF_NOT_EXISTS false"):
            new_folder(address)
            attach(db, address)
    db.execute("DETACH catalog")


def _settle(db: duckdb.DuckDBPyConnection, address: LakeAddress) -> None:
    """What a lake has before its first table. Whoever began with it may have been killed anywhere in it."""
    for key, value in _OPTIONS.items():
        db.execute(f"CALL store.set_option({literal(key)}, {literal(value)})")
    if found_lake(address) is None:
        new_folder(address)
        mark_folder(db, CATALOG, address)


def _client(address: LakeAddress) -> str:
    """What PostgreSQL's client is told beside what is in the secret."""
    words = {
        "application_name": f"factscale {socket.gethostname()}:{os.getpid()}",
        "connect_timeout": "10",
        "keepalives_idle": "30",
        "options": " ".join(f"-c {key}={value}" for key, value in _SESSION.items()),
        **dict(address.ssl),
    }
    return " ".join(f"{key}='{_escaped(value)}'" for key, value in words.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")
