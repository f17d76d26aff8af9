"""Another run in a workdir: old numbers are never returned as new, and no run goes on with something else."""

import json
import shutil
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from mistakes import CLASSES, FEATURES, MLP, Mistake, check, config, data, each, points, run

import kd_jax
from kd_jax.config import term
from kd_jax.sweep import run as sweep
from kd_jax.sweep import search
from kd_jax.sweep.spec import parse
from kd_jax.system.signals import Signals, Stopped

VARIABLES = MLP(16).init(jax.random.key(0), np.zeros((1, FEATURES), np.float32))["params"], {}
OTHER = jax.tree.map(lambda x: x + 1.0, VARIABLES)
DATA = data(validation=0.0)


def handing(**things):
    """What is given to a run, beside what all rows give."""
    return lambda folder: things


def forget_logs(folder):
    for path in folder.rglob("metrics.jsonl"):  # check() looks for those of the second run
        path.unlink()


def then(first, second=None, finished=True, **fields):
    """A run that is given what `first(folder)` returns, finished or stopped at step 2; and `second` in its workdir."""

    def do(folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(folder)
            things = {"teacher_variables": VARIABLES, "data": DATA, **first(folder)}
            if finished:
                run(folder, config(**fields), **things)
            else:
                patch.setattr(Signals, "stop_at", lambda self, step: step == 1)
                with pytest.raises(Stopped):
                    run(folder, config(**fields), **things)
                patch.undo()
                patch.syspath_prepend(folder)
            forget_logs(folder)
            again = (second or first)(folder)
            run(folder, config(**fields), **{"teacher_variables": VARIABLES, "data": DATA, **again})

    return do


class Net(nnx.Module):
    def __init__(self, width, rngs):
        self.hidden = nnx.Linear(FEATURES, width, rngs=rngs)
        self.head = nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.hidden(x)))


class Scaled(nn.Module):
    """Its repr shows the first and the last of many numbers."""

    table: tuple = ()
    numbers: np.ndarray | None = None

    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(x) * SLOPE


SLOPE = 1.0


def sloped(slope):
    def set_it(folder):
        globals()["SLOPE"] = slope
        return {"student": Scaled()}

    return set_it


def with_numbers(middle):
    return handing(student=Scaled(numbers=np.insert(np.ones(2000), 1000, middle)))


def nnx_of(width):
    return handing(student=kd_jax.NNXModel(lambda rngs: Net(width, rngs=rngs)))


def linear(scale):
    init = lambda key, x: {"w": jnp.ones((FEATURES, CLASSES))}  # noqa: E731
    return handing(student=kd_jax.FunctionModel(init, lambda p, x: scale * x @ p["w"]))


def teacher_of(activation):
    teacher = kd_jax.FunctionModel(
        lambda key, x: {"w": jnp.ones((FEATURES, CLASSES))}, lambda p, x: activation(x @ p["w"])
    )
    return handing(teacher=teacher, teacher_variables=({"w": jnp.ones((FEATURES, CLASSES))}, {}))


def written(name, text):
    """Writes a module of the user's, and imports it as a new process would."""

    def write(folder):
        path = folder / f"{name}.py"
        path.write_text(text)
        module = types.ModuleType(name)
        module.__file__ = str(path)
        exec(compile(text, path, "exec"), module.__dict__)
        sys.modules[name] = module
        return {}

    return write


def edited(name, text, old, new, **fields):
    return then(written(name, text), written(name, text.replace(old, new)), **fields)


LOSS = "import jax.numpy as jnp\nSCALE = 1.0\ndef distance(s, t):\n    return jnp.abs(s - t).mean(-1) * SCALE\n"
LOCKED = "import threading\nlock = threading.Lock()\n" + LOSS.replace("    ret", "    lock.locked()\n    ret")
OWN = {"own": term("my_losses:distance", ("student.logits",), ("teacher.logits",))}
PREPARE = "def more(batch, train):\n    return {'shifted': batch['image'] + 1.0}\n"
SCHEME = "from kd_jax.schemes import offline\ndef build(parts):\n    return offline.build(parts)\n"
TASK = (
    "import dataclasses\nfrom kd_jax.tasks import classify\n"
    "def finish(sums, collected):\n    return {**classify.task().finish(sums, collected), 'twice': 2.0}\n"
    "def make():\n    return dataclasses.replace(classify.task(), finish=finish)\n"
)
MODEL = "from kd_jax.models.mlp import mlp\ndef make(num_classes):\n    return mlp(num_classes, (8,), dropout=0.1)\n"
START = (
    "import jax, jax.numpy as jnp\ndef zeros(model, key, shapes):\n"
    "    return jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)\n"
)


def model_of_file(folder):
    made = config(terms="kd", student__model__name="my_models:make")
    things = {"teacher": MLP(16), "teacher_variables": VARIABLES, "data": DATA}
    for text in (MODEL, MODEL.replace("0.1", "0.2")):
        written("my_models", text)(folder)
        forget_logs(folder)
        kd_jax.run(made, folder / "run", **things)


def teacher_at_a_path(folder):
    for seed in (0, 1):
        alone = config({"ce": {"weight": 1.0}}, seed=seed, teacher__model__name="")
        shutil.rmtree(folder / "a", ignore_errors=True)
        run(folder / "a", alone, student=MLP(16), teacher=None, data=DATA)
        forget_logs(folder)
        run(folder, config(teacher__checkpoint=str(folder / "a/run/student/export/last/student")), data=DATA)


def deleted(place):
    """A finished run of which a folder has gone."""

    def do(folder):
        run(folder, data=DATA)
        shutil.rmtree(folder / "run" / place)
        forget_logs(folder)
        run(folder, data=DATA)

    return do


def older(folder):
    path = folder / "run/student/config.json"
    if path.exists():
        recorded = json.loads(path.read_text())
        del recorded["digests"]
        path.write_text(json.dumps(recorded))
    return {}


def swept(folder, spec, seed=0):
    made = config(steps=1, teacher__model__name="", terms={"ce": {"weight": 1.0}}, seed=seed)
    made.student.model = {"name": "models.mlp.mlp", "kwargs": {"widths": (4,)}}
    made.data.update({"name": "digits", "validation": 0.1, "limit": 64, "eval_limit": 32})
    if "log:" in spec:
        search.run(made, parse(spec), folder / "sweep", 1)
    else:
        sweep.run(made, parse(spec), folder / "sweep")


def sweeps(first, second, finished=True, seed=0):
    def do(folder):
        if finished:
            swept(folder, first)
        else:
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
                patch.setattr(Signals, "stop_at", lambda self, step: True)
                swept(folder, first)
        forget_logs(folder)
        swept(folder, second, seed)

    return do


REFUSED = "holds a run that was given something else: …"
OTHER_ARRAYS = "data: the arrays differ (test.description, test.image, train.description, train.image)"
ROWS = [
    Mistake("other teacher_variables in a finished run's workdir", f"{REFUSED}teacher_variables: other values",
            then(handing(), handing(teacher_variables=OTHER))),
    Mistake("other teacher_variables in an unfinished run's workdir", f"{REFUSED}teacher_variables: other values",
            then(handing(), handing(teacher_variables=OTHER), finished=False)),
    Mistake("other arrays of the same shape, after a finished run", REFUSED + OTHER_ARRAYS,
            then(handing(), handing(data=data(seed=5, validation=0.0)))),
    Mistake("other arrays of the same shape, after an unfinished run", REFUSED + OTHER_ARRAYS,
            then(handing(), handing(data=data(seed=5, validation=0.0)), finished=False)),
    Mistake("the same arrays with other labels", f"{REFUSED}data: the arrays differ (train.label)",
            then(handing(), handing(data=DATA._replace(train=DATA.train.with_labels(DATA.train.labels[::-1]))))),
    Mistake("another test split", f"{REFUSED}data: the arrays differ (test.image)",
            then(handing(), handing(data=kd_jax.from_arrays(train=points(), test=points(40, 9))))),
    Mistake("another closure in NNXModel", f"{REFUSED}the variable width of nnx_of.<locals>.<lambda> in test_stale.py",
            then(nnx_of(4), nnx_of(6))),
    Mistake("another closure in FunctionModel, with the same parameters",
            f"{REFUSED}the network that was given as student is another…the variable scale of linear",
            then(linear(1.0), linear(2.0), finished=False)),
    Mistake("another global that a module reads", f"{REFUSED}the global SLOPE of test_stale.py",
            then(sloped(1.0), sloped(2.0))),
    Mistake("another network with the same repr", f"{REFUSED}the network that was given as student is another",
            then(with_numbers(1.0), with_numbers(2.0))),
    Mistake("another teacher network with the same variables", f"{REFUSED}the network that was given as teacher",
            then(teacher_of(jnp.tanh), teacher_of(jnp.sin), finished=False)),
    Mistake("an edited loss file, after a finished run", f"{REFUSED}source of distance in my_losses.py",
            edited("my_losses", LOSS, "abs", "square", terms=OWN)),
    Mistake("an edited loss file, after an unfinished run", f"{REFUSED}source of distance in my_losses.py",
            edited("my_losses", LOSS, "abs", "square", finished=False, terms=OWN)),
    Mistake("an edited constant beside a loss", f"{REFUSED}the global SCALE of my_losses.py",
            edited("my_losses", LOSS, "1.0", "2.0", terms=OWN)),
    Mistake("an edited function of config.prepare", f"{REFUSED}source of more in my_batches.py",
            edited("my_batches", PREPARE, "1.0", "2.0", prepare__name="my_batches:more")),
    Mistake("an edited scheme", f"{REFUSED}source of build in my_schemes.py",
            edited("my_schemes", SCHEME, "(parts)\n", "(parts) or None\n", scheme__name="my_schemes:build")),
    Mistake("an edited task", f"{REFUSED}source of finish in my_tasks.py",
            edited("my_tasks", TASK, "2.0", "3.0", task__name="my_tasks:make")),
    Mistake("an edited function that makes the model", f"{REFUSED}source of make in my_models.py", model_of_file),
    Mistake("an edited function that the student starts from", f"{REFUSED}source of zeros in my_starts.py",
            edited("my_starts", START, "zeros(x", "ones(x", student__initial__name="my_starts:zeros")),
    Mistake("another export at the teacher's path",
            f"{REFUSED}the files differ to which these point: teacher.checkpoint", teacher_at_a_path),
    Mistake("the student's export deleted", "There is no exported model at …/student/export/last/student. …The student "
            "was finished …: take the folder back, or delete …/done.json", deleted("student/export")),
    Mistake("the teacher's export deleted", "There is no exported model at …/teacher/export/last/student. …The teacher",
            deleted("teacher/export")),
    Mistake("a run of an older version", f"{REFUSED}config.json is of an older version, which did not note them",
            then(handing(), older)),
    Mistake("a second sweep after a finished one", "sweep.seed: [0, 1] -> [0, 2]",
            sweeps("seed=0,1", "seed=0,2")),
    Mistake("a second sweep after an unfinished one", "config.seed: 0 -> 7",
            sweeps("seed=0,1", "seed=0,1", finished=False, seed=7)),
    Mistake("a search in other ranges", "ranges.train.optimizer.learning_rate: ['log', 0.1, 1.0] -> ['log', 0.1, 2.0]",
            sweeps("train.optimizer.learning_rate=log:0.1..1", "train.optimizer.learning_rate=log:0.1..2")),
    Mistake("the same run again, without a report", "Read from …/run, finished 20…-…:…; nothing was trained.",
            then(handing()), "end", goes_on=True),
    Mistake("a loss that reads what cannot be compared",
            "student: of the global lock of my_losses.py (_thread.lock) only the type is compared",
            then(written("my_losses", LOCKED), terms=OWN), "start", goes_on=True),
]  # fmt: skip


@each(ROWS)
def test_stale(mistake, tmp_path, capsys):
    if "search" in mistake.what:
        pytest.importorskip("optuna")
    check(mistake, tmp_path, capsys)


def test_a_deleted_export_is_made_again_from_the_checkpoints(tmp_path):
    first = run(tmp_path, data=DATA)
    student = tmp_path / "run" / "student"
    shutil.rmtree(student / "export")
    (student / "done.json").unlink()
    again = run(tmp_path, data=DATA)
    assert (student / "export/last/student").is_dir()
    assert again["models"]["student"]["last"] == first["models"]["student"]["last"]
    assert again["wall_seconds"] >= first["models"]["student"]["train_seconds"]
