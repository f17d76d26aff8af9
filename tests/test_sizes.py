"""No file is longer than 300 lines, and no function has more than 15 ways through it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES, WAYS = 300, 15
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def ways(function):
    """The cyclomatic complexity as radon counts it: conditions inside expressions and comprehensions count too.

    Functions inside a function have one of their own.
    """
    count, waiting = 1, [*function.body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, FUNCTIONS):
            continue
        if isinstance(node, ast.If | ast.IfExp | ast.Assert | ast.match_case):
            count += 1
        elif isinstance(node, ast.For | ast.AsyncFor | ast.While):
            count += 1 + bool(node.orelse)
        elif isinstance(node, ast.Try):
            count += len(node.handlers) + bool(node.orelse)
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
        waiting += ast.iter_child_nodes(node)
    return count


@pytest.mark.parametrize("folder", ["kd_jax", "configs", "benchmarks"])
def test_no_function_has_too_many_ways(folder):
    functions = [
        (path, node)
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, FUNCTIONS)
    ]
    long = [f"{path.relative_to(ROOT)}:{f.lineno} {f.name}: {ways(f)}" for path, f in functions if ways(f) > WAYS]
    assert functions and not long, "\n".join(long)


@pytest.mark.parametrize("folder", ["kd_jax", "configs", "benchmarks", "tests"])
def test_no_file_is_too_long(folder):
    lines = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert lines and not {str(path): n for path, n in lines.items() if n > LINES}


def test_the_count_is_radons():
    source = (
        "def f(x):\n"
        "    if x and x.a or x.b:\n        return [y for y in x if y]\n"
        "    for y in x:\n        pass\n    else:\n        y = 1 if x else 2\n"
        "    try:\n        pass\n    except ValueError:\n        pass\n"
    )
    assert ways(ast.parse(source).body[0]) == 10
