"""Do two checkouts train to the same bytes? Four tiny runs in each: offline, online, data-free, and a sweep.

python -m benchmarks.hashes OTHER_CHECKOUT

Compared are the arrays of every export, metrics.jsonl, and the scores in results.json and sweep.json. What a
refactoring must not change stays the same; the script ends with 1 where anything differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

SWEEP = "--sweep=seed=0,1;terms.kd.weight=0.5,0.9"
RUNS = {
    "offline": ["--config=configs/cifar_resnet.py:digits,tiny"],
    "online": ["--config=configs/online.py:mutual,tiny"],
    "data_free": ["--config=configs/data_free.py:tiny"],
    "sweep": ["--config=configs/cifar_resnet.py:digits,tiny", SWEEP],
}
SCORES = ("accuracy", "nll", "ece", "agreement", "kl")


def scores(tree: Any, path: str = "") -> dict[str, float]:
    """Returns {path: number} of every score in a results file."""
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree)
    else:
        return {path: tree} if path.rpartition("/")[2] in SCORES else {}
    return {k: v for name, value in items if name != "config" for k, v in scores(value, f"{path}/{name}").items()}


def export_hash(folder: Path) -> str:
    tree = ocp.PyTreeCheckpointer().restore(folder)
    total = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        leaf = np.asarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode() + leaf.tobytes())
    return total.hexdigest()


def hashes(checkout: Path) -> dict[str, Any]:
    by_file: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as root:
        for name, arguments in RUNS.items():
            workdir = Path(root) / name
            command = [sys.executable, "launch.py", *arguments, f"--workdir={workdir}"]
            subprocess.run(command, cwd=checkout, check=True, stdout=subprocess.DEVNULL, env={**os.environ})
            for path in sorted(workdir.rglob("*")):
                key = f"{name}/{path.relative_to(workdir)}"
                if "runs/" in key or "teachers/" in key:  # their folders are named by a hash of the config
                    named = (p for p in key.split("/")[2:] if "-" not in p and not re.fullmatch("[0-9a-f]{8}", p))
                    key = f"{name}/" + "/".join(named)
                if path.name == "metrics.jsonl":
                    by_file[key] = hashlib.sha256(path.read_bytes()).hexdigest()
                elif (path / "_METADATA").exists() and "export" in path.parts:
                    by_file[key] = export_hash(path)
                elif path.name in ("results.json", "sweep.json"):
                    by_file |= {key + k: v for k, v in scores(json.loads(path.read_text())).items()}
    return by_file


def main() -> None:
    here, other = hashes(Path(__file__).parents[1]), hashes(Path(sys.argv[1]))
    differ = sorted(k for k in {*here, *other} if here.get(k) != other.get(k))
    print(f"{len(here)} hashes and scores here, {len(other)} there, {len(differ)} differ")
    for key in differ[:40]:
        print(f"  {key}: {here.get(key)} here, {other.get(key)} there")
    sys.exit(bool(differ))


if __name__ == "__main__":
    main()
