"""Numbers that are none: who brought them is named, be it a teacher, the data, a file, or the training itself."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from mistakes import MLP, Mistake, check, config, each, points, run

from kd_jax import from_arrays
from kd_jax.config.terms import part, term
from kd_jax.system.checkpoint import save_tree


class Logarithm(nn.Module):
    """Answers with the logarithm of what it was given, numbers below 0 among it."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(jnp.log(x))


class Endless(nn.Module):
    """Its tap "length" is infinite, its logits are numbers."""

    @nn.compact
    def __call__(self, x):
        length = nn.Dense(8, name="length", bias_init=nn.initializers.constant(3e38))(x)
        return nn.Dense(4, name="head")(jnp.where(jnp.isfinite(length), 0.0, 1.0))


def variables(network, bad=np.nan):
    """(params, stats) of which the kernel of the head is `bad`; None leaves it as it is."""
    params = network.init(jax.random.key(0), points()[0][:1])["params"]
    if bad is not None:
        params["head"]["kernel"] = jnp.full_like(params["head"]["kernel"], bad)
    return params, {}


def exported(folder, network):
    save_tree(folder / "export", {"params": variables(network)[0]})
    return str(folder / "export")


def from_export(folder):
    return run(folder, config(teacher__checkpoint=exported(folder, MLP(16))))


def from_start(folder):
    made = config(student__initial=part(exported(folder, MLP())))
    return run(folder, made, teacher_variables=variables(MLP(16), None))


def handed(network, made=None, bad=np.nan):
    return lambda folder: run(folder, made, teacher=network, teacher_variables=variables(network, bad))


def silent(folder):
    params = Logarithm().init(jax.random.key(0), jnp.ones((1, 6)))["params"]
    return run(folder, teacher=Logarithm(), teacher_variables=(params, {}))


def endless(folder):
    params = Endless().init(jax.random.key(0), jnp.ones((1, 6)))["params"]
    params["length"]["kernel"] = jnp.full_like(params["length"]["kernel"], 3e38)
    paths = ("student.features:embedding",), ("teacher.features:length",)
    terms = {"hint": term("losses.feature.feature_hint_loss", *paths)}
    return run(folder, config(terms), teacher=Endless(), teacher_variables=(params, {}))


def spoiled(number, value, **fields):
    def make(folder):
        (x, y), test = points(), points(40, 1)
        x[number] = value
        return from_arrays(train=(x, y), test=test, **fields)

    return make


def field_of_nan(folder):
    soft = {"train": {"soft": np.full((120, 4), np.nan, np.float32)}, "test": {"soft": np.zeros((40, 4), np.float32)}}
    splits = from_arrays(train=points(), test=points(40, 1), fields=soft)
    terms = {"soft": term("losses.response.logit_mse_loss", ("student.logits",), ("batch.soft",))}
    return run(folder, config(terms), data=splits)


def infinite_labels(folder):
    x = points()[0]
    return from_arrays(train=(x, np.where(x[:, 0] > 0, np.inf, x[:, 0])), test=(x, x[:, 0]))


def steep(steps):
    made = config(steps=steps)
    made.train.optimizer.learning_rate = 1e30
    return lambda folder: run(folder, made, teacher=MLP(16), teacher_variables=variables(MLP(16), None))


def negative_root(student, teacher):
    return jnp.sqrt(-1 - (student - teacher) ** 2).sum(-1)


ROWS = [
    Mistake(
        "teacher_variables with NaN",
        "teacher_variables: 1 of 4 arrays hold NaN or infinity: 0/head/kernel",
        handed(MLP(16)),
    ),
    Mistake("teacher_variables with infinity", "teacher_variables: 1 of 4 arrays", handed(MLP(16), bad=np.inf)),
    Mistake("a teacher's checkpoint with NaN", "teacher: 1 of 4 arrays hold NaN or infinity", from_export),
    Mistake(
        "a student that starts from an export with NaN",
        "config.student.initial: 1 of 4 arrays hold NaN or infinity",
        from_start,
    ),
    Mistake(
        "a teacher in float16 that needs larger numbers",
        "teacher in float16: 1 of 4 arrays hold NaN or infinity…config.teacher.dtype has no room",
        handed(MLP(16), config(teacher__dtype="float16"), bad=1e6),
    ),
    Mistake(
        "a teacher that takes logarithms of negative inputs",
        "The teacher answers with NaN on the validation split",
        silent,
    ),
    Mistake(
        "a hint from a teacher's feature that overflows",
        "'hint' became nan or infinite at step 1…The teacher, which is frozen, answered with NaN or infinity in 11 of "
        "16 examples of that batch",
        endless,
        when="training",
    ),
    Mistake("NaN in an example", "1 of 120 features hold values that are not finite…number 7", spoiled(7, np.nan)),
    Mistake("infinity in an example", "the first is number 3", spoiled(3, -np.inf)),
    Mistake(
        "NaN in a further array that a term reads",
        "The data hold NaN or infinity in 16 of 16 examples of that batch: batch.soft",
        field_of_nan,
        when="training",
    ),
    Mistake("infinite labels", "labels are numbers, or nan for none, and some are infinite", infinite_labels),
    Mistake("a std of 0", "std is above 0", spoiled(0, 0.0, mean=(0.0,) * 6, std=(0.0,) * 6)),
    Mistake("a mean of NaN", "mean and std are finite", spoiled(0, 0.0, mean=(np.nan,) * 6, std=(1.0,) * 6)),
    Mistake(
        "a learning rate of 1e30",
        "became nan or infinite at step 2…Common causes: the learning rate",
        steep(3),
        when="training",
    ),
    Mistake(
        "a learning rate of 1e30 in the very last step",
        "of student on the validation split became nan or infinite at step 1",
        steep(1),
        when="training",
    ),
    Mistake(
        "a loss of one's own that takes the root of numbers below 0",
        "'mine' became nan or infinite at step 1",
        lambda folder: run(
            folder,
            config({"mine": term(f"{__name__}:negative_root", ("student.logits",), ("teacher.logits",))}),
            teacher_variables=variables(MLP(16), None),
        ),
        when="training",
    ),
]


@each(ROWS)
def test_nan(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
