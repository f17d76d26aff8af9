"""Losses that are none: what they return is no float value an example that training can change."""

import jax
import jax.numpy as jnp
from mistakes import MLP, Mistake, check, config, each, run

from kd_jax.config.terms import supervised, term

ROWS_OF_A_BATCH = "a loss returns one value an example"
LOSSES = {
    "drops_a_row": lambda s, t: ((s - t) ** 2).sum(-1)[:-1],
    "one_a_class": lambda s, t: ((s - t) ** 2).mean(0),
    "whole_mean": lambda s, t: ((s - t) ** 2).mean(),
    "one_number": lambda s, t: ((s - t) ** 2).mean(keepdims=True)[0],
    "integers": lambda s, t: (jnp.argmax(s, -1) != jnp.argmax(t, -1)).astype(jnp.int32),
    "hits": lambda s, t: jnp.argmax(s, -1) == jnp.argmax(t, -1),
    "nothing": lambda s, t: None,
    "a_pair": lambda s, t: (((s - t) ** 2).mean(-1), 1.0),
    "error_rate": lambda s, t: (jnp.argmax(s, -1) != jnp.argmax(t, -1)).astype(jnp.float32),
    "of_the_teacher": lambda s, t: (t**2).mean(-1),
    "stopped": lambda s, t: ((jax.lax.stop_gradient(s) - t) ** 2).mean(-1),
    "rounded": lambda s, t: (jnp.round(s).astype(jnp.int32) * t).mean(-1),
    "looped": lambda s, t: jax.lax.while_loop(lambda x: x.sum() > 1e9, lambda x: x * 0.5, s).mean(-1),
    "transposed": lambda s, t: ((s - t) ** 2).T,
}
globals().update(LOSSES)
for _name, _fn in LOSSES.items():
    _fn.__name__ = _name


def trained_by(loss, inputs=("student.logits",), targets=("teacher.logits",), **fields):
    """What to do in a row: a run whose term `mine` is this loss."""
    terms = {**supervised(), "mine": term(f"{__name__}:{loss}", inputs, targets)}
    return lambda folder: run(folder, config(terms, **fields))


def as_many_features_as_examples(loss):
    """MLP has a tap of width 8."""
    terms = {"mine": term(f"{__name__}:{loss}", ("student.features:embedding",), ("teacher.features:embedding",))}
    return lambda folder: run(folder, config(terms, train__batch_size=8), teacher=MLP())


def other_way_round(folder):
    terms = {"kd": term("losses.response.kd_loss", ("teacher.logits",), ("student.logits",))}
    return run(folder, config(terms))


ROWS = [
    Mistake("a loss that drops a row of the batch", f"'mine': {ROWS_OF_A_BATCH}", trained_by("drops_a_row")),
    Mistake("a loss with one value a class", "returned [4] for inputs of [16, 4]", trained_by("one_a_class")),
    Mistake(
        "a loss with one value a feature, with as many features as examples",
        "one_a_class returned [8] for inputs of [8, 8]",
        as_many_features_as_examples("one_a_class"),
    ),
    Mistake(
        "a loss that exchanges batch and features, with as many of both",
        "transposed returned [8, 8]",
        as_many_features_as_examples("transposed"),
    ),
    Mistake("a loss that is the mean over the batch", "whole_mean returned a scalar", trained_by("whole_mean")),
    Mistake("a loss of one number", "one_number returned [1]", trained_by("one_number")),
    Mistake("a loss of integers", "returns float values, integers returned int32[16]", trained_by("integers")),
    Mistake("a loss of truth values", "returns float values, hits returned bool[16]", trained_by("hits")),
    Mistake("a loss that returns nothing", "nothing returned NoneType", trained_by("nothing")),
    Mistake("a loss that returns a pair", "a_pair returned tuple", trained_by("a_pair")),
    Mistake("an error rate as a loss", "error_rate has no gradient", trained_by("error_rate")),
    Mistake("a loss of the teacher's answers alone", "of_the_teacher has no gradient", trained_by("of_the_teacher")),
    Mistake("a loss behind a stop_gradient", "stopped has no gradient", trained_by("stopped")),
    Mistake("a loss of rounded answers", "rounded has no gradient", trained_by("rounded")),
    Mistake("a loss with a while loop", "looped cannot be differentiated", trained_by("looped")),
    Mistake("inputs and targets of a loss exchanged", "no input of teacher.logits comes from", other_way_round),
]


@each(ROWS)
def test_wrong_losses(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
