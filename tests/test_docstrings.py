"""Public functions say in their docstring's first word what they do: "Computes ...", "Returns ..."."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kd_jax"
ROOMS = (
    *(
        "losses",
        "models",
        "data",
        "system",
        "core",
        "tasks",
        "measure",
        "compress",
        "schemes",
        "config",
        "cache",
        "report",
        "train",
        "sweep",
        "export",
    ),
    ".",  # the modules beside the rooms
    "../configs",
    "../benchmarks",
)
COMPLETE = ("losses", "sweep")  # rooms in which every public function has a docstring
NOT_VERBS = {
    *("As", "Classes", "Examples", "Exits", "Is", "Its", "Losses", "Metrics", "Outputs", "Parameters", "Shapes"),
    *("Shardings", "Steps", "Sums", "Terms", "This", "Those", "Values", "What", "Whether"),
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
    files = sorted((PACKAGE / room).glob("*.py" if room == "." else "**/*.py"))
    documented = [
        (path, node, ast.get_docstring(node))
        for path in files
        for node in functions_of(path.read_text())
        if room in COMPLETE or ast.get_docstring(node)
    ]
    assert documented, room
    wrong = [
        f"{room}: {path.name}:{node.lineno} {node.name}"
        for path, node, docstring in documented
        if not begins_with_verb(docstring)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_room_is_left_out():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == {room for room in ROOMS if not room.startswith(".")}


@pytest.mark.parametrize(
    "docstring", [None, "", "mean of x.", "T^2 KL(p, q).", "Values of x.", "Text of x.", "-log p."]
)
def test_other_beginnings_are_told_apart(docstring):
    assert not begins_with_verb(docstring)
    assert begins_with_verb("Computes x.")
