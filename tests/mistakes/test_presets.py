"""What a user gets wrong with published methods, their connectors and recipes."""

from mistakes import Mistake, check, each
from small_config import get_config

import kd_jax
from configs import cifar100_pairs
from kd_jax.config import compose


def run(folder, **changes):
    config = get_config()
    config.update_from_flattened_dict(changes)
    return kd_jax.run(config, folder)


def hint(**fields):
    paths = {"inputs": ("student.features:embedding",), "targets": ("teacher.features:embedding",)}
    connector = {"name": "models.connectors.auto", "kwargs": {}}
    return {"fn": "losses.feature.feature_hint_loss", **paths, "connector": connector, **fields}


def with_term(folder, **fields):
    config = get_config()
    config.terms = {"hint": hint(**fields)}
    return kd_jax.run(config, folder)


AUTO = "models.connectors.auto"
ROWS = [
    Mistake(
        "a second target on a term whose connector takes one",
        "Term 'hint': its connector gets the shapes of inputs and targets (student.features:embedding, "
        "teacher.features:embedding, teacher.logits): auto() takes 2 positional arguments but 3 were given",
        lambda folder: with_term(folder, targets=("teacher.features:embedding", "teacher.logits")),
    ),
    Mistake(
        "first weights of a connector that the term has not",
        "terms.hint.connector.initial='first_weights:constant', and the term has no connector: connector.name is ''",
        lambda folder: with_term(
            folder,
            connector={"name": "", "kwargs": {}, "initial": {"name": "first_weights:constant", "kwargs": {}}},
        ),
    ),
    Mistake(
        "first weights of another connector",
        "Role 'hint/connector' cannot take …: its first weights are of another network:",
        lambda folder: with_term(
            folder,
            connector={"name": AUTO, "kwargs": {}, "initial": {"name": "first_weights:of_another", "kwargs": {}}},
        ),
    ),
    Mistake(
        "a teacher's mode that there is not",
        "teacher.mode is 'eval' or 'train', not 'training'",
        lambda folder: run(folder, **{"teacher.mode": "training"}),
    ),
    Mistake(
        "a cache of a teacher in training mode",
        "config.teacher.mode='train': its answers depend on the batch, and config.teacher.cache.directory is set",
        lambda folder: run(folder, **{"teacher.mode": "train", "teacher.cache.directory": "auto"}),
    ),
    Mistake(
        "repeated augmentation of labelled and unlabelled examples",
        "train.repeats=3: some examples of digits have a label and others none",
        lambda folder: run(folder, **{"train.repeats": 3}),
    ),
    Mistake(
        "repeated augmentation with a cache",
        "config.train.repeats=3: a cache counts the views of an example one a batch",
        lambda folder: run(folder, **{"train.repeats": 3, "data.labels": 0, "teacher.cache.directory": "auto"}),
    ),
    Mistake(
        "a published method on a pair that it is not defined for",
        "fsp needs stages of equal widths, which ResNet50-vgg8 has not. It has: wrn40-2-wrn16-2",
        lambda folder: cifar100_pairs.get_config("ResNet50-vgg8,fsp"),
        "command",
    ),
    Mistake(
        "an option that a published method has not",
        "'semckd' takes no argument 'temperature'. There is: stages, weight.",
        lambda folder: compose("semckd", semckd={"temperature": 2.0}),
        "command",
    ),
]


@each(ROWS)
def test_published_methods(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
