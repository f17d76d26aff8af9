"""What a newcomer does on the first day: arrays, names, arguments and commands that are nearly right."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from mistakes import CLASSES, FEATURES, MLP, Mistake, check, config, data, each, points, run, wrong

import kd_jax
from kd_jax import cli
from kd_jax.sweep import search
from kd_jax.sweep.spec import parse

(X, Y), (TEST_X, TEST_Y) = points(), points(40, 1)
TERM = {"fn": "users_code:confused", "inputs": ("student.logits",), "targets": ("teacher.logits",)}
PAIR = '{"prompt": "a", "answer": "b"}\n'


class Nothing(nn.Module):
    @nn.compact
    def __call__(self, x):
        nn.Dense(CLASSES)(x)


class OneBatch(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(x.reshape(16, FEATURES))


class Noisy(nn.Module):
    """Draws in evaluation too."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(x) + jax.random.normal(self.make_rng("noise"), (len(x), CLASSES))


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x):
        hidden = nn.Dense(8)(x)
        return nn.Dense(CLASSES)(hidden), hidden


def branching(student, teacher):
    square = ((student - teacher) ** 2).mean(-1)
    return square if square.sum() > 0 else 2 * square


def arrays(**fields):
    """A run on arrays; `fields` are arguments of from_arrays."""
    pairs = {"train": (X, Y), "test": (TEST_X, TEST_Y), "validation": 0.2}
    return lambda folder: run(folder, data=kd_jax.from_arrays(**pairs | fields))


def student(network):
    return lambda folder: run(folder, student=network)


def term(**fields):
    """A run whose terms have a further one, TERM but for `fields`."""
    return lambda folder: run(folder, config({**kd_jax.compose("kd"), "own": TERM | fields}))


def assigned(path, value):
    """A config with a field that is written as Python writes it."""

    def do(folder):
        made = config()
        *parents, last = path.split(".")
        owner = made
        for name in parents:
            owner = owner[name]
        setattr(owner, last, value)
        run(folder, made)

    return do


def read(content, name="pairs"):
    """A run on a file with this content."""

    def do(folder):
        (folder / "file.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
        run(folder, config(data__name=name, data__directory=str(folder / "file.txt"), data__length=16), data=None)

    return do


def command(**values):
    """The command with these flags; its errors are raised, not printed."""

    def do(folder):
        with pytest.MonkeyPatch.context() as patch, flagsaver.flagsaver():
            flags.FLAGS.mark_as_parsed()
            for name, value in {"workdir": str(folder / "run"), **values}.items():
                setattr(flags.FLAGS, name, value)
            patch.setenv("KD_JAX_TRACEBACK", "1")
            cli.run(config(), "mine.py", [])

    return do


def longer(folder):
    variables = MLP(16).init(jax.random.key(0), X[:1])
    run(folder, teacher_variables=variables)
    for path in folder.rglob("metrics.jsonl"):  # check() looks for those of the second run
        path.unlink()
    run(folder, config(steps=4), teacher_variables=variables)


ARRAYS = [
    Mistake(
        "one-hot labels",
        "The labels of arrays are float32 (96, 4), and the task takes one integer an example, its class",
        arrays(train=(X, np.eye(CLASSES, dtype=np.float32)[Y])),
    ),
    Mistake(
        "a column of labels, as Keras has them",
        "The labels of arrays are int32 (96, 1), and the task takes one integer an example",
        arrays(train=(X, Y[:, None]), test=(TEST_X, TEST_Y[:, None])),
    ),
    Mistake(
        "classes counted from 1",
        "The teacher has 4 classes, arrays has 5. config.teacher.model.kwargs.num_classes sets how many",
        arrays(train=(X, Y + 1), test=(TEST_X, TEST_Y + 1)),
    ),
    Mistake("images without their labels", "arrays/train is a pair (x, y), … not an array (120, 6)", arrays(train=X)),
    Mistake("no test split", "arrays/test is a pair (x, y), … not a NoneType", arrays(test=None)),
    Mistake(
        "a test split of bytes beside floats",
        "arrays: test images are uint8, those of train float32: uint8 is divided by 255, floats are taken as they are",
        arrays(test=(TEST_X.astype(np.uint8), TEST_Y)),
    ),
    Mistake(
        "unlabelled images as a pair",
        "unlabelled are images alone, an array, not a tuple",
        arrays(unlabelled=(X, None)),
    ),
    Mistake("a mean of all channels", "mean has one number a channel, such as (0.5,), not 0.5", arrays(mean=0.5)),
    Mistake(
        "further arrays of a split that is not there",
        "arrays: fields of 'training', of which there are no arrays. Did you mean 'train'",
        arrays(fields={"training": {"age": np.zeros(120)}}),
    ),
    Mistake(
        "a pair of arrays for data",
        "data is what kd_jax.from_arrays(train=(x, y), test=(x, y)) makes, not a tuple",
        lambda folder: run(folder, data=(X, Y)),
    ),
    Mistake(
        "pairs with other keys",
        "file.txt, line 2: no answer among prompt, completion; see kd_jax/data/text/pairs.py",
        read(PAIR + PAIR.replace("answer", "completion")),
    ),
    Mistake(
        "pairs as one JSON array",
        "file.txt, line 1: one object a line, {...}, as JSONL has them",
        read("[" + PAIR.strip() + "]"),
    ),
    Mistake(
        "a text in Latin-1", "file.txt is no text in UTF-8: byte 3 is 0xe9", read("caf\xe9".encode("latin-1"), "text")
    ),
]

CONFIGS = [
    Mistake(
        "the name of a config file for a config",
        "config is what kd_jax.base() or get_config() makes, not 'configs/cifar_resnet.py:digits'",
        lambda folder: kd_jax.run("configs/cifar_resnet.py:digits", folder / "run"),
    ),
    Mistake(
        "the learning rate where a training has none",
        "config.train has no field 'learning_rate'. Did you mean config.train.optimizer.learning_rate?",
        assigned("train.learning_rate", 0.1),
    ),
    Mistake(
        "the batch size where a run has none",
        "config has no field 'batch_size'. Did you mean config.train.batch_size?",
        assigned("batch_size", 128),
    ),
    Mistake(
        "a misspelt field that Python assigns",
        "config.teacher has no field 'chekpoint'. Did you mean 'checkpoint'",
        assigned("teacher.chekpoint", "runs/a"),
    ),
    Mistake(
        "a temperature for all presets",
        "compose('kd', temperature=...): options go to a preset by its name, such as compose('kd', kd={'temperature'",
        lambda _: kd_jax.compose("kd", temperature=2.0),
    ),
    Mistake(
        "a misspelt option of a preset",
        "'kd' was called with temprature: … unexpected keyword argument 'temprature'",
        lambda _: kd_jax.compose("kd", kd={"temprature": 2.0}),
    ),
    Mistake("a list of presets", "compose takes one text, such as 'kd+fitnet'", lambda _: kd_jax.compose(["kd", "at"])),
    Mistake(
        "a second learning rate, for optax",
        "config.train.optimizer.kwargs.learning_rate: the learning rate is config.train.optimizer.learning_rate",
        wrong(train__optimizer__kwargs={"learning_rate": 0.1}),
    ),
    Mistake(
        "a teacher in float64",
        "teacher.dtype='float64' needs JAX_ENABLE_X64=1: without it JAX keeps float32",
        wrong(teacher__dtype="float64"),
    ),
    Mistake(
        "the module of a task for the task",
        "'tasks.regress' is a module: name what is in it, such as 'tasks.regress.task'",
        wrong(task__name="tasks.regress"),
    ),
    Mistake(
        "the module of a scheme for the scheme",
        "'schemes.online' is a module: name what is in it, such as 'schemes.online.build'",
        wrong(scheme__name="schemes.online"),
    ),
    Mistake(
        "a longer training in the workdir of a shorter one",
        "  train.steps: 2 -> 4\nTake them back to resume, or choose another --workdir",
        longer,
    ),
]

CODE = [
    Mistake("the class of a network", "expected a network, got the class MLP: call it, as in MLP(...)", student(MLP)),
    Mistake(
        "a network that returns nothing",
        "the network returns nothing: does its call end in `return`",
        student(Nothing()),
    ),
    Mistake(
        "a network of one batch size",
        "student: evaluation, of 256 examples at a time (config.eval_batch_size; training has batches of 16), fails: "
        "cannot reshape",
        student(OneBatch()),
    ),
    Mistake("a network that draws in evaluation", 'student: evaluation, … needs PRNG for "noise"', student(Noisy())),
    Mistake("a network that returns features beside logits", "'student.logits': ((16, 4), (16, 8))", student(Pair())),
    Mistake(
        "no teacher given, and that of the config is for images",
        "The training of the teacher (ResNet), in which it is the student: … cannot take {'batch.image': (16, 6)}",
        lambda folder: kd_jax.run(config(), folder / "run", student=MLP(), data=data()),
    ),
    Mistake(
        "a loss that branches on a value",
        "Attempted boolean conversion of traced array… A loss is compiled: jnp.where in place of `if`",
        term(fn=branching),
    ),
    Mistake(
        "a loss named by its file",
        "'my/losses.py:mine' names a file. A module is named as in an import, 'losses:mine', with its folder on",
        term(fn="my/losses.py:mine"),
    ),
    Mistake(
        "a loss of one's own named without a colon",
        "'users_code.confused': no module 'kd_jax.users_code'. One of a module of your own has a colon: "
        "'users_code:confused'",
        term(fn="users_code.confused"),
    ),
    Mistake(
        "the name of a schedule alone",
        "Term 'own': schedule is {'name': 'module.function', 'kwargs': {...}}, not 'core.schedules.warmup'",
        term(schedule="core.schedules.warmup"),
    ),
    Mistake("a weight for each step", "Term 'own': weight is a number, not [0.0, 1.0]", term(weight=[0.0, 1.0])),
]

COMMANDS = [
    Mistake(
        "a cache for a sweep",
        "--build_cache is of one run, and --sweep trains many: build the cache first, without it",
        command(sweep="seed=0,1", build_cache=True),
    ),
    Mistake(
        "trials of a sweep over seeds",
        "--trials search, and this --sweep varies the seed alone",
        lambda folder: search.run(config(), parse("seed=0,1"), folder / "run", 5),
    ),
    Mistake("trials without a sweep", "--trials and --pruner belong to a --sweep", command(trials=5)),
    Mistake(
        "a sweep over a short name",
        "config has no field 'temperature'",
        command(sweep="temperature=1,2"),
    ),
]

ROWS = [*ARRAYS, *CONFIGS, *CODE, *COMMANDS]


@each(ROWS)
def test_newcomer(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
