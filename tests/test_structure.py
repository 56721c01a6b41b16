"""Imports go down only: flows -> tasks -> {kg, models, eval} -> store, and only flows and tasks know Prefect."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("flows", "tasks", "kg", "models", "eval", "store")
ALLOWED = {
    "flows": {"flows", "tasks", "kg", "models", "eval", "store"},
    "tasks": {"tasks", "kg", "models", "eval", "store"},
    "kg": {"kg", "store.types"},
    "models": {"models", "store.types"},
    "eval": {"eval", "store.types"},
    "store": {"store"},
}


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} if node.level == 0 else {f"{'.' * node.level}{node.module}"}
    return found


FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_down(file: Path) -> None:
    package = file.relative_to(ROOT).parts[0]
    for name in imports(file):
        top = name.split(".")[0]
        if top in PACKAGES:
            allowed = ALLOWED[package]
            assert top in allowed or name in allowed, f"{file.name} imports {name}"
        if top == "prefect":
            assert package in ("flows", "tasks"), f"{file.name} imports {name}"


def test_the_builtin_eval_is_not_hidden() -> None:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(alias.name == "eval" and alias.asname is None for alias in node.names), file


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_module_says_what_it_is(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


def test_no_pickle_and_no_remote_code() -> None:
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert not imports(file) & {"pickle", "cloudpickle", "dill", "joblib"}, file
        assert "trust_remote_code=True" not in text, file
        assert "weights_only=False" not in text, file
