"""The rooms of the package and their order: nothing is imported from a room above, not even by a name in a string."""

import ast
import importlib.util
from pathlib import Path

import kd_jax

ROOT = Path(kd_jax.__file__).parent
BASE = ("types", "ranges", "prng", "resolve", "files")  # modules that lie beside the rooms, below them all
ROOMS = (
    *("base", "losses", "models", "data", "system", "core", "tasks", "measure", "compress", "schemes"),
    *("config", "cache", "report", "train", "export", "sweep", "face"),
)


def module_of(path):
    parts = ("kd_jax", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def room(module):
    """That of a module of the package; the modules beside the rooms are the base or the face."""
    inside = module.split(".")[1:2]
    if inside and inside[0] in ROOMS:
        return inside[0]
    return "base" if inside and inside[0] in BASE else "face"


def imported(node, package):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        start = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        return [f"{start}.{alias.name}" for alias in node.names]
    return []


def resolved(node):
    """ "resolve('a.b')" of a call that resolves a literal name, "" of all else."""
    if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
        return ""
    called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    literal = node.args[0].value
    named = called in ("resolve", "call", "import_module") and isinstance(literal, str)
    return f"{called}({literal!r})" if named else ""


def read_by(module, source):
    """{module of the package: line} of what a module imports anywhere in it, or resolves by a literal name."""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    read = {}
    for node in ast.walk(ast.parse(source)):
        names = imported(node, package)
        if literal := resolved(node):
            read[literal] = node.lineno
            name = node.args[0].value.replace(":", ".")
            names = [name if name.startswith("kd_jax") else f"kd_jax.{name}"]
        for name in names:
            while name and name not in FILES:
                name = name.rpartition(".")[0]
            if name:
                read.setdefault(name, node.lineno)
    return read


READ = {module: read_by(module, path.read_text()) for module, path in FILES.items()}


def test_a_room_reads_only_those_below_it():
    upward = [
        f"{FILES[module].relative_to(ROOT)}:{line} ({room(module)}) reads {other} ({room(other)})"
        for module, others in READ.items()
        for other, line in others.items()
        if other in FILES and ROOMS.index(room(other)) > ROOMS.index(room(module))
    ]
    assert not upward, "\n".join(upward)


def test_names_in_strings_are_those_of_users():
    literal = [
        f"{FILES[module].relative_to(ROOT)}:{line} {name}"
        for module, others in READ.items()
        for name, line in others.items()
        if name not in FILES
    ]
    assert not literal, "\n".join(literal)


def test_modules_read_one_another_in_no_circle():
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            path.append(module)
            for other in READ[module]:
                if other in FILES and other != module:
                    visit(other)
            done.add(path.pop())

    for module in FILES:
        visit(module)


def test_an_import_upward_and_a_literal_name_are_told():
    source = "from kd_jax.train import run\nfrom kd_jax.resolve import resolve\nresolve('schemes.offline.build')\n"
    read = read_by("kd_jax.losses.task", source)
    assert read == {"kd_jax.train.run": 1, "kd_jax.resolve": 2, "kd_jax.schemes.offline": 3} | {
        "resolve('schemes.offline.build')": 3
    }
