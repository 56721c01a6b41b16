"""What DuckDB, DuckLake and PostgreSQL's client say when something is wrong with a lake, as one clear error.

What is wrong is known by words. PostgreSQL's are English unless its ``lc_messages`` says otherwise, which only its administrator
may change: errors in another language are handed on with what the server said.
"""

from __future__ import annotations

import duckdb

from store.lake_address import LakeAddress
from store.types import InputError, RunError

_REFUSED = ("password authentication failed", "no password supplied", "no pg_hba.conf entry", "authentication failed")
_AWAY = (
    "connection to server",
    "Unable to connect",
    "server closed the connection",
    "terminating connection",
    "no connection to the server",
    "connection has been closed",
    "could not connect",
    "could not receive data",
    "could not send data",
    "the database system is",
)


def is_missing(error: duckdb.Error) -> bool:
    """Whether the database is there and holds no lake."""
    text = str(error)
    return "creating a new DuckLake is explicitly disabled" in text


def clear_error(error: duckdb.Error, address: LakeAddress) -> Exception:
    """An InputError or a RunError where it is known what is wrong; else the same error, without the password."""
    original = str(error)
    text = address.masked(original)
    what, said = f"the store {address.name}", _reason(text)
    if "Exceeded the maximum retry count" in text:
        return RunError(
            f"{what}: another writer committed while this one had no lock: nothing of this landing was kept; start again"
        )
    if any(words in text for words in _REFUSED):
        return InputError(
            f"{what}: PostgreSQL refuses {address.user or 'this user'} ({said}): set PGPASSWORD, or write a line into ~/.pgpass"
        )
    if 'database "' in text and "does not exist" in text and "FATAL" in text:
        return InputError(
            f"{what}: there is no database {address.database}: create it, for example with {_createdb(address)}"
        )
    if 'role "' in text and "does not exist" in text:
        return InputError(
            f"{what}: PostgreSQL knows no user {address.user}: create it with createuser, or name another"
        )
    if "could not translate host name" in text:
        return InputError(f"{what}: no host {address.host} is known ({said})")
    if "permission denied for" in text:
        return InputError(
            f"{what}: {address.user or 'this user'} may not do that ({said}): make it the database's owner"
        )
    if "No space left" in text or "disk full" in text.lower() or "could not extend file" in text:
        return RunError(f"the disk of {what} is full ({said}): nothing of this landing was kept; free some space")
    if any(words in text for words in _AWAY):
        return RunError(f"{what} cannot be reached ({said}): is the server running, and may this host connect to it?")
    if "conflict" in text.lower() and "ransaction" in text:
        return RunError(f"{what}: somebody wrote to the lake by another way than factscale ({said}): start again")
    if isinstance(error, duckdb.IOException):
        return RunError(f"{what} cannot be used: {said}")
    return error if text == original else type(error)(text)


def _reason(text: str) -> str:
    """The last thing that was said on the line that says most: what stands after FATAL or ERROR, if that is there."""
    for mark in ("FATAL:", "ERROR:", "failed:"):
        if mark in text:
            return text.split(mark)[-1].strip().splitlines()[0]
    return text.splitlines()[0]


def _createdb(address: LakeAddress) -> str:
    words = {"-h": address.host, "-p": address.port, "-U": address.user}
    return " ".join(
        ["createdb", *(f"{key} {value}" for key, value in words.items() if value is not None), address.database]
    )
