"""A name says what the thing is: the words that only say that it was found, or whose it is, are bound nowhere."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VAGUE = {"found", "own", "given", "kept", "known", "seen", "about"}


def bound(source):
    """Yields (line, name) of the variables, arguments, fields, functions and classes that a module makes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name


@pytest.mark.parametrize("folder", ["kd_jax", "configs", "tests", "benchmarks"])
def test_no_name_is_vague(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    vague = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in files
        for line, name in bound(path.read_text())
        if name in VAGUE
    ]
    assert files and not vague, "\n".join(vague)


def test_every_kind_of_binding_is_read():
    source = (
        "about = x.own = 1\n"
        "def kept(given, *seen, known=0):\n    for found in given:\n        pass\n"
        "class C:\n    about: int = 0\n"
    )
    assert {name for _, name in bound(source)} >= VAGUE
