"""The URL of a lake: ``ducklake:postgres://user@host:port/database?data=/shared/folder``.

The password comes from PGPASSWORD or ``~/.pgpass``, as for every client of PostgreSQL; one in the URL works too, and is
kept out of all that is printed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from store.types import InputError

EXAMPLE = "ducklake:postgres://user@host:5432/database?data=/shared/folder"
_PREFIX = "ducklake:"
_SCHEMES = ("postgres", "postgresql")
_SSL = ("sslmode", "sslrootcert", "sslcert", "sslkey")  # handed on to PostgreSQL's client


def is_lake(address: Path | str) -> bool:
    """Whether this is the URL of a lake rather than the path of a file. Raises InputError for another kind of URL."""
    if isinstance(address, Path):
        return False
    if address.startswith(_PREFIX):
        return True
    if "://" in address:
        raise InputError(f"the store {_shown(address)}: give the path of a DuckDB file, or a URL like {EXAMPLE}")
    return False


class LakeAddress(NamedTuple):
    """Where a lake's catalog is, as what, and where its files lie. None: PostgreSQL's client finds it (PGHOST, PGUSER, ...)."""

    host: str | None
    port: int | None
    database: str
    user: str | None
    password: str | None
    data: Path
    ssl: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, url: str, folder: Path | None = None) -> LakeAddress:
        """Read a URL; ``folder`` holds the files where the URL does not say it. Raises InputError, which names the part."""
        what = f"the store {_shown(url)}"
        try:
            parts = urlsplit(url.removeprefix(_PREFIX))
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InputError(f"{what}: not a URL ({error}); it is to look like {EXAMPLE}") from None
        if parts.scheme not in _SCHEMES:
            raise InputError(f"{what}: a lake's catalog is on PostgreSQL; the URL is to look like {EXAMPLE}")
        database = unquote(parts.path.strip("/"))
        if not database or "/" in database:
            raise InputError(f"{what}: names no database; the URL is to look like {EXAMPLE}")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = set(options) - {"data", "host", *_SSL}
        if unknown or parts.fragment:
            raise InputError(
                f"{what}: {', '.join(sorted(unknown)) or '#' + parts.fragment}: unknown; "
                f"after the ? stand data, host, {', '.join(_SSL)}"
            )
        return cls(
            host=host or options.get("host"),
            port=port,
            database=database,
            user=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            data=_data(what, options.get("data"), folder),
            ssl=tuple((key, options[key]) for key in _SSL if key in options),
        )

    @property
    def url(self) -> str:
        """The URL, with the folder of the files, and with the password if there is one."""
        return self._url(self.password)

    @property
    def name(self) -> str:
        """The URL without the password: what people read."""
        return self._url("***" if self.password else None)

    @property
    def plain(self) -> str:
        """The URL without the password, for whoever has a password of its own."""
        return self._url(None)

    def masked(self, text: str) -> str:
        """The text without the password, however it is written."""
        if self.password:
            for secret in sorted({self.password, quote(self.password, safe=""), quote(self.password)}, key=len):
                text = text.replace(secret, "***")
        return text

    def _url(self, password: str | None) -> str:
        who = quote(self.user, safe="") if self.user else ""
        who += f":{quote(password, safe='*')}" if password else ""
        socket = self.host is not None and "/" in self.host
        host = "" if socket or self.host is None else f"[{self.host}]" if ":" in self.host else self.host
        where = host + (f":{self.port}" if self.port else "")
        options = ([("host", self.host)] if socket else []) + [("data", str(self.data)), *self.ssl]
        query = urlencode([(key, value or "") for key, value in options], safe="/")
        return f"{_PREFIX}postgres://{who + '@' if who else ''}{where}/{quote(self.database, safe='')}?{query}"


def _data(what: str, given: str | None, folder: Path | None) -> Path:
    if given is None:
        if folder is None:
            raise InputError(f"{what}: does not say where its files lie; add ?data=/shared/folder")
        return folder.absolute()
    if "://" in given and not given.startswith("file://"):
        raise InputError(
            f"{what}: data={given}: object storage needs extensions of DuckDB that factscale does not have; "
            "name a folder that all hosts mount"
        )
    path = Path(given.removeprefix("file://")).expanduser()
    if not path.is_absolute():
        raise InputError(f"{what}: data={given or '(empty)'}: give the whole path of a folder, from /")
    return path


def _shown(url: str) -> str:
    """A URL that may be wrong, without what may be a password: all between the first : after // and the last @."""
    head, slashes, rest = re.sub(r"(?i)(pass\w*|pwd)=[^&#]*", r"\1=***", url).partition("//")
    authority, at, tail = rest.rpartition("@")
    user = authority.split(":", 1)[0]
    return head + slashes + (f"{user}{':***' if ':' in authority else ''}@{tail}" if at else rest)
