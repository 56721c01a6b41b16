"""URLs of lakes: what is read, what is shown, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from store.connection import Store
from store.home import Home
from store.lake_address import LakeAddress, is_lake
from store.types import InputError

URL = "ducklake:postgres://ada:s%40cret@db.example:5433/traces?data=/shared/lake&sslmode=require"


def test_a_url_is_read_and_written_again() -> None:
    address = LakeAddress.parse(URL)
    assert address == LakeAddress(
        "db.example", 5433, "traces", "ada", "s@cret", Path("/shared/lake"), (("sslmode", "require"),)
    )
    assert address.url == URL
    assert LakeAddress.parse(address.url) == address
    assert address.name == URL.replace("s%40cret", "***")
    assert address.masked("password s@cret or s%40cret") == "password *** or ***"


def test_what_is_left_out_is_for_postgresqls_client_to_find() -> None:
    address = LakeAddress.parse("ducklake:postgres:///traces?host=/run/postgresql", Path("/home/lake"))
    assert address == LakeAddress("/run/postgresql", None, "traces", None, None, Path("/home/lake"))
    assert LakeAddress.parse(address.url) == address
    assert address.masked("nothing to hide") == "nothing to hide"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ducklake:mysql://h/d?data=/x", "a lake's catalog is on PostgreSQL"),
        ("ducklake:postgres://h?data=/x", "names no database"),
        ("ducklake:postgres://h/a/b?data=/x", "names no database"),
        ("ducklake:postgres://h:port/d?data=/x", "not a URL"),
        ("ducklake:postgres://h/d", "does not say where its files lie"),
        ("ducklake:postgres://h/d?data=lake", "data=lake: give the whole path"),
        ("ducklake:postgres://h/d?data=s3://bucket/lake", "data=s3://bucket/lake: object storage"),
        ("ducklake:postgres://h/d?data=/x&password=hidden", "password: unknown"),
        ("postgres://u:hidden@h/d", "give the path of a DuckDB file, or a URL like ducklake:postgres://"),
        ("ducklake:mysql://u:hidden@h/d", "a lake's catalog is on PostgreSQL"),
    ],
)
def test_a_wrong_url_is_one_clear_error_without_a_password(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        Store(url)
    assert "hidden" not in str(error.value)


def test_a_path_is_a_file() -> None:
    assert not is_lake("/some/where.duckdb")
    assert not is_lake(Path("ducklake:postgres:"))


def test_a_home_uses_the_store_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    monkeypatch.delenv("FACTSCALE_STORE", raising=False)
    assert home.store.path == tmp_path / "factscale.duckdb"
    monkeypatch.setenv("FACTSCALE_STORE", str(tmp_path / "other.duckdb"))
    assert home.store.path == tmp_path / "other.duckdb"
    monkeypatch.setenv("FACTSCALE_STORE", "ducklake:postgres://ada@h/d")
    assert home.store.name == f"ducklake:postgres://ada@h/d?data={tmp_path}/lake"
    with pytest.raises(TypeError, match="is no file"):
        _ = home.store.path
    monkeypatch.setenv("FACTSCALE_STORE", "sqlite://x")
    with pytest.raises(InputError, match="sqlite://x: give the path"):
        _ = home.store


def test_a_lake_has_a_folder_of_its_own(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    for folder in (home.folder, tmp_path, tmp_path / "home" / "lake" / ".."):
        with pytest.raises(InputError, match=rf"data={folder}: the home {home.folder} lies in that folder"):
            home.store_at(f"ducklake:postgres://ada@h/d?data={folder}")
    assert home.store_at(f"ducklake:postgres://ada@h/d?data={tmp_path}/lake").lake is not None


def test_what_others_are_told_of_the_store_holds_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    told = {None: None, "other.duckdb": "other.duckdb", URL: URL.replace(":s%40cret", "")}
    for given, plain in told.items():
        monkeypatch.setenv("FACTSCALE_STORE", given or "")
        assert (home.store_variable() or None) == plain
