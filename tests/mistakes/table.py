"""Writes docs/checks.md: every row of tests/mistakes, so that what the page says is what the tests hold.

PYTHONPATH=.:tests/helpers python tests/mistakes/table.py
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from mistakes import Mistake

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "checks.md"
TIMES = {
    "command": "before anything is loaded",
    "start": "before the first step of any training",
    "reading": "when the file is read again",
    "training": "in the first step, evaluation or sample that shows it",
    "end": "when the run is reported",
}
INTRODUCTION = """# What is checked, when, and what is said

A run says what is wrong in one line, from the command (`KD_JAX_TRACEBACK=1` adds the traceback) and from `kd_jax.run`
as a `ValueError` or `OSError`. Each line below is a row of [tests/mistakes](../tests/mistakes), which makes the mistake
and holds the answer and its time against the row; `…` stands for what varies. This page is made by
`python tests/mistakes/table.py`. What a run survives, kills and damaged files, is in [faults](faults.md).

When: {times}. Where "goes on" stands, the run says so and goes on; anything else ends it.
"""


def modules() -> list[ModuleType]:
    loaded = []
    for path in sorted(HERE.glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(f"tests_mistakes_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)  # rows name it: "module:function"
        spec.loader.exec_module(module)
        loaded.append(module)
    return loaded


def rows_of(module: ModuleType) -> list[Mistake]:
    """The rows of a file in their order, of all its lists."""
    lists = [v for v in vars(module).values() if isinstance(v, list) and v and isinstance(v[0], Mistake)]
    return list({id(row): row for rows in lists for row in rows}.values())


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").strip()


def page() -> str:
    times = "; ".join(f"*{name}*, {meaning}" for name, meaning in TIMES.items())
    parts, number = [], 0
    for module in modules():
        rows = rows_of(module)
        number += len(rows)
        title = (ast.get_docstring(ast.parse(Path(str(module.__file__)).read_text())) or "").splitlines()[0]
        lines = [f"| {cell(r.what)} | `{cell(r.says)}` | {r.when}{', goes on' * r.goes_on} |" for r in rows]
        parts.append("\n".join([f"## {title.rstrip('.')}", "", "| mistake | answer | when |", "|---|---|---|", *lines]))
    return "\n\n".join([INTRODUCTION.format(times=times).strip(), f"{number} mistakes:", *parts]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE}: {next(line for line in page().splitlines() if line.endswith(' mistakes:'))}")
