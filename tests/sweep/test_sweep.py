"""Sweeps: what they vary, how points share programs, that a point is the run of its own, the table."""

import json
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from tiny_sweep import RATE, TEMPERATURE, tiny

import kd_jax
from kd_jax.config import training
from kd_jax.core import optimizers
from kd_jax.core.many import Single
from kd_jax.data.load import load
from kd_jax.models.mlp import mlp
from kd_jax.sweep import run as sweep
from kd_jax.sweep.programs import begun, programs_of
from kd_jax.sweep.spec import Range, apply, parse
from kd_jax.system.checkpoint import load_tree
from kd_jax.system.parallel import make_mesh
from kd_jax.train import run as train
from kd_jax.train.finish import exported


def test_what_is_varied():
    spec = parse("seed=0,1; train.augment=('flip',),();data.name=digits,mnist\nconfig.terms.kd.weight=log:1e-3..1e-1")
    assert spec.choices == {"seed": (0, 1), "train.augment": (("flip",), ()), "data.name": ("digits", "mnist")}
    assert spec.ranges == {"terms.kd.weight": Range("log", 1e-3, 1e-1)}
    assert len(spec.grid()) == 8 and spec.grid()[1] == {"seed": 0, "train.augment": ("flip",), "data.name": "mnist"}


def test_a_file_says_it_too(tmp_path):
    (tmp_path / "mine.py").write_text("SWEEP = {'seed': (0, 1, 2), 'terms.kd.weight': 'uniform:0.1..1'}")
    spec = parse(str(tmp_path / "mine.py"))
    assert spec.choices == {"seed": (0, 1, 2)} and spec.ranges["terms.kd.weight"].kind == "uniform"
    (tmp_path / "mine.py").write_text("SWEEPS = {}")
    with pytest.raises(ValueError, match="defines no dict SWEEP"):
        parse(str(tmp_path / "mine.py"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "varies nothing"),
        ("seed", "'seed' is not field=value"),
        ("seed=0;seed=1", "'seed' twice"),
        ("seed=0,1,0", "the value 0 twice"),
        ("seed=0,,1", "a value is missing"),
        ("terms.kd.weight=lgo:1..2", "kind 'lgo'. Did you mean 'log'"),
        ("terms.kd.weight=log:0..2", "above 0 on a logarithmic"),
        ("terms.kd.weight=uniform:2..1", "LOW is below HIGH"),
        ("terms.kd.weight=uniform:a..1", "two numbers"),
        ("nowhere.py", "there is no file"),
    ],
)
def test_syntax_errors(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_fields_and_values_that_do_not_fit():
    config = tiny()
    for point, message in (
        ({"terms.kd.wieght": 1.0}, "'wieght'.*'weight'"),
        ({"terms.kd.kwargs.temprature": 1.0}, "'temprature'.*'temperature'"),
        ({"train.steps": "many"}, "train.steps='many'"),
    ):
        with pytest.raises(ValueError, match=message):
            apply(config, point)
    assert apply(config, {TEMPERATURE: 3}).terms.kd.kwargs.temperature == 3.0
    assert config.terms.kd.kwargs.temperature == 4.0


def test_rates_that_scale_the_update():
    fields = training().optimizer.to_dict()
    assert optimizers.scales_with_rate(fields) and optimizers.scales_with_rate(
        {**fields, "name": "adamw", "kwargs": {}}
    )
    adafactor = {"weight_decay_rate": 0.1, "min_dim_size_to_factor": 2}
    assert not optimizers.scales_with_rate({**fields, "name": "adafactor", "kwargs": adafactor})


def test_points_share_programs_where_they_can(tmp_path):
    config, mesh = tiny(), make_mesh({"data": 1, "fsdp": 1, "model": 1})
    spec = parse(
        f"seed=0,1;{TEMPERATURE}=1,4;{RATE}=0.05,0.1;student.model.kwargs={{'widths': (4,)}},{{'widths': (8,)}}"
    )
    programs = programs_of(begun(config, tmp_path), spec.grid(), tmp_path, mesh)
    assert [len(p.points) for p in programs] == [8, 8] and programs[0].directory != programs[1].directory
    hyper = programs[0].members.hyper[0]["student"]
    np.testing.assert_allclose(hyper["learning_rate_scale"], [0.5, 1] * 4)
    np.testing.assert_allclose(hyper["terms"]["kd"]["kwargs"]["temperature"], [1, 1, 4, 4] * 2)
    assert programs[0].members.seeds == (0,) * 4 + (1,) * 4 and programs[0].config.view_seed == 0
    config.train.optimizer.update(dict(name="adafactor", weight_decay=0.0))
    config.train.optimizer.kwargs = {"weight_decay_rate": 0.1}
    spec = parse(f"seed=0,1;{RATE}=0.05,0.1")
    assert [len(p.points) for p in programs_of(config, spec.grid(), tmp_path, mesh)] == [2, 2]


def test_points_that_cannot_share_a_program(tmp_path):
    from configs import assistants, self_distillation

    # Born-again does something in Python between generations; every point is a run by itself.
    mesh, config = make_mesh({"data": 1, "fsdp": 1, "model": 1}), self_distillation.get_config("born_again,tiny")
    programs = programs_of(begun(config, tmp_path), parse("seed=0,1").grid(), tmp_path, mesh)
    assert [p.members for p in programs] == [Single(0), Single(1)] and "in Python" in programs[0].why
    # Assistants learn from one another by copies of the terms under other names, with weights of their own.
    config = assistants.get_config("dense,tiny")
    spec = parse(f"seed=0,1;terms.{next(n for n in config.terms if 'kd' in n)}.weight=0.5,0.9")
    programs = programs_of(begun(config, tmp_path), spec.grid(), tmp_path, mesh)
    assert [len(p.points) for p in programs] == [2, 2]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    spec = parse(f"seed=0,3;{TEMPERATURE}=1,4;terms.kd.weight=0.5,2;{RATE}=0.05,0.2")
    return root, spec, sweep.run(tiny(), spec, root)


def test_every_point_is_the_run_of_its_own(swept, tmp_path):
    root, _, results = swept
    assert len(results["runs"]) == 16 and len(list((root / "runs").iterdir())) == 1
    assert len({run["validation"] for run in results["runs"]}) > 1
    for run in (results["runs"][0], results["runs"][-1]):
        config = apply(tiny(), {**run["point"], "view_seed": 0, "baseline": False, "report": False})
        assert set(run["alone"]) == {f"--config.{k}={v}" for k, v in {**run["point"], "view_seed": 0}.items()}
        config.teacher.workdir = str(next((root / "teachers").iterdir()))
        directory = tmp_path / str(run["point"]["seed"])
        alone = train.run(config, directory)["models"]["student"]
        for which in ("last", "best"):
            for split in ("validation", "test"):
                chex.assert_trees_all_close(alone[which][split], run[which][split]["student"], rtol=1e-4)
        ours, theirs = (network(path) for path in (run["export"], directory / "student" / "export" / "last"))
        chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_sweep_from_cached_answers_is_the_sweep(swept, tmp_path):
    """The cache is built once for all members."""
    _, _, results = swept
    config = tiny()
    config.teacher.cache.directory = "auto"
    spec = parse(f"seed=0,3;{TEMPERATURE}=4;terms.kd.weight=0.5,2;{RATE}=0.05,0.2")
    from_cache = sweep.run(config, spec, tmp_path)
    assert len(list(tmp_path.rglob("manifest.json"))) == 3  # of one cache of three splits
    assert len(from_cache["runs"]) == 8
    trained = {json.dumps(run["point"], sort_keys=True): run for run in results["runs"]}
    for run in from_cache["runs"]:
        same = trained[json.dumps(run["point"], sort_keys=True)]
        for split in ("validation", "test"):
            chex.assert_trees_all_close(run["last"][split]["student"], same["last"][split]["student"], rtol=1e-3)


def test_a_sweep_has_its_teacher_and_baseline(swept, tmp_path):
    root, _, results = swept
    best = next(run for run in results["runs"] if run["point"][RATE] == results["rows"][0]["setting"][RATE])
    alone = apply(tiny(), {**best["point"], "view_seed": 0})
    assert alone.baseline  # as a run of its own trains it
    models = train.run(alone, tmp_path)["models"]
    baseline, teacher = results["models"]["baseline"], results["models"]["teacher"]
    assert [run["point"]["seed"] for run in baseline["runs"]] == [0, 3] and baseline["seeds"] == 2
    same = next(run for run in baseline["runs"] if run["point"]["seed"] == best["point"]["seed"])
    for split in ("validation", "test"):
        assert same[split] == pytest.approx(models["baseline"]["last"][split]["accuracy"], abs=0.02)
        assert teacher["last"][split] == models["teacher"]["last"][split]
    chex.assert_trees_all_close(
        network(Path(same["export"])), network(tmp_path / "baseline" / "export" / "last"), rtol=1e-4, atol=1e-5
    )
    assert baseline["validation"]["mean"] == pytest.approx(np.mean([run["validation"] for run in baseline["runs"]]))
    assert [line[0] for line in results["lines"]] == ["student"] * 8 + ["teacher", "baseline"]
    assert Path(teacher["export"]).exists() and "the baseline's" in results["conclusion"][-2]
    page = (root / "sweep.html").read_text()
    assert '<th scope="row">baseline</th>' in page and '<th scope="row">teacher</th>' in page


def test_a_sweep_without_a_baseline(tmp_path):
    config = tiny()
    config.baseline = False
    results = sweep.run(config, parse("seed=0,1"), tmp_path)
    assert [*results["models"]] == ["teacher"] and not (tmp_path / "baselines").exists()
    assert [line[0] for line in results["lines"]] == ["student", "teacher"]
    images, labels = load(config.data).test.in_memory()
    for run in results["runs"]:  # of members of one program
        student = kd_jax.load(run["export"])
        assert (student.predict(images) == labels).mean() == pytest.approx(run["test"], abs=1e-9)
        assert student.info["seed"] == run["point"]["seed"]
    with pytest.raises(ValueError, match="holds the 2 students of a sweep. Load one of them: .*/export/0/last"):
        kd_jax.load(tmp_path)


def network(folder):
    model = mlp(10, widths=(8,))
    params = model.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32), train=False)["params"]
    return load_tree(Path(folder) / "student", exported(params, {}))


def test_what_a_sweep_writes_and_reads_back(swept, monkeypatch, capsys):
    root, spec, results = swept
    for name in ("sweep.json", "sweep.html", "surface.png"):
        assert (root / name).stat().st_size > 0
    assert "alone" in (root / "sweep.html").read_text() and len(results["rows"]) == 8
    monkeypatch.setattr(sweep, "train_program", None)  # whoever trains now fails
    capsys.readouterr()
    again = sweep.run(tiny(), spec, root)
    assert again == json.loads((root / "sweep.json").read_text())
    printed = capsys.readouterr().out
    assert f"Read from {root}, finished {results['finished']}; nothing was trained." in printed
    assert "Best by validation" in printed and "temperature" in printed
    monkeypatch.undo()
    (root / "sweep.json").unlink()  # killed before the end: finished programs are read, not trained
    resumed = sweep.run(tiny(), spec, root)
    assert "it was not trained again" in capsys.readouterr().out and resumed["runs"] == again["runs"]


def test_a_sweep_needs_a_validation_split_and_no_ranges(tmp_path):
    config = tiny()
    config.data.validation = 0.0
    with pytest.raises(ValueError, match="--config.data.validation"):
        sweep.run(config, parse("seed=0,1"), tmp_path)
    with pytest.raises(ValueError, match="--trials"):
        sweep.run(config, parse("terms.kd.weight=log:0.1..1"), tmp_path)
    config = tiny()
    config.members = "vmpa"
    with pytest.raises(ValueError, match="'vmpa'"):
        sweep.run(config, parse("seed=0,1"), tmp_path)


def test_the_command_line_tells_what_is_wrong(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "launch.py", "--config=configs/cifar_resnet.py:digits,tiny", f"--workdir={tmp_path}/run"]
    for arguments, message in (
        (["--sweep=terms.kd.wieght=1,2"], "'wieght'. Did you mean 'weight'"),
        (["--trials=3"], "--trials and --pruner belong to a --sweep"),
    ):
        ended = subprocess.run([*command, *arguments], cwd=root, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 1 and message in ended.stderr and "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()
