"""Every variant of every config of schemes, as a tiny run: stopped and resumed bit for bit, and the same on a mesh."""

import json
from pathlib import Path

import numpy as np
import pytest
from scheme_checks import CONFIGS, config_module

from kd_jax import train
from kd_jax.config import teachers_of
from kd_jax.loop import DONE
from kd_jax.watch import Signals, Stopped

pytestmark = pytest.mark.slow  # about ten seconds a variant
VARIANTS = [
    (path.stem, variant)
    for path in sorted(CONFIGS.glob("*.py"))
    if "\nVARIANTS" in path.read_text(encoding="utf-8")
    for variant in config_module(path.stem).VARIANTS
]
STOP = 4  # of the student's six or more steps, two of which make an interval of the log
# Their students start as their teacher's answers to noise, or their choices depend on a last bit.
CHAOTIC = {("architecture_search", "supernet"), ("architecture_search", "differentiable")}


def run(name: str, variant: str, root: Path, directory: str, **axes: int) -> tuple[dict, bytes]:
    """(done.json without its clock, metrics.jsonl) of the student; teachers are trained once for all runs in `root`."""
    config = config_module(name).get_config(f"{variant},tiny")
    config.baseline, config.report = False, False
    config.mesh.axes.update({"data": 1, **axes})
    for role, teacher in teachers_of(config).items():
        teacher.workdir = str(root / role)
    train.run(config, root / directory)
    student = root / directory / "student"
    done = json.loads((student / DONE).read_text())
    timed = ("seconds", "examples_per_second")
    return {k: v for k, v in done.items() if k not in timed}, (student / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_resumes_exactly_and_does_not_depend_on_the_mesh(name, variant, tmp_path, monkeypatch):
    whole = run(name, variant, tmp_path, "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Signals, "stop_at", lambda self, step: step == STOP)
        with pytest.raises(Stopped):
            run(name, variant, tmp_path, "parts")
    assert run(name, variant, tmp_path, "parts") == whole
    spread, _ = run(name, variant, tmp_path, "spread", data=4, fsdp=2)
    if (name, variant) not in CHAOTIC:
        for entry, scores in whole[0]["last"]["test"].items():
            np.testing.assert_allclose(spread["last"]["test"][entry]["nll"], scores["nll"], rtol=2e-2, err_msg=entry)
