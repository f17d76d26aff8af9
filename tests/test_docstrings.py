"""Public functions say in their docstring's first word what they do: "Computes ...", "Returns ..."."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kd_jax"
ROOMS = ("losses",)
NOT_VERBS = {
    *("As", "Classes", "Examples", "Is", "Its", "Losses", "Metrics", "Parameters", "Shapes", "Steps", "Sums"),
    *("Terms", "This", "Those", "Values", "What", "Whether"),
}


def functions_of(source):
    """Yields the public functions of a module and the public methods of its public classes."""
    for node in ast.parse(source).body:
        for member in node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else [node]:
            if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)) and not member.name.startswith("_"):
                yield member


def begins_with_verb(docstring):
    """Returns whether the first word is a verb in the third person, as far as its letters tell."""
    first = re.match(r"[A-Z][a-z]*s\b", docstring or "")
    return first is not None and first.group() not in NOT_VERBS


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_of_public_functions_begin_with_a_verb(room):
    functions = [
        (path, node) for path in sorted((PACKAGE / room).rglob("*.py")) for node in functions_of(path.read_text())
    ]
    assert functions, room
    wrong = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}"
        for path, node in functions
        if not begins_with_verb(ast.get_docstring(node))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "docstring", [None, "", "mean of x.", "T^2 KL(p, q).", "Values of x.", "Text of x.", "-log p."]
)
def test_other_beginnings_are_told_apart(docstring):
    assert not begins_with_verb(docstring)
    assert begins_with_verb("Computes x.")
