"""A real PostgreSQL for tests: what ``bench.postgres`` starts."""

from bench.postgres import PASSWORD, USER, Postgres, missing, postgres_server

__all__ = ["PASSWORD", "USER", "Postgres", "missing", "postgres_server"]
