"""A page that runs the ONNX files of student and teacher in the browser: draw, and see both answers and their times.

onnxruntime-web comes from npm and is copied beside the page, so that nothing is loaded from elsewhere.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax.export import deployed, onnx
from kd_jax.export.examples import Examples
from kd_jax.export.network import Refused
from kd_jax.train.student import Student

FOLDER, RUNTIME = "web", "onnxruntime-web"
VERSION = "1.30.0"  # of onnxruntime-web, MIT licence
FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
SHOWN = 10  # real examples to click


def write(student: Student, teacher: Student | None, examples: Examples, folder: Path) -> Path:
    """Writes web/ with index.html, the networks as ONNX and the runtime; Refused for what reads no images."""
    roles = {"teacher": teacher, "student": student}
    networks = {role: network for role, network in roles.items() if network is not None}
    for role, network in networks.items():
        _check(role, network, student)
    target = folder / FOLDER
    target.mkdir()
    sizes = {role: _network(network, target, role) for role, network in networks.items()}
    shutil.copytree(runtime(), target / "ort")
    entry = student.info["preparation"]["entry"]
    facts = {
        "title": f"{student.info['data']['name']}: teacher and student in the browser",
        "shape": student.info["input"]["shape"],
        "classes": student.classes or [str(i) for i in range(student.info["data"]["num_classes"])],
        "networks": [{"role": role, "file": f"{role}.onnx", "bytes": size} for role, size in sizes.items()],
        "examples": [np.asarray(x).reshape(-1).tolist() for x in of_each_class(examples, entry)],
    }
    (target / "index.html").write_text(page(facts), encoding="utf-8")
    return target


def page(facts: Mapping[str, Any]) -> str:
    """Returns index.html; what it says of the networks stands in it as JSON."""
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    data = json.dumps(facts).replace("<", "\\u003c")
    return template.replace("{{title}}", escape(str(facts["title"]))).replace("{{about}}", data)


def how_to_load(path: Path) -> str:
    return f"python -m http.server --directory {path.name}, then http://localhost:8000"


def runtime() -> Path:
    """Returns the folder of onnxruntime-web, which npm fetches once; ValueError says what is missing."""
    cache = cached()
    if all((cache / name).is_file() for name in FILES):
        return cache
    package = f"onnxruntime-web@{VERSION}"
    if shutil.which("npm") is None:
        raise ValueError(
            f"The web page needs {package} from npm, and there is no npm here: install Node.js (on Debian: apt-get "
            f"install npm), or put {', '.join(FILES)} of its dist/ into {cache}."
        )
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent) as scratch:
        done = subprocess.run(["npm", "pack", package], cwd=scratch, capture_output=True, text=True, check=False)
        archives = list(Path(scratch).glob("*.tgz"))
        if done.returncode or not archives:
            said = " ".join(done.stderr.split())[-200:]
            raise ValueError(f"npm could not fetch {package}, which the web page needs: {said}")
        whole = Path(scratch) / "dist"
        whole.mkdir()
        with tarfile.open(archives[0]) as archive:
            for name in FILES:
                file = archive.extractfile(f"package/dist/{name}")
                if file is None:
                    raise ValueError(f"{package} has no dist/{name}.")
                (whole / name).write_bytes(file.read())
        if not cache.exists():
            whole.replace(cache)
    return cache


def cached() -> Path:
    """Returns where onnxruntime-web lies on this machine once it was fetched."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "kd_jax" / f"onnxruntime-web-{VERSION}"


def _check(role: str, network: Student, student: Student) -> None:
    shape, dtype = network.info["input"]["shape"], network.info["input"]["dtype"]
    if len(shape) != 3 or dtype != "uint8" or shape[2] not in (1, 3):
        raise Refused(f"web: the page draws pictures, uint8 [height, width, 1 or 3]; the {role} reads {dtype} {shape}.")
    if shape != student.info["input"]["shape"] or network.classes != student.classes:
        raise Refused(f"web: the {role} has other pictures or classes than the student: the page shows one drawing.")


def _network(network: Student, folder: Path, role: str) -> int:
    """Writes a network's ONNX file under its role's name; returns its bytes."""
    path = onnx.write(*deployed.with_preparation(network), folder).replace(folder / f"{role}.onnx")
    return path.stat().st_size


def of_each_class(examples: Examples, entry: str) -> list[np.ndarray]:
    """Returns the first example of each of the first classes, or the first examples where there are no classes."""
    images, labels = examples.raw[entry], examples.labels
    if labels is None or labels.ndim != 1:
        return list(images[:SHOWN])
    rows = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels[labels >= 0])[:SHOWN]]
    return [images[row] for row in rows]
