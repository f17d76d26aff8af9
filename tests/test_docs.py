"""What README.md and docs/ name exists: links, files, modules, configs and fields; and the README's code runs."""

import ast
import importlib
import importlib.util
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import kd_jax
from benchmarks import readme
from kd_jax.config import files
from kd_jax.models.mlp import mlp
from kd_jax.resolve import resolve

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "NOTES.md"]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def anchors(page: Path) -> set[str]:
    """The ids that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.M | re.S)


def commands(page: Path) -> list[str]:
    """Lines that run something, with those that a backslash continues; and whatever stands between backticks."""
    text = page.read_text().replace("\\\n", " ")
    return [*"\n".join(re.findall(r"^```sh\n(.*?)^```$", text, flags=re.M | re.S)).splitlines(), *inline(text)]


def inline(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


@each_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@each_page
def test_files_and_modules_exist(page):
    if page.stem == "checks":  # it quotes answers to names that do not exist
        return
    for words in commands(page):
        for path in re.findall(
            r"(?<![\w./-])(?:kd_jax|configs|tests|benchmarks|docs|colabs)/[\w./-]*\w(?![\w<*])", words
        ):
            assert (ROOT / path).exists(), path
        for name in re.findall(r"python -m benchmarks\.(\w+)", words):
            assert (ROOT / "benchmarks" / f"{name}.py").exists(), name
        for name in re.findall(r"python -m (kd_jax[\w.]*)", words):
            assert importlib.util.find_spec(name), name
        for name in re.findall(r"(?<![\w./])(?<!-m )kd_jax\.[\w.]*\w(?::\w+)?", words):
            inside = name.removeprefix("kd_jax.")
            if ":" in name or "." in inside:
                resolve(name if ":" in name else inside)
            else:
                getattr(importlib.import_module("kd_jax"), inside)
        for name in re.findall(r"(?<![\w./])(?:losses|models|core|schemes)\.\w+\.[\w.]*\w", words):
            resolve(name)


@each_page
def test_configs_their_variants_and_fields_exist(page):
    for words in commands(page):
        for file, variant in re.findall(r"configs/(\w+\.py)(?::([\w,+.-]*\w))?", words):
            module = files.load(files.locate(file))
            assert files.words_of(module) if variant == "help" else files.config_of(module, variant)
        if "--config." in words:
            arguments = [a for a in shlex.split(words, comments=True) if a[:8] == "--config"]
            name = next((a.removeprefix("--config=") for a in arguments if a[:9] == "--config="), "")
            file, _, variant = (name if ".py" in name else "cifar_resnet.py:digits").partition(":")
            fields = [a for a in arguments if a.startswith("--config.") and "<" not in a]
            files.with_new_fields(files.config_of(files.load(files.locate(file)), variant), fields)


@each_page
def test_python_names_what_there_is(page):
    """Imports of kd_jax, and attributes of what was imported."""
    for code in code_blocks(page, "python"):
        tree, modules = ast.parse(code), {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("kd_jax"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")
                    modules[alias.asname or alias.name] = getattr(module, alias.name)
        modules["kd_jax"] = importlib.import_module("kd_jax")
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                assert hasattr(modules[node.value.id], node.attr), ast.unparse(node)


def test_readme_is_short_and_links_to_every_page():
    text = README.read_text()
    assert len(text.splitlines()) <= 200
    assert [page.name for page in PAGES[1:-1] if f"(docs/{page.name})" not in text] == []


def test_tables_are_those_of_the_records():
    pages = {path: path.read_text(encoding="utf-8") for path in PAGES}
    assert readme.with_tables(pages) == pages


def test_the_task_of_the_docs_runs(tmp_path, monkeypatch):
    (code,) = code_blocks(ROOT / "docs" / "tasks.md", "python")
    (tmp_path / "boxes_of_the_docs.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    rng = np.random.default_rng(0)
    x, boxes = rng.normal(size=(96, 8)).astype(np.float32), rng.uniform(0, 0.5, (96, 4)).astype(np.float32)
    boxes[:, 2:] += 0.5
    config = kd_jax.base()
    config.task.name, config.report, config.teacher.model.name, config.baseline = (
        "boxes_of_the_docs:task",
        False,
        "",
        False,
    )
    config.train.steps, config.train.optimizer.learning_rate = 20, 0.1
    config.terms = {"l1": {}}
    data = kd_jax.from_arrays(train=(x[:64], boxes[:64]), test=(x[64:], boxes[64:]))
    results = kd_jax.run(config, tmp_path / "run", student=mlp(4, widths=(16,)), data=data)
    assert 0.2 < results["models"]["student"]["last"]["test"]["iou"] < 1
    assert results["headline"]["metric"] == "iou"


def test_the_code_of_the_readme_and_of_the_page_on_loading_runs(tmp_path, monkeypatch):
    """An own model and own data, trained for a few steps; then the student, read from its export, scores the same."""
    train, load = code_blocks(README, "python")
    assert len([line for line in train.splitlines() if line]) <= 15
    monkeypatch.chdir(tmp_path)
    shorter = "config.report, config.examples = False, 0\nresults = kd_jax.run("
    names: dict = {}
    exec(train.replace("= 300", "= 20").replace("results = kd_jax.run(", shorter), names)
    exec(load, names)
    student = json.loads((tmp_path / "runs/mine/results.json").read_text())["models"]["student"]
    expected = student[names["student"].info["which"]]["test"]["accuracy"]
    assert np.mean(names["classes"] == names["y"][1400:]) == pytest.approx(expected)
    for block in code_blocks(ROOT / "docs" / "load.md", "python"):
        exec(block, names)
    assert names["scores"]["accuracy"] == pytest.approx(expected) and names["one"] == names["some"][0]
    assert (names["many"] == names["classes"]).all() and len(names["inputs"][0]) == len(names["many"])
