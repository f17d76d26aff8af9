"""Every variant of every config of schemes, as a tiny run: resumed bit for bit, and the same on a mesh, with cached
teachers (or these are refused) and, a variant of each config, in two processes."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from scheme_checks import CONFIGS, config_module
from several import finish, start

from kd_jax.config.fields import teachers_of
from kd_jax.data.source import DataNotFound
from kd_jax.system.signals import Signals, Stopped
from kd_jax.train import run as train
from kd_jax.train.fit import DONE

pytestmark = pytest.mark.slow  # about ten seconds a variant
NEEDS = {"detection": "faster_coco_eval"}  # extras without which a config's task cannot be scored
VARIANTS = [
    (path.stem, variant)
    for path in sorted(CONFIGS.glob("*.py"))
    if "\nVARIANTS" in path.read_text(encoding="utf-8")
    and (path.stem not in NEEDS or importlib.util.find_spec(NEEDS[path.stem]))
    for variant in config_module(path.stem).VARIANTS
]
STOP = 4  # of the student's six or more steps, two of which make an interval of the log
# Their students start as their teacher's answers to noise, or their choices depend on a last bit.
CHAOTIC = {("architecture_search", "supernet"), ("architecture_search", "differentiable")}
# Metrics without a jump: kl of policies, rank of embeddings; a policy of two teachers has its return alone.
SMOOTH = ("nll", "kl", "rank", "return")
UNCACHED = {  # and why answers to the pictures of each example are not enough
    ("architecture_search", "differentiable"): "shows the teacher",
    **{("compress", v): "copies parameters of the teacher" for v in config_module("compress").VARIANTS},
    ("contrastive", "sskd"): "SSKD rotates",
    ("dataset_distillation", "soft"): "shows the teacher",
    **{("data_free", v): "shows the teacher" for v in ("disagreement", "dafl", "dafl_statistics", "inversion")},
    **{("domain_adaptation", v): "The role 'adapted'" for v in ("statistics", "information")},
    ("foundation", "agglomerative"): "asks the teacher itself before the first step",
    ("foundation", "label_free"): "two examples at once",
    ("graph", "gnn"): "one answer an example",
    **{("policy", v): "copies parameters of the teacher" for v in config_module("policy").VARIANTS},
    ("speech", "whisper"): "copies parameters of the teacher",
    **{("transfer_sets", v): "two examples at once" for v in ("function_matching", "cutmix")},
}
NEEDED = {  # packages without which a variant is refused at its start
    **{("speech", v): ("jiwer",) for v in ("frame", "blank_free", "sequence")},
    ("speech", "vad"): ("onnxruntime", "silero_vad"),
}


@pytest.fixture(autouse=True)
def _packages(request):
    arguments = request.node.callspec.params
    for package in NEEDED.get((arguments["name"], arguments["variant"]), ()):
        pytest.importorskip(package)


def run(name: str, variant: str, root: Path, directory: str, cache: str = "", **axes: int) -> tuple[dict, bytes]:
    """(done.json without its clock, metrics.jsonl) of the student; teachers are trained once for all runs in `root`."""
    config = config_module(name).get_config(f"{variant},tiny")
    config.baseline, config.report = False, False
    config.mesh.axes.update({"data": 1, **axes})
    for role, teacher in teachers_of(config).items():
        teacher.workdir, teacher.cache.directory = str(root / role), cache
    try:
        train.run(config, root / directory)
    except DataNotFound as e:  # of a Debian package
        pytest.skip(str(e))
    student = root / directory / "student"
    done = json.loads((student / DONE).read_text())
    timed = ("seconds", "examples_per_second", "finished")
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
        assert_close(spread, whole[0])


def assert_close(ours: dict, theirs: dict) -> None:
    for entry, scores in theirs["last"]["test"].items():
        smooth = next(name for name in SMOOTH if name in scores)
        np.testing.assert_allclose(ours["last"]["test"][entry][smooth], scores[smooth], rtol=2e-2, err_msg=entry)


@pytest.mark.parametrize(
    ("name", "variant"), [v for v in VARIANTS if teachers_of(config_module(v[0]).get_config(v[1]))]
)
def test_trains_alike_from_cached_teachers_or_says_why_not(name, variant, tmp_path):
    if why := UNCACHED.get((name, variant)):
        with pytest.raises(ValueError, match=why):
            run(name, variant, tmp_path, "cached", cache="auto")
        return
    cached, plain = (run(name, variant, tmp_path, str(cache), cache)[0] for cache in ("auto", ""))
    if (name, variant) not in CHAOTIC:
        assert_close(cached, plain)


ONE_OF_EACH = list({name: variant for name, variant in reversed(VARIANTS)}.items())
TEXTS = [("reasoning", "filtered"), ("reasoning", "on_policy")]  # which need no data


@pytest.mark.parametrize(("name", "variant"), ONE_OF_EACH + TEXTS)
def test_two_processes_get_what_one_does(name, variant, tmp_path):
    done = []
    for count in (1, 2):
        try:
            finish(start("variant_run.py", count, tmp_path / str(count), name, variant))
        except AssertionError as e:
            if "DataNotFound: " in str(e):  # as in `run`
                pytest.skip(str(e).strip().splitlines()[-1])
            raise
        done.append(json.loads((tmp_path / str(count) / "student" / DONE).read_text()))
    if (name, variant) not in CHAOTIC:
        assert_close(*done)
