"""The notebooks run from the first cell to the last, as tiny runs."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))


# Notebook -> its figures, its runs, and words that it prints.
EXPECTED = {
    "deploy": (0, ("deploy",), ("onnx-int8-static", "litert", "http.server", "written: [")),
    "language": (1, ("texts", "words"), ("For transformers: runs/words/student/hf", "generation_config.json")),
    "quickstart": (3, ("quickstart", "quickstart-feature", "quickstart-own-loss", "mine"), ("stage2/pre_activation",)),
    "schemes": (4, ("mutual", "deep", "data_free", "lifelong-finetune", "lifelong-exemplars"), ("exemplars",)),
}
NEEDS = {"deploy": ("jax2onnx", "onnxruntime", "litert_converter", "ai_edge_litert")}


def tiny(source: str) -> str:
    """A cell with the flag `tiny` in its configs, and a tenth of its steps."""
    source = re.sub(
        r'get_config\((f?)"([^"]*)"\)', lambda m: f'get_config({m[1]}"{m[2]}{"," * bool(m[2])}tiny")', source
    )
    lines = source.splitlines()
    for i, line in enumerate(lines):
        if re.search(r"(steps|eval_every) = \d", line):
            lines[i] = re.sub(r"\b\d+\b", lambda m: str(int(m[0]) // 10), line)
    return "\n".join(lines)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, tmp_path, monkeypatch):
    for package in NEEDS.get(path.stem, ()):
        pytest.importorskip(package)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "outputs are cleared"
    for cell in code:
        cell.source = tiny(cell.source)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    figures = [
        o
        for cell in code
        for o in cell.outputs
        if "image/png" in o.get("data", {}) or "image/svg+xml" in o.get("data", {})
    ]
    count, runs, words = EXPECTED[path.stem]
    assert len(figures) == count
    printed = "".join(o.text for cell in code for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")
    assert printed.count("Test set, last step") == len(runs) and all(word in printed for word in words)
    for run in runs:
        assert (tmp_path / "runs" / run / "report.html").exists()
